/** How sizes, times and refusals are said to people. Pure. */

const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];

/** `1.25 GB`: three digits, units of a thousand. */
export function size(bytes) {
  let unit = 0;
  let number = bytes;
  while (unit + 1 < UNITS.length && number >= 999.5) {
    number /= 1000;
    unit += 1;
  }
  if (unit === 0) return bytes === 1 ? "1 byte" : `${bytes} bytes`;
  return `${number.toFixed(number < 9.995 ? 2 : number < 99.95 ? 1 : 0)} ${UNITS[unit]}`;
}

/** `1 h 5 min` */
export function span(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
}

/** `45 %`, and 100 only when it is. */
export function percent(part, whole) {
  return `${whole === 0 ? 100 : Math.floor((part / whole) * 100)} %`;
}

/** When an upload will be gone, from its Upload-Expires; empty if it stays or nobody knows. */
export function until(expires) {
  const date = new Date(expires ?? NaN);
  if (Number.isNaN(date.getTime())) return "";
  return `kept until ${date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`;
}

/** What went wrong, as one sentence with its remedy. */
export function trouble(error) {
  const said = error.said ? ` The server said: ${error.said}` : "";
  switch (error.kind) {
    case "too large":
      return `Too large: this server takes ${size(error.limit)} at most.`;
    case "changed":
      return "The file has changed, or is no longer there. Choose it again to upload it as it is now.";
    case "elsewhere":
      return `The server wants the bytes at ${error.url}, where this page may not send them. Its proxy has to be trusted.`;
    case "no uploads":
      return "This server takes no new uploads.";
  }
  switch (error.status) {
    case 401:
    case 403:
      return `The server does not allow this upload.${said}`;
    case 404:
    case 410:
      return "The server no longer has what was sent; its time was over. Try again to send it from the start.";
    case 413:
      return `The server refuses it as too large.${said}`;
    case 507:
      return "The server's disk is full. Try again when there is room.";
    default:
      return error.status ? `The server refused it (${error.status}).${said}` : `It did not work: ${error.message}`;
  }
}
