// Uppy with its dashboard and its tus plugin; finished uploads are listed below.

import { Dashboard, Tus, Uppy } from "./node_modules/uppy/dist/uppy.min.mjs";

const endpoint = "http://127.0.0.1:8080/files";

const uppy = new Uppy()
  .use(Dashboard, { inline: true, target: "#dashboard", width: "100%" })
  .use(Tus, { endpoint, retryDelays: [0, 1000, 3000, 5000, 10000], limit: 4 });

uppy.on("upload-success", (file, response) => {
  const item = document.createElement("li");
  item.append(Object.assign(document.createElement("a"), { href: response.uploadURL, textContent: file.name }));
  document.getElementById("uploads").append(item);
});
