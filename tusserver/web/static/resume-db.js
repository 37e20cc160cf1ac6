/**
 * What this browser remembers of unfinished uploads: one record for each file, by `key`, in IndexedDB, which keeps
 * handles of files too. Where it may not be used (some private windows), uploads work but end with the page.
 */

const NAME = "tusserver";
const STORE = "uploads";

let opening;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
  return opening;
}

async function ask(mode, question) {
  let database;
  try {
    database = await open();
  } catch {
    return undefined;
  }
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const request = question(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** Same file, same endpoint: name, folder, size and date. */
export function keyOf(endpoint, file, path) {
  return JSON.stringify([endpoint, path, file.size, file.lastModified]);
}

export async function recall(endpoint) {
  const all = (await ask("readonly", (store) => store.getAll())) ?? [];
  return all.filter((record) => record.endpoint === endpoint).sort((a, b) => a.began - b.began);
}

export async function keep(record) {
  await ask("readwrite", (store) => store.put(record));
}

export async function forget(key) {
  await ask("readwrite", (store) => store.delete(key));
}
