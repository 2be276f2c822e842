// Logits -> weights, which sum to 1: attnvis.attention.normalise, one function for each of its own.

/** @import { Setting } from "./types.d.ts" */
import { extremes } from "./scaling.js";

/** @type {Record<string, Setting | null>} */
export const NORMALISER_SETTINGS = {
  softmax: null,
  sparsemax: null,
  entmax15: null,
  sigmoid: null,
  top_k: { name: "k", initial: 10, low: 1, high: 100 },
  relu: null,
  power: { name: "p", initial: 2, low: 0.25, high: 16 },
};

/**
 * @param {Float64Array} logits
 * @param {string} name
 * @param {number | null} given
 * @returns {Float64Array}
 */
export function normalise(logits, name, given) {
  const setting = given ?? NORMALISER_SETTINGS[name]?.initial ?? 0;
  if (name === "softmax") return softmax(logits);
  if (name === "sparsemax") return sparsemax(logits);
  if (name === "entmax15") return entmax15(logits);
  if (name === "sigmoid") return softmax(logits.map((logit) => logSigmoid(logit - Math.log(logits.length))));
  if (name === "top_k") return softmax(keepLargest(logits, setting));
  if (name === "relu") return powers(logits, 1);
  if (name === "power") return powers(logits, setting);
  throw new Error(`There is no normaliser ${name}.`);
}

/** @param {Float64Array} logits */
export function softmax(logits) {
  const high = extremes(logits)[1];
  let total = 0;
  const amounts = logits.map((logit) => {
    const amount = Math.exp(logit - high);
    total += amount;
    return amount;
  });
  return amounts.map((amount) => amount / total);
}

/** @param {number} value */
function logSigmoid(value) {
  return Math.min(value, 0) - Math.log1p(Math.exp(-Math.abs(value)));
}

/**
 * The point of the simplex nearest to z (Martins and Astudillo 2016).
 *
 * @param {Float64Array} logits
 */
export function sparsemax(logits) {
  const high = extremes(logits)[1];
  const ordered = logits.map((logit) => logit - high).sort().reverse();
  let [sum, threshold] = [0, 0];
  for (let rank = 1; rank <= ordered.length; rank++) {
    sum += ordered[rank - 1];
    if (!(1 + rank * ordered[rank - 1] > sum)) break;
    threshold = (sum - 1) / rank;
  }
  return logits.map((logit) => Math.max(logit - high - threshold, 0));
}

/**
 * a = max(z / 2 - theta, 0)^2 (Peters et al. 2019).
 *
 * @param {Float64Array} logits
 */
export function entmax15(logits) {
  const high = extremes(logits)[1];
  const halves = logits.map((logit) => (logit - high) / 2);
  const ordered = halves.slice().sort().reverse();
  let [sum, squares, threshold] = [0, 0, 0];
  for (let rank = 1; rank <= ordered.length; rank++) {
    const value = ordered[rank - 1];
    sum += value;
    squares += value * value;
    const mean = sum / rank;
    const candidate = mean - Math.sqrt(Math.max((1 - (squares - rank * mean * mean)) / rank, 0));
    if (!(candidate <= value)) break;
    threshold = candidate;
  }
  return halves.map((half) => Math.max(half - threshold, 0) ** 2);
}

/**
 * @param {Float64Array} logits
 * @param {number} count
 * @returns {Float64Array} the others at minus infinity; of equal logits the first are kept
 */
export function keepLargest(logits, count) {
  const order = Array.from(logits, (_, patch) => patch).sort((one, other) => logits[other] - logits[one]);
  const kept = new Float64Array(logits.length).fill(-Infinity);
  for (const patch of order.slice(0, Math.max(1, Math.round(count)))) kept[patch] = logits[patch];
  return kept;
}

/**
 * max(z, 0)^p as shares; uniform where no logit is positive.
 *
 * @param {Float64Array} logits
 * @param {number} exponent
 */
export function powers(logits, exponent) {
  const peak = extremes(logits)[1];
  if (!(peak > 0)) return new Float64Array(logits.length).fill(1 / logits.length);
  let total = 0;
  const amounts = logits.map((logit) => {
    const amount = Math.max(logit / peak, 0) ** exponent;
    total += amount;
    return amount;
  });
  return amounts.map((amount) => amount / total);
}
