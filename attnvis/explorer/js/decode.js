// Packed numbers of the page -> a layer's tokens, norms, rows and Gram matrix.

/** @import { Layer, LayerFacts, Row } from "./types.d.ts" */

/**
 * @param {string} text base64
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function bytesOf(text) {
  const characters = atob(text.trim());
  const bytes = new Uint8Array(characters.length);
  for (let index = 0; index < characters.length; index++) bytes[index] = characters.charCodeAt(index);
  return bytes;
}

/**
 * @param {Uint8Array<ArrayBuffer>} packed gzip
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function unpacked(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * @param {LayerFacts} facts
 * @param {(name: string) => string} piece base64 of "tokens", "rows" or "scales"
 * @returns {Promise<Layer>} rejects where a piece is damaged, or is not as long as the facts say
 */
export async function decodeLayer(facts, piece) {
  const [tokenBytes, rowBytes, scaleBytes] = await Promise.all(
    ["tokens", "rows", "scales"].map((name) => unpacked(bytesOf(piece(name)))),
  );
  const patches = facts.grid[0] * facts.grid[1];
  const rows = facts.rows.length + facts.rows.filter(({ ownKeys }) => ownKeys).length + facts.classes.length;
  const numbers = 3 * rows + facts.classes.length + facts.gram ** 2;
  const expected = [2 * patches * facts.dim, 2 * patches * rows, 4 * numbers];
  const lengths = [tokenBytes, rowBytes, scaleBytes].map((bytes) => bytes.length);
  if (expected.some((length, index) => length !== lengths[index])) {
    throw new Error(`layer ${facts.name} has ${lengths} bytes, not ${expected}: the file is damaged`);
  }
  const tokens = decodeTokens(tokenBytes, patches, facts.dim, facts.quantum);
  const scales = new Float32Array(scaleBytes.buffer);
  return {
    facts,
    patches,
    tokens,
    norms: normsOf(tokens, patches, facts.dim),
    rows: decodeRows(rowBytes, scales, facts, rows),
    gram: scales.subarray(numbers - facts.gram ** 2),
  };
}

/**
 * @param {Uint8Array} bytes channel by channel: all low bytes, then all high ones
 * @param {number} patches
 * @param {number} dim
 * @param {number} quantum
 * @returns {Float32Array} [N, D]
 */
export function decodeTokens(bytes, patches, dim, quantum) {
  const tokens = new Float32Array(patches * dim);
  const half = patches * dim;
  for (let channel = 0, index = 0; channel < dim; channel++) {
    for (let patch = 0; patch < patches; patch++, index++) {
      const level = ((bytes[index] | (bytes[half + index] << 8)) << 16) >> 16; // with its sign
      if (level) tokens[patch * dim + channel] = level * quantum;
    }
  }
  return tokens;
}

/**
 * @param {Float32Array} tokens [N, D]
 * @param {number} patches
 * @param {number} dim
 * @returns {Float64Array}
 */
export function normsOf(tokens, patches, dim) {
  const norms = new Float64Array(patches);
  for (let patch = 0, index = 0; patch < patches; patch++) {
    let sum = 0;
    for (let channel = 0; channel < dim; channel++, index++) sum += tokens[index] * tokens[index];
    norms[patch] = Math.sqrt(sum);
  }
  return norms;
}

/**
 * Rows of scores; then the key norms of those with keys of their own; then one row a class.  Each is decoded when it
 * is asked for first.
 *
 * @param {Uint8Array} bytes
 * @param {Float32Array} scales lows, steps and errors of all rows, then the lengths of the classes' vectors
 * @param {LayerFacts} facts
 * @param {number} count of the rows
 * @returns {Map<string, () => Row>}
 */
export function decodeRows(bytes, scales, facts, count) {
  const patches = facts.grid[0] * facts.grid[1];
  const half = patches * count;
  /** @param {number} number */
  const values = (number) => {
    const [low, step] = [scales[number], scales[count + number]];
    const row = new Float64Array(patches);
    for (let patch = 0, index = number * patches; patch < patches; patch++, index++) {
      row[patch] = low + step * (bytes[index] | (bytes[half + index] << 8));
    }
    return row;
  };
  /** @type {Map<string, () => Row>} */
  const rows = new Map();
  let keys = facts.rows.length;
  facts.rows.forEach(({ name, dim, length, ownKeys, caution }, number) => {
    const keyRow = ownKeys ? keys++ : null;
    const error = scales[2 * count + number];
    rows.set(
      name,
      once(() => ({ scores: values(number), dim, length, keyNorms: keyRow === null ? null : values(keyRow), error, caution })),
    );
  });
  facts.classes.forEach((index, order) => {
    const number = keys + order;
    const [error, length] = [scales[2 * count + number], scales[3 * count + order]];
    rows.set(
      `class:${index}`,
      once(() => ({ scores: values(number), dim: facts.dim, length, keyNorms: null, error, caution: "" })),
    );
  });
  return rows;
}

/**
 * @template T
 * @param {() => T} make
 * @returns {() => T} what was made the first time
 */
function once(make) {
  /** @type {T | undefined} */
  let known;
  return () => (known ??= make());
}
