// Runs one scenario in Chromium: node run.mjs '{"scenario": "page.finish", …}'. Lines of JSON on standard output:
// {"ask": NAME} waits for a line on standard input, {"result": …} is the last.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

import * as foreign from "./foreign.mjs";
import * as page from "./page.mjs";

const job = JSON.parse(process.argv[2]);
const require = createRequire(`${process.env.PACKAGES}/`);
const { chromium } = require("playwright-core");

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Have something done outside, and go on when it is. */
async function ask(name, facts = {}) {
  tell({ ask: name, ...facts });
  await lines.next();
}

/** Milliseconds after which something counts as hung, on a machine that may be busy. */
const PATIENCE = 240_000;
const options = { executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] };
const closing = [];
const contexts = [];

/** A browser whose profile lasts, in a folder: what a user has. `media` is `colorScheme` and the like. */
async function open(profile, media = {}) {
  const context = await chromium.launchPersistentContext(profile, { ...options, timeout: PATIENCE, ...media });
  context.setDefaultTimeout(PATIENCE);
  contexts.push(context);
  closing.push(() => context.close());
  return context;
}

/** Bytes a second that uploads of a tab may take. */
async function throttle(tab, speed) {
  const devtools = await tab.context().newCDPSession(tab);
  await devtools.send("Network.enable");
  await devtools.send("Network.emulateNetworkConditions", {
    offline: false,
    latency: 0,
    downloadThroughput: -1,
    uploadThroughput: speed,
  });
}

/** Note what must not happen in any scenario, and the requests that reach the server. */
function watch(tab) {
  const seen = { errors: [], requests: [], origins: new Set() };
  tab.on("pageerror", (error) => seen.errors.push(error.stack));
  tab.on("console", (message) => {
    if (/Content.Security.Policy|Trusted|violates/i.test(message.text())) seen.errors.push(message.text());
  });
  tab.on("request", (request) => {
    const url = new URL(request.url());
    if (/^https?:/.test(url.protocol)) seen.origins.add(url.origin);
    const headers = request.headers();
    if (headers["tus-resumable"]) {
      seen.requests.push({ method: request.method(), path: url.pathname, offset: headers["upload-offset"] ?? null, concat: headers["upload-concat"] ?? null });
    }
  });
  return seen;
}

/** A page of another origin, with the scripts that it names. */
async function serve(files) {
  const server = createServer((request, response) => {
    const name = new URL(request.url, "http://x").pathname.slice(1);
    const found = name === "" ? files.page : files[name];
    const type = name === "" ? "text/html; charset=utf-8" : name.endsWith(".css") ? "text/css" : "text/javascript";
    response.writeHead(found === undefined ? 404 : 200, { "Content-Type": type });
    response.end(found ?? "");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push(() => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))));
  return `http://localhost:${server.address().port}/`; // another host name too, as the server is 127.0.0.1
}

let code = 0;
try {
  const [module, name] = job.scenario.split(".");
  const scenario = { page, foreign }[module][name];
  tell({ result: (await scenario({ ...job, ask, open, throttle, watch, serve, require })) ?? null });
} catch (error) {
  process.stderr.write(`${error.stack}\n`);
  for (const tab of contexts.flatMap((context) => context.pages())) {
    process.stderr.write(`${tab.url()} shows:\n${await tab.locator("body").innerText({ timeout: 1000 }).catch(String)}\n`);
  }
  code = 1;
}
for (const close of closing.reverse()) await close().catch(() => {});
process.exit(code);
