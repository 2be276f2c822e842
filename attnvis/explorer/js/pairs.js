// The seed note's two pairs of scores under one divisor: what softmax makes of them, as bars.

import { softmax } from "./normalise.js";
import { format } from "./words.js";

/** @type {[number, number][]} */
export const PAIRS = [
  [51, 49],
  [80, 20],
];

/**
 * @param {[number, number]} pair
 * @param {number} divisor
 * @returns {{ weights: [number, number], perplexity: number }}
 */
export function divided(pair, divisor) {
  const [first, second] = softmax(Float64Array.from(pair, (score) => score / divisor));
  let entropy = 0;
  for (const weight of [first, second]) if (weight > 0) entropy -= weight * Math.log(weight);
  return { weights: [first, second], perplexity: Math.exp(entropy) };
}

/**
 * @param {number} share
 * @returns {string} 88.1%, and of what is nearly nothing its power of ten
 */
export function shareText(share) {
  if (share === 0) return "0%";
  if (share < 1e-4) return `${(100 * share).toExponential(0)}%`;
  return share > 0.9999 ? (share === 1 ? "100%" : ">99.99%") : `${Number((100 * share).toPrecision(3))}%`;
}

/**
 * @param {HTMLElement} root whose rows are written anew
 * @param {number} divisor
 */
export function showPairs(root, divisor) {
  root.replaceChildren(
    ...PAIRS.map((pair) => {
      const { weights, perplexity } = divided(pair, divisor);
      const row = document.createElement("div");
      row.className = "duel";
      const title = document.createElement("p");
      title.textContent = `${pair[0]} and ${pair[1]} become ${format(pair[0] / divisor, 4)} and ${format(pair[1] / divisor, 4)}`;
      const bars = document.createElement("div");
      bars.className = "duel-bars";
      for (const weight of weights) {
        const bar = document.createElement("span");
        bar.style.flexGrow = String(Math.max(weight, 0.0005));
        bar.textContent = weight > 0.12 ? shareText(weight) : "";
        bars.append(bar);
      }
      const words = document.createElement("p");
      words.className = "quiet";
      words.textContent = `${shareText(weights[0])} and ${shareText(weights[1])}: spread over ${format(perplexity, 4)} of 2 patches`;
      row.append(title, bars, words);
      return row;
    }),
  );
}
