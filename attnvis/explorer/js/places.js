// A photo that was sent, in words: where it stands, and whether it is too large to be sent at all.

/**
 * @param {{ status: string, before: number }} state
 * @returns {string}
 */
export function placeText({ status, before }) {
  if (status === "working") return "is looked at";
  return `waits: ${before} photo${before === 1 ? "" : "s"} before it`;
}

/**
 * @param {number} size bytes
 * @param {number} most bytes
 * @returns {string} why it is not sent; "" where it may be
 */
export function sizeTrouble(size, most) {
  if (size === 0) return "the photo is empty: it has no bytes";
  if (size <= most) return "";
  return `the photo has ${megabytes(size)}, and at most ${megabytes(most)} are taken`;
}

/** @param {number} count of bytes */
function megabytes(count) {
  return `${Number((count / 1e6).toPrecision(count < 10e6 ? 2 : 15)).toFixed(count < 10e6 ? 1 : 0)} MB`;
}
