// Clients of other people, on a page of another origin than the server's.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";

const HTML = (script) => `<!doctype html><meta charset="utf-8"><title>Foreign</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css">
<input type="file" id="file"><div id="uploads"></div><script src="${script}"></script>`;

async function visit(job, files) {
  const context = await job.open(job.profile);
  const tab = context.pages()[0];
  const seen = job.watch(tab);
  await tab.goto(await job.serve(files));
  return { tab, seen };
}

// tus-js-client -------------------------------------------------------------------------------------------------------

const tusJs = (job) => ({
  page: HTML("tus.js"),
  "tus.js": readFileSync(join(dirname(job.require.resolve("tus-js-client/package.json")), "dist", "tus.js"), "utf-8"),
  "style.css": "",
});

/** Make `window.upload` of the chosen file; what becomes of it is in `window.told`. */
const prepare = (tab, job) =>
  tab.evaluate(
    async ({ options, stream }) => {
      const [file] = document.getElementById("file").files;
      window.told = { sent: 0, url: null, error: null };
      const source = stream ? file.stream().getReader() : file;
      window.upload = new tus.Upload(source, {
        retryDelays: Array(100).fill(100),
        ...options,
        onProgress: (sent) => (window.told.sent = sent),
        onSuccess: () => (window.told.url = window.upload.url),
        onError: (error) => (window.told.error = String(error)),
      });
      const [previous] = await window.upload.findPreviousUploads();
      if (previous) window.upload.resumeFromPreviousUpload(previous);
      window.upload.start();
    },
    { options: job.options, stream: job.stream ?? false },
  );

async function ended(tab) {
  await tab.waitForFunction(() => window.told.url || window.told.error);
  return tab.evaluate(() => window.told);
}

export async function tusUpload(job) {
  const { tab, seen } = await visit(job, tusJs(job));
  await tab.setInputFiles("#file", job.file);
  await prepare(tab, job);
  return { ...(await ended(tab)), requests: seen.requests };
}

/** `abort`, `reload` or `terminate` when a part has gone; then on with it, but for the last. */
export async function tusCut(job) {
  const { tab, seen } = await visit(job, tusJs(job));
  await tab.setInputFiles("#file", job.file);
  await prepare(tab, job);
  await job.ask("held");
  if (job.how === "terminate") {
    const deleted = tab.waitForResponse((answer) => answer.request().method() === "DELETE");
    const url = await tab.evaluate(async () => (await window.upload.abort(true), window.upload.url));
    return { status: (await deleted).status(), url };
  }
  const before = seen.requests.length;
  if (job.how === "abort") {
    await tab.evaluate(() => window.upload.abort());
    await job.ask("hung_up");
    await job.ask("release");
    await tab.evaluate(() => window.upload.start());
  } else {
    await tab.reload();
    await job.ask("hung_up");
    await job.ask("release");
    await tab.setInputFiles("#file", job.file);
    await prepare(tab, job);
  }
  return { ...(await ended(tab)), requests: seen.requests.slice(before) };
}

/** Download a finished upload, and send its file again to the same URL; what the browser keeps must not stand in the way. */
export async function tusAgainAfterDownload(job) {
  const { tab, seen } = await visit(job, tusJs(job));
  const got = await tab.evaluate(async (url) => (await (await fetch(url)).arrayBuffer()).byteLength, job.options.uploadUrl);
  await tab.setInputFiles("#file", job.file);
  await prepare(tab, job);
  return { ...(await ended(tab)), got, requests: seen.requests };
}

// Uppy ----------------------------------------------------------------------------------------------------------------

const UPPY = `
import Uppy from "@uppy/core";
import Dashboard from "@uppy/dashboard";
import Tus from "@uppy/tus";
window.begin = (options) => {
  window.told = null;
  window.uppy = new Uppy()
    .use(Dashboard, { inline: true, target: "#uploads", proudlyDisplayPoweredByUppy: false })
    .use(Tus, { retryDelays: Array(100).fill(100), ...options })
    .on("complete", (result) => (window.told = {
      urls: result.successful.map((file) => file.uploadURL),
      failed: result.failed.map((file) => file.error),
    }));
};`;

/** The script that a bundler makes of what a user of Uppy writes. */
function uppy(job) {
  const built = job.require("esbuild").buildSync({
    stdin: { contents: UPPY, resolveDir: process.env.PACKAGES },
    bundle: true,
    format: "iife",
    write: false,
    logLevel: "error",
  });
  const style = join(dirname(job.require.resolve("@uppy/dashboard/package.json")), "dist", "style.min.css");
  return { page: HTML("uppy.js"), "uppy.js": built.outputFiles[0].text, "style.css": readFileSync(style, "utf-8") };
}

const choose = (tab, job) => tab.locator("#uploads input[type=file]").first().setInputFiles(job.files);
const start = (tab) => tab.locator(".uppy-StatusBar-actionBtn--upload").click();
const complete = async (tab) => (await tab.waitForFunction(() => window.told)).jsonValue();
const past = (tab, share) => tab.waitForFunction((share) => window.uppy.getState().totalProgress > share * 100, share);

export async function uppyUpload(job) {
  const { tab, seen } = await visit(job, uppy(job));
  await tab.evaluate((options) => window.begin(options), job.options);
  await choose(tab, job);
  await start(tab);
  return { ...(await complete(tab)), requests: seen.requests };
}

/** `pause`, `reload` or `cancel` with the buttons of the Dashboard, when a part has gone. */
export async function uppyCut(job) {
  const { tab, seen } = await visit(job, uppy(job));
  await tab.evaluate((options) => window.begin(options), job.options);
  await choose(tab, job);
  await start(tab);
  await past(tab, 0.2);
  await job.ask("held");
  if (job.how === "cancel") {
    const deleted = tab.waitForResponse((answer) => answer.request().method() === "DELETE");
    await tab.locator('#uploads [data-uppy-super-focusable][aria-label="Cancel"]').click();
    return { status: (await deleted).status() };
  }
  const before = seen.requests.length;
  if (job.how === "pause") {
    await tab.locator('#uploads .uppy-StatusBar [aria-label="Pause"]').click();
    await tab.waitForSelector('#uploads .uppy-StatusBar [aria-label="Resume"]');
    await job.ask("hung_up");
    await job.ask("release");
    await tab.locator('#uploads .uppy-StatusBar [aria-label="Resume"]').click();
  } else {
    await tab.reload();
    await job.ask("hung_up");
    await job.ask("release");
    await tab.evaluate((options) => window.begin(options), job.options);
    await choose(tab, job);
    await start(tab);
  }
  return { ...(await complete(tab)), requests: seen.requests.slice(before) };
}
