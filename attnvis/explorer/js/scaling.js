// Scores -> logits: attnvis.attention.scaling, one function for each of its own.

/** @import { Asked, Setting } from "./types.d.ts" */

const SINGLE = 2 ** -23; // rounding of the single precision in which Python has its scores
const NEGLIGIBLE = 8 * SINGLE;

/** @typedef {{ logits: Float64Array, slope: number, stretch: number }} Scaled
 * slope: the most that a logit moves when a score does; stretch: by which share all logits grow with it */

/** @type {Record<string, Setting | null>} */
export const SCALING_SETTINGS = {
  none: null,
  inv_sqrt_d: null,
  inv_d: null,
  temperature: { name: "tau", initial: 1, low: 0.1, high: 10000 },
  cosine: { name: "tau", initial: 0.07, low: 0.005, high: 2 },
  zscore: { name: "tau", initial: 1, low: 0.05, high: 10 },
  robust_z: { name: "tau", initial: 1, low: 0.05, high: 10 },
  minmax: { name: "tau", initial: 0.25, low: 0.01, high: 5 },
  log_n: { name: "base", initial: 512, low: 2, high: 8192 },
  ssmax: { name: "s", initial: 0.43, low: 0.0001, high: 5 },
  perplexity: { name: "target", initial: 0.1, low: 0.003, high: 0.999 },
};

/** @type {Record<string, string>} scaling -> what its logits are counted from, where that is no zero of the scores */
export const ORIGINS = { perplexity: "the highest", zscore: "the mean", robust_z: "the median", minmax: "the lowest" };

/**
 * Of the scalings that divide by one number, that number; null for the others.
 *
 * @param {string} name
 * @param {number | null} setting
 * @param {number} dim
 * @returns {number | null}
 */
export function divisorOf(name, setting, dim) {
  if (name === "none") return 1;
  if (name === "inv_sqrt_d") return Math.sqrt(dim);
  if (name === "inv_d") return dim;
  return name === "temperature" ? setting ?? 1 : null;
}

/**
 * @param {Asked} asked
 * @param {string} name
 * @param {number | null} given
 * @returns {Scaled}
 * @throws {Error} in words for a reader
 */
export function scale(asked, name, given) {
  const { scores, dim } = asked;
  const patches = scores.length;
  const setting = given ?? SCALING_SETTINGS[name]?.initial ?? 0;
  const divisor = divisorOf(name, setting, dim);
  if (divisor !== null) return times(scores, 1 / divisor);
  if (name === "log_n") return times(scores, Math.log(patches) / Math.log(setting) / Math.sqrt(dim));
  if (name === "ssmax") return times(scores, setting * Math.log(patches));
  if (name === "cosine") return cosine(asked, setting);
  if (name === "zscore") return affine(asked, meanOf(scores), deviationOf(scores), setting, 1);
  if (name === "robust_z") {
    const middle = medianOf(scores);
    return affine(asked, middle, 1.4826 * medianOf(scores.map((score) => Math.abs(score - middle))), setting, 2 * 1.4826);
  }
  if (name === "minmax") {
    const [low, high] = extremes(scores);
    return affine(asked, low, high - low, setting, 2);
  }
  if (name === "perplexity") return toPerplexity(asked, setting);
  throw new Error(`There is no scaling ${name}.`);
}

/**
 * @param {Float64Array} scores
 * @param {number} factor
 * @returns {Scaled}
 */
function times(scores, factor) {
  return { logits: scores.map((score) => score * factor), slope: factor, stretch: 0 };
}

/**
 * @param {Asked} asked
 * @param {number} offset
 * @param {number} spread
 * @param {number} tau
 * @param {number} moved how far the spread moves when all scores move by 1
 * @returns {Scaled} (s - offset) / (spread tau); 0 where the scores have no contrast
 */
function affine(asked, offset, spread, tau, moved) {
  const { scores, error } = asked;
  if (spread <= NEGLIGIBLE * largest(scores)) return times(scores, 0);
  const factor = 1 / (spread * tau);
  return {
    logits: scores.map((score) => (score - offset) * factor),
    slope: 2 * factor, // the score, and the offset
    stretch: (moved * error) / spread,
  };
}

/**
 * @param {Asked} asked
 * @param {number} tau
 * @returns {Scaled}
 */
function cosine(asked, tau) {
  const { scores, keyNorms, length, error } = asked;
  if (Number.isNaN(length)) {
    throw new Error("A cosine needs the length of this difference of classes, which this file does not hold.");
  }
  let slope = 0;
  const logits = scores.map((score, patch) => {
    const product = length * keyNorms[patch];
    if (!(product > 0)) return 0;
    const angle = score / product;
    const ofNorms = Math.abs(angle) * (error / length ** 2 + error / keyNorms[patch] ** 2);
    if (error > 0) slope = Math.max(slope, (1 / product + ofNorms / error) / tau);
    return angle / tau;
  });
  return { logits, slope, stretch: 0 };
}

/**
 * z = (s - max s) / tau, with the tau at which softmax(z) looks at `target` patches, below 1 a share of them.
 *
 * @param {Asked} asked
 * @param {number} target
 * @returns {Scaled}
 */
function toPerplexity(asked, target) {
  const { scores, error } = asked;
  const wanted = target * (target < 1 ? scores.length : 1);
  const [low, high] = extremes(scores);
  const spread = high - low;
  if (wanted >= scores.length || spread <= NEGLIGIBLE * largest(scores)) return times(scores, 0);
  const gaps = scores.map((score) => (score - high) / spread);
  const sharpness = sharpnessOf(gaps, Math.log(Math.max(1, wanted)));
  const logits = gaps.map((gap) => gap * sharpness);
  const slope = sharpness / spread;
  const { variance } = entropyOf(gaps, sharpness);
  return { logits, slope, stretch: variance > 0 ? (slope * error) / Math.sqrt(variance) : 0 };
}

/**
 * The b at which softmax(b * gaps) has this entropy, in nats.  Newton's steps in ln b; one that leaves what is known
 * to hold the root is a bisection.
 *
 * @param {Float64Array} gaps -1 ... 0
 * @param {number} target
 * @returns {number}
 */
export function sharpnessOf(gaps, target) {
  let [low, high] = [-25, 25];
  const deviation = Math.max(deviationOf(gaps), 1e-9);
  const missing = Math.max(Math.log(gaps.length) - target, 1e-9);
  let log = Math.min(Math.max(Math.log(Math.sqrt(2 * missing) / deviation), -24), 24);
  for (let round = 0; round < 80; round++) {
    const { entropy, variance } = entropyOf(gaps, Math.exp(log));
    const excess = entropy - target;
    if (excess > 0) low = log;
    else high = log;
    const newton = log + excess / variance; // infinite or NaN where the entropy is flat
    const following = newton >= low && newton <= high ? newton : (low + high) / 2;
    const step = Math.abs(following - log);
    log = following;
    if (step <= 1e-8 || Math.abs(excess) <= 1e-15) break;
  }
  return Math.exp(log);
}

/**
 * @param {Float64Array} gaps of which the largest is 0
 * @param {number} sharpness
 * @returns {{ entropy: number, variance: number }} of softmax(sharpness * gaps), and of its logits under these weights
 */
function entropyOf(gaps, sharpness) {
  let [total, first, second] = [0, 0, 0];
  for (const gap of gaps) {
    const logit = gap * sharpness;
    const amount = Math.exp(logit);
    total += amount;
    first += amount * logit;
    second += amount * logit * logit;
  }
  const mean = first / total;
  return { entropy: Math.log(total) - mean, variance: Math.max(second / total - mean * mean, 0) };
}

/** @param {Float64Array} values */
export function meanOf(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/**
 * @param {Float64Array} values
 * @returns {number} of the population
 */
export function deviationOf(values) {
  const mean = meanOf(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

/**
 * @param {Float64Array} values
 * @returns {number} of an even count the mean of the two in the middle
 */
export function medianOf(values) {
  const sorted = values.slice().sort();
  const half = (sorted.length - 1) / 2;
  return (sorted[Math.floor(half)] + sorted[Math.ceil(half)]) / 2;
}

/**
 * @param {Float64Array} values
 * @returns {[number, number]}
 */
export function extremes(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** @param {Float64Array} values */
function largest(values) {
  const [low, high] = extremes(values);
  return Math.max(Math.abs(low), Math.abs(high));
}
