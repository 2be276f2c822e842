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
 * @param {(name: string) => string} piece base64 of "tokens", "rows" or "gram"
 * @returns {Promise<Layer>} rejects where a piece is damaged, or is not as long as the facts say
 */
export async function decodeLayer(facts, piece) {
  const [tokenBytes, rowBytes, gramBytes] = await Promise.all(
    ["tokens", "rows", "gram"].map((name) => unpacked(bytesOf(piece(name)))),
  );
  const patches = facts.grid[0] * facts.grid[1];
  const expected = [2 * patches * facts.dim, 2 * patches * facts.lows.length, 4 * facts.gram ** 2];
  const lengths = [tokenBytes, rowBytes, gramBytes].map((bytes) => bytes.length);
  if (expected.some((length, index) => length !== lengths[index])) {
    throw new Error(`layer ${facts.name} has ${lengths} bytes, not ${expected}: the file is damaged`);
  }
  const tokens = decodeTokens(tokenBytes, patches, facts.dim, facts.quantum);
  return {
    facts,
    patches,
    tokens,
    norms: normsOf(tokens, patches, facts.dim),
    rows: decodeRows(rowBytes, facts, patches),
    gram: new Float32Array(gramBytes.buffer),
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
 * Rows of scores; then the key norms of those with keys of their own; then one row a class.
 *
 * @param {Uint8Array} bytes
 * @param {LayerFacts} facts
 * @param {number} patches
 * @returns {Map<string, Row>}
 */
export function decodeRows(bytes, facts, patches) {
  const half = patches * facts.lows.length;
  /** @param {number} number */
  const values = (number) => {
    const row = new Float64Array(patches);
    for (let patch = 0, index = number * patches; patch < patches; patch++, index++) {
      row[patch] = facts.lows[number] + facts.steps[number] * (bytes[index] | (bytes[half + index] << 8));
    }
    return row;
  };
  /** @type {Map<string, Row>} */
  const rows = new Map();
  let ownKeys = facts.rows.length;
  facts.rows.forEach(({ name, dim, length, ownKeys: hasKeys, caution }, number) => {
    const keyNorms = hasKeys ? values(ownKeys++) : null;
    rows.set(name, { scores: values(number), dim, length, keyNorms, error: facts.rowError[number], caution });
  });
  facts.classes.forEach((index, order) => {
    const number = ownKeys + order;
    rows.set(`class:${index}`, {
      scores: values(number),
      dim: facts.dim,
      length: facts.lengths[order],
      keyNorms: null,
      error: facts.rowError[number],
      caution: "",
    });
  });
  return rows;
}
