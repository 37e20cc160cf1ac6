// The upload page, as its users meet it. What has to happen in the middle of an upload happens while its line is held (see
// conftest.py): `job.ask("held")` waits until it stands still, and it does until `job.ask("release")`, or until the page
// leaves the connection.

/** Open the page in a browser without a file picker of its own, as Firefox and Safari are: it cannot reopen files. */
async function visit(context, { home, watch }, { picker = false } = {}) {
  const tab = context.pages()[0] ?? (await context.newPage());
  const seen = watch(tab);
  // A first listener has Chromium hand choosers over to us, and nobody is told when it does: so it stays from here on,
  // long before anything is pressed. Else a chooser may open that nobody sees.
  tab.on("filechooser", () => {});
  if (!picker) await tab.addInitScript(() => delete window.showOpenFilePicker);
  await tab.goto(home);
  await ready(tab);
  await tab.bringToFront();
  await drawn(tab);
  return { tab, seen };
}

const ready = (tab) => tab.waitForSelector("html[data-ready]");
/** Chromium drops keys and clicks that come before a page's first picture. */
const drawn = (tab) =>
  tab.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve()))));
async function reload(tab) {
  await tab.reload();
  await ready(tab);
  await drawn(tab);
}
const become = (tab, state, count = 1) =>
  tab.waitForFunction(([state, count]) => document.querySelectorAll(`.upload[data-state="${state}"]`).length === count, [
    state,
    count,
  ]);
/** Wait until a part of the file has gone. */
const past = (tab, share) =>
  tab.waitForFunction((share) => {
    const bar = document.querySelector(".upload progress");
    return bar && bar.value / bar.max > share;
  }, share);
const state = (tab) => tab.locator(".upload .state").first().innerText();
const press = (tab, name) => tab.locator(".upload .actions").getByText(name, { exact: true }).first().click();
const links = (tab) =>
  tab.locator(".upload").evaluateAll((rows) =>
    rows.map((row) => ({ name: row.querySelector("bdi").textContent, url: row.querySelector(".open").href })),
  );

export async function finish(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  await tab.setInputFiles(job.folder ? "#folder" : "#files", job.files);
  await become(tab, "finished", job.count ?? job.files.length);
  const markup = await tab.locator(".upload :is(img, script, b)").count();
  return {
    links: await links(tab),
    errors: seen.errors,
    origins: [...seen.origins],
    requests: seen.requests,
    sum: await tab.locator("#sum").innerText(),
    markup,
  };
}

export async function drop(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  await tab.evaluate(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(["dropped"], "dropped.txt", { type: "text/plain" }));
    for (const kind of ["dragenter", "dragover", "drop"]) {
      document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
    }
  });
  await become(tab, "finished");
  return { links: await links(tab), errors: seen.errors };
}

export async function pause(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  await tab.setInputFiles("#files", job.files);
  await past(tab, 0.2);
  await job.ask("held");
  await press(tab, "Pause");
  await become(tab, "paused");
  const paused = await state(tab);
  const before = seen.requests.length;
  await job.ask("hung_up");
  await job.ask("release");
  await press(tab, "Resume");
  await become(tab, "finished");
  return { paused, links: await links(tab), errors: seen.errors, after: seen.requests.slice(before) };
}

/** Reload, then close the browser: the file has to be chosen again, and only that file will do. */
export async function again(job) {
  let context = await job.open(job.profile);
  let { tab, seen } = await visit(context, job);
  await tab.setInputFiles("#files", job.files);
  await past(tab, 0.2);
  await job.ask("held");
  await reload(tab);
  await tab.waitForFunction(() => /[1-9]\d? % is on the server/.test(document.querySelector(".upload .state")?.textContent));
  await tab.setInputFiles("#again", []); // nobody asked for it yet: nothing happens
  let chooser = tab.waitForEvent("filechooser");
  await press(tab, "Choose it again");
  await (await chooser).setFiles(job.other);
  await tab.waitForSelector("#notice:not([hidden])");
  const refused = await tab.locator("#notice").innerText();
  chooser = tab.waitForEvent("filechooser");
  await press(tab, "Choose it again");
  await (await chooser).setFiles(job.files);
  await past(tab, 0.5);
  await press(tab, "Pause");
  await become(tab, "paused");
  await context.close();

  context = await job.open(job.profile);
  ({ tab, seen } = await visit(context, job));
  await become(tab, "absent");
  await tab.setInputFiles("#files", job.files); // it is known, whichever way it comes
  await become(tab, "finished");
  return { refused, links: await links(tab), errors: seen.errors, requests: seen.requests };
}

/** A browser that can reopen files goes on by itself. The file comes from the page's own file system: a real handle. */
export async function reopened(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job, { picker: true });
  await tab.evaluate(async (size) => {
    const root = await navigator.storage.getDirectory();
    const handle = await root.getFileHandle("reopened.bin", { create: true });
    const stream = await handle.createWritable();
    const piece = new Uint8Array(1 << 20).map((_, n) => n % 251);
    for (let written = 0; written < size; written += piece.length) await stream.write(piece);
    await stream.close();
    window.showOpenFilePicker = async () => [handle];
  }, job.size);
  await tab.click("#choose");
  await past(tab, 0.2);
  await job.ask("held");
  await tab.reload();
  await become(tab, "running");
  await job.ask("release");
  await become(tab, "finished");
  return { links: await links(tab), errors: seen.errors, requests: seen.requests };
}

export async function cancel(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  await tab.setInputFiles("#files", job.files);
  await past(tab, 0.2);
  await job.ask("held");
  await press(tab, "Cancel");
  await tab.click("#keep");
  const kept = await tab.locator(".upload").count();
  await press(tab, "Cancel");
  const deleted = tab.waitForResponse((answer) => answer.request().method() === "DELETE");
  await tab.click("#do-cancel");
  const status = (await deleted).status();
  const left = await tab.locator(".upload").count();
  const focus = await tab.evaluate(() => document.activeElement.id);
  await reload(tab);
  return { kept, status, left, focus, after: await tab.locator(".upload").count(), errors: seen.errors };
}

/** The server goes away and comes back: nobody presses anything. */
export async function restart(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  await tab.setInputFiles("#files", job.files);
  await past(tab, 0.2);
  await job.ask("held");
  await job.ask("stop");
  await become(tab, "waiting");
  const waiting = await state(tab);
  await job.ask("start");
  await job.ask("release");
  await become(tab, "finished");
  return { waiting, links: await links(tab), errors: seen.errors };
}

/** What the server refuses, and what the page says. `answer` stands in for the server's, once, to `method`. */
export async function refused(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  if (job.answer) {
    await tab.route("**/files**", (route) => {
      if (route.request().method() !== job.method) return route.fallback();
      return route.fulfill(job.answer);
    });
  }
  await tab.setInputFiles("#files", job.files);
  await become(tab, "failed");
  const said = await state(tab);
  const heard = await tab.locator("#said").innerText();
  if (!job.answer) return { said, heard, errors: seen.errors, requests: seen.requests };
  await tab.unroute("**/files**");
  await press(tab, "Try again");
  await become(tab, "finished");
  return { said, heard, links: await links(tab), errors: seen.errors };
}

/** Its time was over while the page was closed. */
export async function expired(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  await tab.setInputFiles("#files", job.files);
  await past(tab, 0.2);
  await job.ask("held");
  await tab.goto("about:blank");
  await job.ask("expire");
  await tab.goto(job.home);
  await become(tab, "failed");
  await drawn(tab);
  const said = await state(tab);
  const chooser = tab.waitForEvent("filechooser");
  await press(tab, "Try again");
  await (await chooser).setFiles(job.files);
  await become(tab, "finished");
  return { said, links: await links(tab), errors: seen.errors };
}

/** Two tabs: the second one keeps off, and knows when the first is done. */
export async function tabs(job) {
  const context = await job.open(job.profile);
  const { tab, seen } = await visit(context, job);
  await tab.setInputFiles("#files", job.files);
  await past(tab, 0.1);
  await job.ask("held");
  const second = await context.newPage();
  await second.goto(job.home);
  await become(second, "elsewhere");
  const said = await state(second);
  await job.ask("release");
  await become(tab, "finished");
  await become(second, "elsewhere", 0);
  return { said, links: await links(tab), errors: seen.errors, requests: seen.requests };
}

export async function keyboard(job) {
  const { tab, seen } = await visit(await job.open(job.profile), job);
  await tab.keyboard.press("Tab");
  await tab.waitForFunction(() => document.activeElement !== document.body);
  const first = await tab.evaluate(() => document.activeElement.id);
  const chooser = tab.waitForEvent("filechooser");
  await tab.keyboard.press("Enter");
  await (await chooser).setFiles(job.files);
  await past(tab, 0.1);
  await job.ask("held");
  await tab.keyboard.press("Tab");
  await tab.keyboard.press("Tab"); // past the folder button
  const held = () => tab.evaluate(() => document.activeElement.classList.item(document.activeElement.classList.length - 1));
  const path = [await held()];
  await tab.keyboard.press("Enter");
  await become(tab, "paused");
  path.push(await held());
  await tab.keyboard.press("Tab");
  path.push(await held());
  await tab.keyboard.press("Enter");
  await tab.waitForSelector("#sure[open]");
  await tab.keyboard.press("Escape");
  path.push(await held());
  await job.ask("release");
  await tab.keyboard.press("Shift+Tab");
  await tab.keyboard.press("Enter");
  await become(tab, "finished");
  path.push(await held());
  return { first, path, name: await tab.locator(".upload .open").getAttribute("aria-labelledby"), errors: seen.errors };
}

/** Every state in which the page can be, looked at by axe-core, and as a picture if a folder is given. */
export async function looks(job) {
  const context = await job.open(job.profile, job.media);
  const { tab, seen } = await visit(context, job);
  const axe = job.require("axe-core").source;
  const found = [];
  const look = async (name) => {
    // The page's policy lets no script in, so it comes through the debugger.
    await tab.evaluate(axe);
    const { violations } = await tab.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const { id, nodes } of violations) found.push({ name, id, nodes: nodes.map(({ html }) => html) });
    if (job.pictures) await tab.screenshot({ path: `${job.pictures}/${job.label}-${name}.png`, fullPage: true });
  };
  await look("empty");
  await tab.setInputFiles("#files", job.big);
  await past(tab, 0.2);
  await job.ask("held");
  await look("running");
  await press(tab, "Pause");
  await become(tab, "paused");
  await look("paused");
  await press(tab, "Cancel");
  await look("dialog");
  await tab.click("#keep");
  await tab.setInputFiles("#files", job.files);
  await become(tab, "finished", job.files.length);
  await tab.route("**/files**", (route) =>
    route.request().method() === "POST" ? route.fulfill({ status: 507 }) : route.fallback(),
  );
  await tab.setInputFiles("#files", job.failing);
  await become(tab, "failed");
  await look("many");
  await tab.reload();
  await become(tab, "absent");
  await tab.waitForFunction(() => /[1-9]\d? % is on/.test(document.querySelector(".upload .state")?.textContent));
  await look("absent");
  const wide = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  return { found, wide, errors: seen.errors };
}

/** A gibibyte, say: two restarts of the server and a reload. */
export async function hardships(job) {
  const context = await job.open(job.profile);
  context.setDefaultTimeout(600_000);
  const { tab, seen } = await visit(context, job);
  await job.throttle(tab, job.speed);
  const began = Date.now();
  await tab.setInputFiles("#files", job.files);
  for (const [share, what] of [[0.1, "restart"], [0.25, "reload"], [0.4, "restart"]]) {
    await past(tab, share);
    await job.throttle(tab, 1024); // the rest waits until this is done, however long it takes
    if (what === "restart") {
      await job.ask("restart");
      await job.throttle(tab, job.speed);
      continue;
    }
    await tab.reload();
    await become(tab, "absent");
    await job.throttle(tab, job.speed);
    await tab.setInputFiles("#files", job.files);
  }
  await become(tab, "finished");
  return { seconds: (Date.now() - began) / 1000, links: await links(tab), errors: seen.errors, requests: seen.requests };
}
