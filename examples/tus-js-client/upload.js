// The page's part: buttons and words. The upload is tus-js-client's, which index.html has loaded as `tus`.

const endpoint = "http://127.0.0.1:8080/files";

const part = (id) => document.getElementById(id);
let upload = null;

function say(state, { pause = false, resume = false, cancel = false } = {}) {
  part("state").textContent = state;
  part("pause").disabled = !pause;
  part("resume").disabled = !resume;
  part("cancel").disabled = !cancel;
}

part("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  await upload?.abort();
  const begun = new tus.Upload(file, {
    endpoint,
    retryDelays: [0, 1000, 3000, 5000, 10000], // for cuts and restarts; after them, "Go on" tries again
    metadata: { filename: file.name, filetype: file.type },
    removeFingerprintOnSuccess: true, // the same file may be uploaded anew
    onProgress(sent, total) {
      part("progress").value = total ? sent / total : 1;
      part("figures").textContent = `${sent} of ${total} bytes`;
    },
    onSuccess() {
      say("Done. Choose another file.");
      const link = Object.assign(document.createElement("a"), { href: begun.url, textContent: file.name });
      part("uploads").append(document.createElement("li"));
      part("uploads").lastChild.append(link);
    },
    onError(error) {
      say(`It did not work: ${error.message}`, { resume: true, cancel: true });
    },
  });
  upload = begun;
  // What was begun before a reload is remembered by name, size and date of the file.
  const [previous] = await begun.findPreviousUploads();
  if (previous) begun.resumeFromPreviousUpload(previous);
  begun.start();
  say(previous ? "Going on where it stood …" : "Uploading …", { pause: true, cancel: true });
});

part("pause").addEventListener("click", async () => {
  await upload.abort();
  say("Paused. What has arrived is kept.", { resume: true, cancel: true });
});

part("resume").addEventListener("click", () => {
  upload.start();
  say("Uploading …", { pause: true, cancel: true });
});

part("cancel").addEventListener("click", async () => {
  await upload.abort(true); // and have the server delete it
  say("Cancelled. Choose another file.");
});
