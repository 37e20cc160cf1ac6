/**
 * The tus 1.0.0 protocol in a browser: what the server offers, and one file on its way to it.
 *
 * XMLHttpRequest, because fetch does not tell how much has been sent. What passes by itself (a lost connection, a
 * restart, a lock) is waited for without end; everything else is a `Trouble`. Nothing here knows of the page.
 */

const VERSION = "1.0.0";

/** Bytes from which a file is sent in parts at the same time, where the server can join them. */
export const BIG = 256 * 1024 * 1024;
const PARTS = 3;
/** Bytes up to which a file travels with the request that creates it. */
const SMALL = 256 * 1024;
/** The least piece that is tried when a limit on the way refuses larger ones. */
const LEAST_PIECE = 64 * 1024;
const MOST_WAIT = 20_000;
/** Milliseconds without a byte after which a connection is given up. */
const SILENCE = 60_000;
/** The same, for an answer: the server may be joining parts or waiting for its disk. */
const ANSWER = 600_000;

/** A browser opens six connections to a server. Bodies take four of them, so that the rest is not kept waiting. */
const slots = { free: 4, waiting: [] };

async function withSlot(signal, work) {
  if (slots.free > 0) slots.free -= 1;
  else {
    await new Promise((resolve, reject) => {
      const go = () => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      const leave = () => {
        slots.waiting.splice(slots.waiting.indexOf(go), 1);
        reject(signal.reason);
      };
      slots.waiting.push(go);
      signal.addEventListener("abort", leave, { once: true });
    });
  }
  try {
    return await work();
  } finally {
    const next = slots.waiting.shift();
    if (next) next();
    else slots.free += 1;
  }
}

/** Why an upload stopped. `status` is 0 if nobody answered; `passing` if it is worth while to come again by itself. */
export class Trouble extends Error {
  constructor(message, { kind = "", status = 0, passing = false, ...facts } = {}) {
    super(message);
    Object.assign(this, { kind, status, passing, said: "", after: 0, ...facts });
  }
}

function unreachable() {
  return new Trouble("the server cannot be reached", { passing: true });
}

function refusal(xhr) {
  const { status } = xhr;
  const text = /^text\/plain\b/.test(xhr.getResponseHeader("Content-Type") ?? "") ? xhr.responseText : "";
  return new Trouble(`the server answered ${status}`, {
    status,
    passing: [409, 423, 429].includes(status) || (status >= 500 && status !== 501 && status !== 507),
    said: text.trim().replace(/^ERR_\w+: /, "").slice(0, 300),
    code: text.match(/^ERR_\w+/)?.[0] ?? "",
    after: Number(xhr.getResponseHeader("Retry-After")) || 0,
  });
}

/** One request. Raises a Trouble for all but 2xx, and the signal's reason if that stops it. */
function request(method, url, { headers = {}, body = null, signal, sent } = {}) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const xhr = new XMLHttpRequest();
    let timer;
    const watch = (patience) => {
      clearTimeout(timer);
      timer = setTimeout(() => xhr.abort(), patience);
    };
    const stop = () => xhr.abort();
    xhr.open(method, url);
    xhr.setRequestHeader("Tus-Resumable", VERSION);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    if (body) {
      xhr.upload.onprogress = (event) => {
        watch(SILENCE);
        sent?.(event.loaded);
      };
      xhr.upload.onload = () => watch(ANSWER);
    }
    xhr.onload = () => (xhr.status >= 200 && xhr.status < 300 ? resolve(xhr) : reject(refusal(xhr)));
    xhr.onerror = () => reject(unreachable());
    xhr.onabort = () => reject(signal?.aborted ? signal.reason : unreachable());
    xhr.onloadend = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    };
    signal?.addEventListener("abort", stop, { once: true });
    watch(body || method === "POST" ? ANSWER : SILENCE);
    if (body) watch(SILENCE);
    xhr.send(body);
  });
}

/** What a server offers. */
export class Server {
  #told;

  constructor(endpoint) {
    this.endpoint = new URL(endpoint, document.baseURI).href;
  }

  /** Its extensions and the largest upload, asked once. Raises a Trouble. */
  async offers(signal) {
    this.#told ??= await request("OPTIONS", this.endpoint, { signal }).then((answer) => ({
      extensions: new Set((answer.getResponseHeader("Tus-Extension") ?? "").split(",").map((name) => name.trim())),
      most: Number(answer.getResponseHeader("Tus-Max-Size")) || Infinity,
    }));
    return this.#told;
  }

  /** How much of an upload is there: `{ offset, expires }`. Raises a Trouble. */
  async ask(url, signal) {
    const answer = await request("HEAD", url, { signal });
    return { offset: offsetOf(answer), expires: answer.getResponseHeader("Upload-Expires") };
  }

  /** Delete what was sent, if the server lets us; else it goes when its time is over. */
  async remove(urls) {
    const { extensions } = await this.offers().catch(() => ({ extensions: new Set() }));
    if (!extensions.has("termination")) return;
    await Promise.allSettled(urls.map((url) => request("DELETE", url)));
  }

  /** What remains on the server of a record: as `ask`, over all its parts. */
  async progress(record, signal) {
    const parts = record.parts.map((part) => (part.url ? this.ask(part.url, signal) : { offset: 0 }));
    const asked = await Promise.all(parts);
    return {
      offset: asked.reduce((sum, { offset }) => sum + offset, 0),
      expires: asked.map(({ expires }) => expires).filter(Boolean).sort((a, b) => new Date(a) - new Date(b))[0],
    };
  }
}

function offsetOf(answer) {
  const offset = answer.getResponseHeader("Upload-Offset");
  if (!/^\d+$/.test(offset ?? "")) throw new Trouble("the answer has no Upload-Offset: is this a tus server?");
  return Number(offset);
}

function encoded(metadata) {
  return Object.entries(metadata)
    .filter(([, value]) => value)
    .map(([name, value]) => `${name} ${btoa(String.fromCharCode(...new TextEncoder().encode(value)))}`)
    .join(",");
}

/**
 * One file on its way. `record` is what outlives the page: `parts` (each `{ start, end, url }`) and `url`, that of the
 * finished upload. It is changed in place, and `changed()` is awaited after that.
 */
export class Transfer {
  #nudges = new Set();
  #sent;
  #signal;

  constructor(server, file, record, { changed, progress, waiting }) {
    Object.assign(this, { server, file, record, changed, progress, waiting });
  }

  /** Come again now instead of later. */
  nudge() {
    for (const nudge of this.#nudges) nudge();
  }

  /** Go on until all is sent; return the URL. Raises a Trouble, or the signal's reason. */
  async run(signal) {
    const inner = new AbortController();
    this.#signal = AbortSignal.any([signal, inner.signal]);
    const { record } = this;
    try {
      if (record.url) return record.url;
      const { extensions, most } = await this.#patiently(() => this.server.offers(this.#signal));
      if (!extensions.has("creation") && !record.parts.some((part) => part.url)) {
        throw new Trouble("", { kind: "no uploads" });
      }
      if (this.file.size > most) throw new Trouble("", { kind: "too large", limit: most });
      if (record.parts.length === 0) {
        record.parts = divided(this.file.size, extensions.has("concatenation") && this.file.size >= BIG ? PARTS : 1);
      }
      this.#sent = record.parts.map(() => 0);
      await Promise.all(record.parts.map((part, number) => this.#send(part, number, extensions)));
      if (record.parts.length === 1) record.url = record.parts[0].url;
      else await this.#join();
      await this.changed();
      return record.url;
    } finally {
      inner.abort(); // of parts at the same time: none goes on when one has failed
    }
  }

  get #metadata() {
    const { path, name, type } = this.record;
    return encoded({ filename: name, filetype: type, relativePath: path === name ? "" : path });
  }

  async #create(headers, body = null, sent = undefined) {
    const metadata = this.#metadata;
    const answer = await request("POST", this.server.endpoint, {
      headers: { ...headers, ...(metadata && { "Upload-Metadata": metadata }) },
      body,
      sent,
      signal: this.#signal,
    });
    const location = answer.getResponseHeader("Location");
    if (!location) throw new Trouble("the answer has no Location: is this a tus server?");
    const url = new URL(location, this.server.endpoint);
    if (url.origin !== new URL(this.server.endpoint).origin) {
      throw new Trouble("", { kind: "elsewhere", url: url.href });
    }
    this.record.expires = answer.getResponseHeader("Upload-Expires");
    return { url: url.href, answer };
  }

  async #send(part, number, extensions) {
    const length = part.end - part.start;
    const at = (offset) => {
      this.#sent[number] = offset;
      this.progress(this.#sent.reduce((sum, each) => sum + each, 0));
    };
    let offset = part.url ? null : 0;
    let reached = 0; // the highest offset that the server told
    let piece = Infinity;
    let broken = 0; // bodies in a row of which nothing got through
    await this.#patiently(async () => {
      if (!part.url) {
        offset = await this.#begin(part, length, extensions, at);
      } else if (offset === null) {
        const told = await this.server.ask(part.url, this.#signal);
        offset = told.offset;
        this.record.expires = told.expires ?? this.record.expires;
        // Whole bodies that never get through may meet a time limit on the way: try with less.
        broken = offset > reached ? 0 : broken + 1;
        if (broken > 3) piece = less(piece, length - offset);
      }
      at(offset);
      while (offset < length) {
        reached = Math.max(reached, offset);
        const from = offset;
        offset = null; // unknown until the answer is there
        try {
          offset = await this.#patch(part, from, Math.min(length, from + piece), at);
        } catch (error) {
          if (!(error instanceof Trouble) || error.status !== 413 || piece <= LEAST_PIECE) throw error;
          piece = less(piece, length - from);
          offset = (await this.server.ask(part.url, this.#signal)).offset;
        }
        at(offset);
      }
    }, () => reached);
  }

  /** Create a part, with its bytes if they are few. */
  async #begin(part, length, extensions, at) {
    const whole = this.record.parts.length === 1;
    const along = whole && length > 0 && length <= SMALL && extensions.has("creation-with-upload");
    const headers = { "Upload-Length": length };
    if (!whole) headers["Upload-Concat"] = "partial";
    if (along) {
      headers["Content-Type"] = "application/offset+octet-stream";
      await this.#readable(0);
    }
    const { url, answer } = await this.#create(headers, along ? this.file : null, at);
    part.url = url;
    await this.changed();
    return along ? offsetOf(answer) : 0;
  }

  async #patch(part, from, to, at) {
    await this.#readable(part.start + from);
    return withSlot(this.#signal, async () => {
      const answer = await request("PATCH", part.url, {
        headers: { "Upload-Offset": from, "Content-Type": "application/offset+octet-stream" },
        body: this.file.slice(part.start + from, part.start + to),
        sent: (bytes) => at(from + bytes),
        signal: this.#signal,
      });
      const offset = offsetOf(answer);
      if (offset <= from) throw new Trouble("no byte was taken", { passing: true });
      return offset;
    });
  }

  /** A file that changed on the disk looks like a broken connection to a request, so it is looked at before. */
  async #readable(at) {
    try {
      await this.file.slice(at, at + 1).arrayBuffer();
    } catch {
      throw new Trouble("", { kind: "changed" });
    }
  }

  async #join() {
    const { parts } = this.record;
    const urls = parts.map((part) => part.url);
    const { url } = await this.#patiently(() => this.#create({ "Upload-Concat": `final;${urls.join(" ")}` }));
    this.record.url = url;
    await this.changed();
    await this.server.remove(urls); // the final upload is a copy
  }

  /** Try until it works, with growing waits. `reached` grows when a try got somewhere, and the waits start anew. */
  async #patiently(attempt, reached = () => 0) {
    let failures = 0;
    let before = reached();
    for (;;) {
      try {
        const result = await attempt();
        this.waiting(false);
        return result;
      } catch (error) {
        if (!(error instanceof Trouble) || !error.passing) throw error;
        failures = reached() > before ? 1 : failures + 1;
        before = reached();
        const wait = Math.min(MOST_WAIT, 250 * 2 ** failures) * (0.75 + Math.random() / 2);
        this.waiting(true, error);
        await this.#rest(Math.max(wait, Math.min(error.after, 60) * 1000));
      }
    }
  }

  /** Wait, but not when the network comes back, somebody is impatient or the upload is stopped. */
  #rest(milliseconds) {
    return new Promise((resolve, reject) => {
      const over = () => {
        clearTimeout(timer);
        this.#nudges.delete(over);
        window.removeEventListener("online", over);
        this.#signal.removeEventListener("abort", over);
        if (this.#signal.aborted) reject(this.#signal.reason);
        else resolve();
      };
      const timer = setTimeout(over, milliseconds);
      this.#nudges.add(over);
      window.addEventListener("online", over);
      this.#signal.addEventListener("abort", over);
      if (this.#signal.aborted) over();
    });
  }
}

function divided(length, count) {
  const share = Math.ceil(length / count);
  return Array.from({ length: count }, (_, number) => ({
    start: Math.min(length, number * share),
    end: Math.min(length, (number + 1) * share),
    url: null,
  }));
}

function less(piece, rest) {
  return Math.max(LEAST_PIECE, Math.ceil(Math.min(piece, rest) / 4));
}
