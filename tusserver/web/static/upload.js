/** The upload page: a row for each file, and what its buttons do. Text only ever goes into textContent. */

import { canReopen, ofDrop, ofHandle, ofInput, ofPicker } from "./files.js";
import { forget, keep, keyOf, recall } from "./resume-db.js";
import { Server, Transfer, Trouble } from "./transfer.js";
import { percent, size, span, trouble, until } from "./format.js";

const $ = (id) => document.getElementById(id);
const setting = (name) => document.querySelector(`meta[name="tus-${name}"]`).content;

const AT_ONCE = 3;
const PAUSED = new DOMException("paused", "AbortError");

const server = new Server(setting("endpoint"));
const links = setting("download") === "yes";
const uploads = new Map();
let chooser = null; // the row that asked for its file again

/** Which buttons a row shows in which state. */
const BUTTONS = {
  queued: ["pause", "cancel"],
  running: ["pause", "cancel"],
  waiting: ["retry", "pause", "cancel"],
  paused: ["go", "cancel"],
  absent: ["pick", "cancel"],
  elsewhere: [],
  failed: ["retry", "cancel"],
  finished: ["open", "copy", "dismiss"],
};

/** One file, from the moment it was chosen; after a reload from what was remembered. */
class Upload {
  constructor(record, file = null) {
    this.record = record;
    this.file = file;
    this.sent = 0;
    this.speed = 0;
    this.error = null;
    this.state = file ? "queued" : "absent";
    this.row = $("row").content.firstElementChild.cloneNode(true);
    this.#furnish();
    this.paint();
  }

  #furnish() {
    const { row } = this;
    const id = `upload-${(Upload.count = (Upload.count ?? 0) + 1)}`;
    const name = row.querySelector(".name bdi");
    name.textContent = this.record.path;
    name.id = `${id}-name`;
    row.querySelector(".state").id = `${id}-state`;
    const bar = row.querySelector("progress");
    bar.setAttribute("aria-labelledby", name.id);
    bar.setAttribute("aria-describedby", `${id}-state`);
    for (const control of row.querySelectorAll("button, a")) {
      control.id = `${id}-${control.classList.item(control.classList.length - 1)}`;
      control.setAttribute("aria-labelledby", `${control.id} ${name.id}`);
    }
    const press = (button, work) => row.querySelector(`.${button}`).addEventListener("click", () => work.call(this));
    press("pause", this.pause);
    press("go", this.resume);
    press("retry", this.retry);
    press("pick", this.pick);
    press("cancel", this.cancel);
    press("dismiss", this.leave);
    press("copy", this.copy);
  }

  get title() {
    return this.record.path;
  }

  get active() {
    return this.state === "running" || this.state === "waiting";
  }

  become(state, error = null) {
    const held = this.row.contains(document.activeElement);
    this.state = state;
    this.error = error;
    this.paint();
    // The button that was pressed may be gone: the keyboard stays in this row.
    if (held && document.activeElement === document.body) {
      this.row.querySelector(".actions :is(button, a):not([hidden])")?.focus();
    }
    if (state === "finished") say(`${this.title} is uploaded.`);
    if (state === "failed") say(`${this.title}: ${trouble(error)}`);
    if (state === "waiting") say(`${this.title} is waiting for the server.`);
    work();
  }

  paint() {
    const { row, record, state } = this;
    row.dataset.state = state;
    for (const control of row.querySelectorAll(".actions > *")) {
      const kind = control.classList.item(control.classList.length - 1);
      control.hidden = !BUTTONS[state].includes(kind) || ((kind === "open" || kind === "copy") && !links);
    }
    row.querySelector(".retry").textContent = state === "waiting" ? "Try now" : "Try again";
    row.querySelector(".pick").textContent = record.handle ? "Go on" : "Choose it again";
    const bar = row.querySelector("progress");
    bar.max = record.size || 1;
    bar.value = state === "finished" ? bar.max : this.sent;
    bar.hidden = state === "finished" || state === "elsewhere";
    if (state === "finished") row.querySelector(".open").href = record.url;
    const text = this.#words();
    const line = row.querySelector(".state");
    if (line.textContent !== text) line.textContent = text;
    sum();
  }

  #words() {
    const { record, sent } = this;
    const part = `${size(sent)} of ${size(record.size)}`;
    const kept = until(record.expires);
    switch (this.state) {
      case "queued":
        return `${size(record.size)}, waiting for its turn`;
      case "running": {
        const rest = this.speed > 0 ? (record.size - sent) / this.speed : 0;
        if (sent === record.size && sent > 0) return `${part}, the server is finishing it`;
        return rest ? `${part}, ${size(this.speed)}/s, ${span(rest)} left` : part;
      }
      case "waiting":
        return `Waiting for the ${navigator.onLine ? "server" : "network"}; it goes on by itself. ${part}`;
      case "paused":
        return ["Paused", part, kept].filter(Boolean).join(", ");
      case "absent": {
        const how = record.handle ? "Press Go on" : "Choose the file again";
        const there = `${percent(sent, record.size)} is on the server`;
        return `${how} to send the rest. ${[there, kept].filter(Boolean).join(", ")}`;
      }
      case "elsewhere":
        return "Is being uploaded in another tab";
      case "failed":
        return trouble(this.error);
      case "finished":
        return `${size(record.size)}, uploaded`;
    }
    return "";
  }

  /** Send, from wherever it is; returns when it rests again. */
  async run() {
    this.stop = new AbortController();
    this.become("running");
    try {
      await alone(this.record.key, async (free) => {
        if (!free) return this.elsewhere();
        await this.#transfer();
      });
    } catch (error) {
      await this.#failed(error);
    }
  }

  /** Another tab has it: look again when that one lets go, finished or not. */
  elsewhere() {
    this.become("elsewhere");
    navigator.locks.request(lockOf(this.record.key), async () => {
      const records = await recall(server.endpoint).catch(() => []);
      const record = records.find(({ key }) => key === this.record.key);
      if (!record) return this.leave();
      this.record = record;
      this.become(this.file ? "queued" : "absent");
      if (!this.file) this.recover();
    });
  }

  async #transfer() {
    const pace = new Pace();
    this.transfer = new Transfer(server, this.file, this.record, {
      changed: () => (this.gone ? undefined : keep(this.record).catch(() => {})),
      progress: (sent) => {
        this.sent = sent;
        this.speed = pace.at(sent);
        if (this.state === "waiting" && pace.moved) this.become("running");
        else soon(this);
      },
      waiting: (yes) => {
        if (this.state !== (yes ? "waiting" : "running")) this.become(yes ? "waiting" : "running");
        if (yes) pace.restart();
      },
    });
    await this.transfer.run(this.stop.signal);
    await forget(this.record.key);
    this.sent = this.record.size;
    this.become("finished");
  }

  async #failed(error) {
    if (this.gone) return;
    if (error === PAUSED) return this.become("paused");
    const found = error instanceof Trouble ? error : new Trouble(String(error?.message ?? error));
    if (found.status === 404 || found.status === 410) {
      await this.#fresh();
    }
    if (found.kind === "changed") {
      await this.#fresh();
      this.file = null;
    }
    this.become("failed", found);
  }

  /** Forget what is on the server: the next try begins anew. */
  async #fresh() {
    Object.assign(this.record, { parts: [], url: null, expires: null });
    this.sent = 0;
    await forget(this.record.key).catch(() => {});
  }

  pause() {
    if (this.active) this.stop.abort(PAUSED);
    else this.become("paused");
    say(`${this.title} is paused.`);
  }

  resume() {
    this.become("queued");
  }

  retry() {
    if (this.state === "waiting") this.transfer.nudge();
    else if (this.file) this.become("queued");
    else this.pick();
  }

  /** Get hold of the file again: through its handle, else from the user. */
  async pick() {
    try {
      const { handle, path } = this.record;
      if (handle && (await handle.requestPermission({ mode: "read" })) === "granted") {
        return this.adopt(await ofHandle(handle, path));
      }
    } catch {
      // moved, removed, or not allowed: the user may know where it is
    }
    chooser = this;
    if (canReopen) {
      const [found] = await ofPicker(false).catch(() => []);
      if (found) this.adopt(found);
    } else $("again").click();
  }

  /** Go on with this file, if it is the one. */
  adopt(found) {
    const { record } = this;
    if (found.file.size !== record.size || found.file.lastModified !== record.lastModified) {
      if (record.parts.length === 0) {
        this.leave();
        return add([found]);
      }
      const name = found.file.name === record.name ? "It has changed since" : "That is another file";
      const date = new Date(record.lastModified).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
      const wanted = `${record.name} had ${size(record.size)} and was of ${date}`;
      return notice(`${name}: ${wanted}. Cancel its upload to begin anew.`);
    }
    notice("");
    this.file = found.file;
    if (found.handle) record.handle = found.handle;
    this.become("queued");
  }

  async cancel() {
    if (this.sent > 0 && !(await sure(this))) return;
    const urls = this.record.parts.map((part) => part.url).filter(Boolean);
    this.leave();
    say(`${this.title} is cancelled.`);
    await server.remove(urls);
  }

  leave() {
    const next = this.row.nextElementSibling ?? this.row.previousElementSibling;
    const held = this.row.contains(document.activeElement);
    this.gone = true;
    this.stop?.abort(PAUSED);
    uploads.delete(this.record.key);
    this.row.remove();
    forget(this.record.key).catch(() => {});
    sum();
    if (held) (next?.querySelector(".actions :is(button, a):not([hidden])") ?? $("choose")).focus();
    work();
  }

  async copy() {
    const button = this.row.querySelector(".copy");
    if (await copied(this.record.url)) {
      button.textContent = "Copied";
      say("The link is copied.");
      setTimeout(() => (button.textContent = "Copy link"), 2000);
    } else notice(`This browser does not let the page copy. The link: ${this.record.url}`);
  }

  /** After a reload: ask the server how far it is, and go on at once if the browser still lets us read the file. */
  async recover() {
    try {
      const { offset, expires } = await server.progress(this.record);
      this.sent = offset;
      if (expires) this.record.expires = expires;
    } catch (error) {
      if (error.status === 404 || error.status === 410) return this.#failed(error);
      // not reachable now: the upload is kept, and going on will find out
    }
    const { handle, path } = this.record;
    try {
      if (handle && (await handle.queryPermission({ mode: "read" })) === "granted") {
        const found = await ofHandle(handle, path);
        if (found.file.size === this.record.size && found.file.lastModified === this.record.lastModified) {
          this.file = found.file;
          return this.become("queued");
        }
      }
    } catch {
      this.record.handle = null; // it is no longer where it was
    }
    this.paint();
  }
}

/** Bytes a second over the last few seconds. */
class Pace {
  #marks = [];

  restart() {
    this.#marks = [];
  }

  get moved() {
    return this.#marks.length > 1;
  }

  at(sent) {
    const now = performance.now();
    if (sent < (this.#marks.at(-1)?.sent ?? 0)) this.#marks = []; // what was on its way did not arrive
    const last = this.#marks.at(-1);
    if (!last || now - last.now > 100) this.#marks.push({ now, sent });
    while (this.#marks.length > 2 && now - this.#marks[0].now > 5000) this.#marks.shift();
    const first = this.#marks[0];
    return now - first.now > 300 ? ((sent - first.sent) / (now - first.now)) * 1000 : 0;
  }
}

const lockOf = (key) => `tusserver ${key}`;

/** Hold a file for this tab while `work(true)` lasts; `work(false)` if another tab has it. */
function alone(key, work) {
  if (!navigator.locks) return work(true); // a page without TLS: the server keeps the bytes right anyhow
  return navigator.locks.request(lockOf(key), { ifAvailable: true }, (lock) => work(lock !== null));
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** Start what may run now. */
function work() {
  let running = 0;
  for (const upload of uploads.values()) running += upload.active ? 1 : 0;
  for (const upload of uploads.values()) {
    if (running >= AT_ONCE) break;
    if (upload.state === "queued" && upload.row.isConnected) {
      running += 1;
      upload.run();
    }
  }
}

function show(upload) {
  uploads.set(upload.record.key, upload);
  $("list").append(upload.row);
  sum();
}

/** New files, or the rest of those that are known. */
function add(found) {
  if (found.length) notice("");
  for (const { file, path, handle } of found) {
    const key = keyOf(server.endpoint, file, path);
    const known = uploads.get(key);
    if (known?.state === "absent") known.adopt({ file, handle });
    else if (known && known.state !== "finished" && known.state !== "failed") continue;
    else {
      known?.leave();
      const { name, type, lastModified } = file;
      const began = Date.now();
      const facts = { key, endpoint: server.endpoint, path, name, type, size: file.size, lastModified, began, handle };
      show(new Upload({ ...facts, parts: [], url: null, expires: null }, file));
    }
  }
  if (found.length) say(found.length === 1 ? `${found[0].path} is added.` : `${found.length} files are added.`);
  work();
}

const changed = new Set();

/** Paint once a frame, however often something happens. */
function soon(upload) {
  if (changed.size === 0) {
    setTimeout(() => {
      const some = [...changed];
      changed.clear();
      for (const each of some) if (!each.gone) each.paint();
    }, 100);
  }
  changed.add(upload);
}

let summing = false;

function sum() {
  if (summing) return;
  summing = true;
  queueMicrotask(() => {
    summing = false;
    const all = [...uploads.values()];
    const count = (...states) => all.filter((upload) => states.includes(upload.state)).length;
    const done = count("finished");
    const sent = all.reduce((bytes, upload) => bytes + upload.sent, 0);
    const whole = all.reduce((bytes, upload) => bytes + upload.record.size, 0);
    const failed = count("failed");
    const parts = [`${done} of ${all.length} done`, `${size(sent)} of ${size(whole)}`];
    if (failed) parts.push(`${failed} failed`);
    $("uploads").hidden = all.length === 0;
    $("sum").textContent = parts.join(", ");
    $("pause-all").hidden = all.length < 2 || count("running", "waiting", "queued") === 0;
    $("resume-all").hidden = all.length < 2 || count("paused") === 0;
    $("clear").hidden = done === 0;
    const going = count("running", "waiting", "queued");
    document.title = going && whole ? `${percent(sent, whole)} – Upload files` : "Upload files";
  });
}

function say(text) {
  $("said").textContent = text;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

/** Ask before bytes are thrown away. */
function sure(upload) {
  const dialog = $("sure");
  $("sure-name").textContent = upload.title;
  $("sure-sent").textContent = `– ${size(upload.sent)} that the server already has will be deleted.`;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "cancel"), { once: true });
  });
}

function listen() {
  $("choose").addEventListener("click", async () => {
    if (!canReopen) return $("files").click();
    add(await ofPicker(true).catch(() => ($("files").click(), [])));
  });
  $("choose-folder").addEventListener("click", () => $("folder").click());
  $("choose-folder").hidden = !("webkitdirectory" in HTMLInputElement.prototype);
  for (const id of ["files", "folder"]) $(id).addEventListener("change", (event) => add(ofInput(event.target)));
  $("again").addEventListener("change", (event) => {
    for (const found of ofInput(event.target)) chooser?.adopt(found);
  });

  // The whole page takes what is dropped: beside the target a browser would open the file and leave.
  let depth = 0;
  const over = (inside) => $("drop").classList.toggle("over", inside);
  const files = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => files(event) && over((depth += 1) > 0));
  document.addEventListener("dragleave", (event) => files(event) && over((depth -= 1) > 0));
  document.addEventListener("dragover", (event) => files(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!files(event)) return;
    event.preventDefault();
    over((depth = 0) > 0);
    try {
      add(await ofDrop(event.dataTransfer));
    } catch (error) {
      notice(`Not all of it can be read: ${error.message}`);
    }
  });

  $("pause-all").addEventListener("click", () => {
    for (const upload of uploads.values()) if (upload.state === "queued") upload.pause();
    for (const upload of uploads.values()) if (upload.active) upload.pause();
    $("uploads-title").focus();
  });
  $("resume-all").addEventListener("click", () => {
    for (const upload of uploads.values()) if (upload.state === "paused") upload.resume();
    $("uploads-title").focus();
  });
  $("clear").addEventListener("click", () => {
    for (const upload of [...uploads.values()]) if (upload.state === "finished") upload.leave();
    $("choose").focus();
  });
  $("keep").addEventListener("click", () => $("sure").close("keep"));
  $("do-cancel").addEventListener("click", () => $("sure").close("cancel"));
  window.addEventListener("beforeunload", (event) => {
    if ([...uploads.values()].some((upload) => upload.active || upload.state === "queued")) event.preventDefault();
  });
}

async function begin() {
  listen();
  const records = await recall(server.endpoint).catch(() => []);
  const held = new Set((await navigator.locks?.query())?.held.map((lock) => lock.name));
  for (const record of records) {
    const upload = new Upload(record);
    show(upload);
    if (held.has(lockOf(record.key))) upload.elsewhere();
    else upload.recover();
  }
  document.documentElement.dataset.ready = "yes";
  try {
    const { extensions, most } = await server.offers();
    if (!extensions.has("creation")) notice(trouble({ kind: "no uploads" }));
    if (most !== Infinity) {
      $("hint").textContent = `Files of ${size(most)} at most`;
      $("hint").hidden = false;
    }
  } catch {
    // not reachable just now: uploads ask again, and wait
  }
}

begin();
