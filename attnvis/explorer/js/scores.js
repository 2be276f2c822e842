// A question, one or several terms with their signs -> q . k_i for every patch, and what is known of q.

/** @import { Asked, Layer, Term } from "./types.d.ts" */
import { interpolationWeights, overlapLengths } from "./geometry.js";

const ALONE = ["distance", "norm", "rarity"]; // keys of their own: they neither add nor subtract
const ARGUMENTS = { point: 2, box: 4, mean: 0, class: 1, pca: 1, random: 1, distance: 0, norm: 0, rarity: 0 };

/**
 * @param {Term} term
 * @returns {string} as attnvis types it: -class:504
 */
export function termText(term) {
  return (term.sign < 0 ? "-" : "") + termName(term);
}

/**
 * @param {Term} term
 * @returns {string} without its sign
 */
export function termName(term) {
  return term.numbers.length ? `${term.kind}:${term.numbers.join(",")}` : term.kind;
}

/**
 * @param {string} text as termText writes it
 * @returns {Term | null} null for what is none
 */
export function readTerm(text) {
  const match = /^(-?)([a-z]+)(?::([-\d.,e+]+))?$/.exec(text.trim());
  if (!match) return null;
  const [, sign, kind, list] = match;
  const numbers = list ? list.split(",").map(Number) : [];
  if (!Object.hasOwn(ARGUMENTS, kind) || !numbers.every(Number.isFinite)) return null;
  if (numbers.length !== ARGUMENTS[/** @type {keyof typeof ARGUMENTS} */ (kind)]) return null;
  return { sign: sign ? -1 : 1, kind, numbers };
}

/**
 * @param {Term} term
 * @returns {boolean} whether it can be no part of a sum
 */
export function standsAlone(term) {
  return ALONE.includes(term.kind);
}

/**
 * @param {Layer} layer
 * @param {Term[]} terms
 * @returns {Asked}
 * @throws {Error} in words for a reader, where the file cannot answer
 */
export function ask(layer, terms) {
  if (!terms.length) throw new Error("Nothing is asked: click on the photo, or choose a question.");
  if (terms.length > 1 && terms.some(standsAlone)) {
    const term = terms.find(standsAlone);
    throw new Error(`${term?.kind} stands alone: it has keys of its own, and nothing is added to it.`);
  }
  if (terms.length === 1 && terms[0].sign > 0 && !isPlace(terms[0])) return askRow(layer, terms[0]);
  return askSum(layer, terms);
}

/** @param {Term} term */
function isPlace(term) {
  return term.kind === "point" || term.kind === "box" || term.kind === "mean";
}

/**
 * @param {Layer} layer
 * @param {Term} term
 */
function rowOf(layer, term) {
  const row = layer.rows.get(termName(term))?.();
  if (row) return row;
  if (term.kind === "class") throw new Error("The scores of this class are not in this file.");
  throw new Error(`${termName(term)} is not in this file.`);
}

/**
 * @param {Layer} layer
 * @param {Term} term
 * @returns {Asked}
 */
function askRow(layer, term) {
  const row = rowOf(layer, term);
  const vector = term.kind === "pca" ? mixed(layer, patchShares(layer, term)) : null;
  return {
    scores: row.scores,
    dim: row.dim,
    length: row.length,
    keyNorms: row.keyNorms ?? layer.norms,
    error: row.error,
    vector,
    cautions: row.caution ? [`${termName(term)}: ${row.caution}`] : [],
  };
}

/**
 * @param {Layer} layer
 * @param {Term[]} terms
 * @returns {Asked}
 */
function askSum(layer, terms) {
  const { patches, facts } = layer;
  const scores = new Float64Array(patches);
  const shares = new Float64Array(patches); // of the patches in q
  const places = new Float64Array(patches); // those whose scores are yet to be computed
  const cautions = [];
  /** @type {Term[]} */
  const outside = []; // terms that no patches make
  let error = 0;
  for (const term of terms) {
    const of = term.kind === "class" || term.kind === "random" ? null : patchShares(layer, term);
    if (of) for (let patch = 0; patch < patches; patch++) shares[patch] += term.sign * of[patch];
    else outside.push(term);
    if (of && isPlace(term)) {
      for (let patch = 0; patch < patches; patch++) places[patch] += term.sign * of[patch];
      error += facts.error;
      continue;
    }
    const row = rowOf(layer, term);
    for (let patch = 0; patch < patches; patch++) scores[patch] += term.sign * row.scores[patch];
    error += row.error;
    if (row.caution) cautions.push(`${termName(term)}: ${row.caution}`);
  }
  const vector = mixed(layer, shares);
  const asked = terms.some(isPlace) ? mixed(layer, places) : null;
  if (asked) addProducts(layer, asked, scores);
  return {
    scores,
    dim: facts.dim,
    length: lengthOf(layer, vector, shares, outside),
    keyNorms: layer.norms,
    error,
    vector: outside.length ? null : vector,
    cautions,
  };
}

/**
 * @param {Layer} layer
 * @param {Term} term point, box, mean or pca
 * @returns {Float64Array} q as a weighted sum of patches
 */
export function patchShares(layer, term) {
  const { facts, patches } = layer;
  const shares = new Float64Array(patches);
  if (term.kind === "mean") return shares.fill(1 / patches);
  if (term.kind === "pca") {
    // A principal direction is X'u / (u'u) of the centred scores u along it.
    const { scores } = rowOf(layer, term);
    const mean = scores.reduce((sum, value) => sum + value, 0) / patches;
    let squares = 0;
    for (const value of scores) squares += (value - mean) ** 2;
    return squares > 0 ? scores.map((value) => (value - mean) / squares) : shares;
  }
  const [x, y, width = 0, height = 0] = term.numbers;
  const isPoint = term.kind === "point";
  const [top, left, tall, wide] = facts.seen;
  if (isPoint && !(y >= top && y < top + tall && x >= left && x < left + wide)) {
    throw new Error("This point lies outside of what the network saw of the photo.");
  }
  const rows = isPoint ? interpolationWeights(facts, 0, y) : overlapLengths(facts, 0, y, y + height);
  const columns = isPoint ? interpolationWeights(facts, 1, x) : overlapLengths(facts, 1, x, x + width);
  const total = rows.reduce((sum, share) => sum + share, 0) * columns.reduce((sum, share) => sum + share, 0);
  if (!(total > 0)) throw new Error("This box touches no part of the photo that the network saw.");
  rows.forEach((down, row) => {
    columns.forEach((across, column) => {
      shares[row * columns.length + column] = (down * across) / total;
    });
  });
  return shares;
}

/**
 * @param {Layer} layer
 * @param {Float64Array} shares of the patches
 * @returns {Float64Array} their weighted sum [D]
 */
function mixed(layer, shares) {
  const dim = layer.facts.dim;
  const vector = new Float64Array(dim);
  shares.forEach((share, patch) => {
    if (!share) return;
    const start = patch * dim;
    for (let channel = 0; channel < dim; channel++) vector[channel] += share * layer.tokens[start + channel];
  });
  return vector;
}

/**
 * @param {Layer} layer
 * @param {Float64Array} vector [D]
 * @param {Float64Array} scores to which vector . k_i is added
 */
function addProducts(layer, vector, scores) {
  const { tokens, patches } = layer;
  const dim = vector.length;
  for (let patch = 0, index = 0; patch < patches; patch++) {
    let sum = 0;
    for (let channel = 0; channel < dim; channel++, index++) sum += vector[channel] * tokens[index];
    scores[patch] += sum;
  }
}

/**
 * The length of q = (a sum of patches) + (classes and random vectors): |m|^2 + 2 m . o + |o|^2, and m . o is the
 * same sum of the scores of o.
 *
 * @param {Layer} layer
 * @param {Float64Array} vector m
 * @param {Float64Array} shares of the patches in m
 * @param {Term[]} outside
 * @returns {number} NaN where the file does not know it
 */
function lengthOf(layer, vector, shares, outside) {
  let square = vector.reduce((sum, value) => sum + value * value, 0);
  for (const term of outside) {
    const { scores } = rowOf(layer, term);
    let product = 0;
    for (let patch = 0; patch < shares.length; patch++) product += shares[patch] * scores[patch];
    square += 2 * term.sign * product;
    for (const other of outside) square += term.sign * other.sign * outsideProduct(layer, term, other);
  }
  return Math.sqrt(Math.max(square, 0));
}

/**
 * @param {Layer} layer
 * @param {Term} one
 * @param {Term} other
 * @returns {number} of two vectors that no patches make; NaN where it is not known
 */
function outsideProduct(layer, one, other) {
  if (termName(one) === termName(other)) return rowOf(layer, one).length ** 2;
  const size = layer.facts.gram;
  const [first, second] = [one, other].map((term) =>
    term.kind === "class" ? layer.facts.classes.indexOf(term.numbers[0]) : -1,
  );
  const isKnown = first >= 0 && second >= 0 && first < size && second < size;
  return isKnown ? layer.gram[first * size + second] : NaN;
}
