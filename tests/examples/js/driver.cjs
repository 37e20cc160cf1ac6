// Drives Chromium: a page, told what to do by lines of JSON on standard input, each answered by one on standard output.
// argv[2] is the browser. Ends with its input, and with it the browser.

const readline = require("node:readline");
const { chromium } = require("playwright-core");

const quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const offline = ["--disable-component-update", "--disable-sync"];

async function main() {
  const browser = await chromium.launch({ executablePath: process.argv[2], args: [...quiet, ...offline] });
  const page = await browser.newPage();
  const complaints = [];
  const hosts = new Set();
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("request", (request) => request.url().startsWith("http") && hosts.add(new URL(request.url()).host));

  const deeds = {
    open: ({ url }) => page.goto(url),
    reload: () => page.reload(),
    choose: ({ at, files }) => page.setInputFiles(at, files),
    click: ({ at }) => page.click(at, { timeout: 30000 }),
    // Until there are so many of them.
    wait: ({ at, count }) => page.locator(at).nth(count - 1).waitFor({ state: "attached", timeout: 40000 }),
    read: ({ at }) => page.textContent(at),
    links: ({ at }) => page.locator(at).evaluateAll((links) => links.map((link) => link.href)),
    complaints: () => complaints,
    hosts: () => [...hosts],
  };

  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { deed, ...words } = JSON.parse(line);
    let answer;
    try {
      const value = await deeds[deed](words);
      answer = { value: typeof value === "object" && !Array.isArray(value) ? null : value };
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  await browser.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
