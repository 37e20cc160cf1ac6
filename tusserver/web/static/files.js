/**
 * Where files come from: dropped, chosen, or opened anew through a handle. Each is `{ file, path, handle }`: the path
 * holds the folders, the handle is there only in browsers that let a page open the file again.
 */

export const canReopen = "showOpenFilePicker" in window;

/** Files of an `<input type=file>`. */
export function ofInput(input) {
  const found = Array.from(input.files, (file) => ({ file, path: file.webkitRelativePath || file.name }));
  input.value = ""; // so that the same file can be chosen again
  return found;
}

/** Ask for files in a way that gives handles; none if the user changes their mind. */
export async function ofPicker(multiple) {
  try {
    const handles = await window.showOpenFilePicker({ multiple });
    return await Promise.all(handles.map((handle) => ofHandle(handle, handle.name)));
  } catch (error) {
    if (error.name === "AbortError") return [];
    throw error;
  }
}

export async function ofHandle(handle, path) {
  return { file: await handle.getFile(), path, handle };
}

/** Files and folders that were dropped. The list of items is there during the event only: it is read before any wait. */
export async function ofDrop(transfer) {
  const items = Array.from(transfer.items).filter((item) => item.kind === "file");
  const sources = items.map((item) => ({
    handle: item.getAsFileSystemHandle?.().catch(() => null),
    entry: item.webkitGetAsEntry?.(),
    file: item.getAsFile(),
  }));
  const found = [];
  for (const source of sources) {
    const handle = await source.handle;
    if (handle) await walkHandle(handle, handle.name, found);
    else if (source.entry) await walkEntry(source.entry, found);
    else if (source.file) found.push({ file: source.file, path: source.file.name });
  }
  return found;
}

async function walkHandle(handle, path, found) {
  if (handle.kind === "file") {
    found.push(await ofHandle(handle, path));
    return;
  }
  for await (const [name, child] of handle.entries()) await walkHandle(child, `${path}/${name}`, found);
}

async function walkEntry(entry, found) {
  const path = entry.fullPath.replace(/^\//, "");
  if (entry.isFile) {
    found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // a folder comes in portions, the last of which is empty
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return;
    for (const child of entries) await walkEntry(child, found);
  }
}
