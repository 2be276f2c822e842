// A view -> scores, logits, weights and what is read off them; and how far the weights may be from Python's.

/** @import { Layer, Outcome, View } from "./types.d.ts" */
import { ask } from "./scores.js";
import { scale } from "./scaling.js";
import { NORMALISER_SETTINGS, normalise } from "./normalise.js";

const ROUNDING = 1e-6; // of single precision, in Python

/**
 * @param {Layer} layer
 * @param {View} view
 * @returns {Outcome}
 * @throws {Error} in words for a reader
 */
export function answer(layer, view) {
  const asked = ask(layer, view.terms);
  const { logits, slope, stretch } = scale(asked, view.scaling, view.scalingSetting);
  const weights = normalise(logits, view.normalise, view.normaliseSetting);
  let [entropy, hottest] = [0, 0];
  weights.forEach((weight, patch) => {
    if (weight > 0) entropy -= weight * Math.log(weight);
    if (weight > weights[hottest]) hottest = patch;
  });
  const bound = distanceBound(logits, weights, view, slope * asked.error, stretch);
  return { asked, logits, weights, perplexity: Math.exp(entropy), hottest, bound };
}

/**
 * At most so much of the weight lies elsewhere than Python's own features would put it: half of sum |a - a'|.
 *
 * To first order sum_i g_i (1 - g_i / G) dz_i, g the gains of the normaliser (jacobian.py), and what may cross an edge.
 *
 * @param {Float64Array} logits
 * @param {Float64Array} weights
 * @param {View} view
 * @param {number} moved by which every logit may be off
 * @param {number} stretch by which share all of them may be, together
 * @returns {number} 0 ... 1
 */
export function distanceBound(logits, weights, view, moved, stretch) {
  const patches = logits.length;
  const exponent = view.normalise === "power" ? view.normaliseSetting ?? NORMALISER_SETTINGS.power?.initial ?? 2 : 1;
  const isPower = view.normalise === "relu" || view.normalise === "power";
  const shifts = isPower || view.normalise === "sigmoid"; // whether an offset of all logits changes the weights
  let centre = 0;
  if (!shifts) weights.forEach((weight, patch) => (centre += weight > 0 ? weight * logits[patch] : 0));
  const errors = logits.map((logit) => moved + stretch * Math.abs(logit - centre));
  let lowest = Infinity; // the smallest logit that still has a weight
  weights.forEach((weight, patch) => {
    if (weight > 0 && logits[patch] < lowest) lowest = logits[patch];
  });
  const gains = weights.map((weight, patch) => {
    if (view.normalise === "sparsemax") return logits[patch] >= lowest - 4 * errors[patch] ? 1 : 0;
    if (view.normalise === "entmax15") return Math.sqrt(weight);
    if (isPower) return logits[patch] > 0 ? (exponent * weight) / Math.max(logits[patch], errors[patch]) : 0;
    return weight;
  });
  const total = gains.reduce((sum, gain) => sum + gain, 0);
  if (!(total > 0)) return patches > 1 && moved > 0 ? 1 : ROUNDING;
  let [bound, most, crossing] = [0, 0, 0];
  gains.forEach((gain, patch) => {
    bound += gain * (1 - gain / total) * errors[patch];
    if (gain > 0) most = Math.max(most, errors[patch]);
    const isAtTheEdge = Math.abs(logits[patch] - lowest) <= 2 * errors[patch];
    if (view.normalise === "top_k" && weights[patch] > 0 && isAtTheEdge) crossing += weights[patch];
  });
  if (view.normalise === "entmax15") crossing += atTheEdge(logits, weights, errors, lowest) * most ** 2;
  if (isPower) crossing += powersAtTheEdge(logits, errors, exponent);
  const isDoubled = isPower && stretch === 0;
  return Math.min(1, (bound * (isDoubled ? 2 : 1) + crossing) * Math.exp(2 * Math.min(most, 5)) + ROUNDING);
}

/**
 * @param {Float64Array} logits
 * @param {Float64Array} weights
 * @param {Float64Array} errors
 * @param {number} lowest
 */
function atTheEdge(logits, weights, errors, lowest) {
  let count = 0;
  logits.forEach((logit, patch) => {
    if (weights[patch] === 0 && logit > lowest - 4 * errors[patch]) count++;
  });
  return count;
}

/**
 * @param {Float64Array} logits
 * @param {Float64Array} errors
 * @param {number} exponent
 * @returns {number} the weight that patches about 0 may have
 */
function powersAtTheEdge(logits, errors, exponent) {
  let [total, crossing] = [0, 0];
  logits.forEach((logit, patch) => {
    total += Math.max(logit, 0) ** exponent;
    if (Math.abs(logit) <= errors[patch]) crossing += errors[patch] ** exponent;
  });
  return total > 0 ? crossing / total : 0;
}
