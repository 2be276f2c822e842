// What is asked, in words: for readers, for the shell, for Python.

/** @import { Facts, Term, View } from "./types.d.ts" */
import { termName } from "./scores.js";
import { stageText } from "./hash.js";

/**
 * @param {number} value
 * @param {number} [digits]
 * @returns {string} 0.0123, 34.2, 1204
 */
export function format(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10 ** digits && size < 1e9) return value.toFixed(0);
  if (size < 1e-4 || size >= 1e9) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
}

/**
 * @param {number} share
 * @returns {string} with two digits: 0.0163 -> 1.6%
 */
export function percent(share) {
  if (share > 0 && share < 1e-6) return "<0.0001%";
  return `${Number((100 * share).toPrecision(2))}%`;
}

/**
 * @param {Term} term
 * @param {Facts} facts
 * @returns {string} for readers, without its sign
 */
export function termLabel(term, facts) {
  if (term.kind === "class") return facts.classes.names[term.numbers[0]] ?? `class ${term.numbers[0]}`;
  if (term.kind === "mean") return "the mean patch";
  if (term.kind === "point") return `point ${term.numbers.join(",")}`;
  if (term.kind === "box") return `box ${term.numbers.join(",")}`;
  return termName(term).replace(":", " ");
}

/**
 * @param {Term[]} terms
 * @param {Facts} facts
 * @returns {string}
 */
export function questionText(terms, facts) {
  return terms
    .map((term, number) => {
      const sign = term.sign < 0 ? "− " : number ? "+ " : "";
      return sign + termLabel(term, facts);
    })
    .join(" ");
}

/**
 * @param {string} text
 * @returns {string} for a POSIX shell
 */
export function quoted(text) {
  return /^[\w./:=,@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * @param {Term[]} terms
 * @returns {string} as the language of queries has it: class:1 - point:10,20
 */
export function queryText(terms) {
  return terms
    .map((term, number) => {
      if (!number) return (term.sign < 0 ? "-" : "") + termName(term);
      return ` ${term.sign < 0 ? "-" : "+"} ${termName(term)}`;
    })
    .join("");
}

/**
 * @param {View} view
 * @param {Facts} facts
 * @returns {string | null} `attnvis run ...` that gives this map; null of a network that Python alone has
 */
export function commandOf(view, facts) {
  if (facts.command === null) return null;
  const words = [
    facts.photo.path,
    `query=${queryText(view.terms)}`,
    `scaling=${stageText(view.scaling, view.scalingSetting)}`,
    ...(view.normalise === "softmax" ? [] : [`normalise=${stageText(view.normalise, view.normaliseSetting)}`]),
    ...(facts.layers.length > 1 ? [`backbone.layer=${facts.layers[view.layer].name}`] : []),
    ...facts.command,
  ];
  return `attnvis run ${words.map(quoted).join(" ")}`;
}

/**
 * @param {View} view
 * @param {Facts} facts
 * @returns {string} lines of Python that give this map
 */
export function pythonOf(view, facts) {
  const settings = [
    JSON.stringify(facts.photo.path),
    JSON.stringify(queryText(view.terms)),
    `scaling="${stageText(view.scaling, view.scalingSetting)}"`,
    ...(view.normalise === "softmax" ? [] : [`normalise="${stageText(view.normalise, view.normaliseSetting)}"`]),
    ...(facts.layers.length > 1 ? [`layer=${JSON.stringify(facts.layers[view.layer].name)}`] : []),
    ...facts.python,
  ];
  return `import attnvis\nattnvis.explain(${settings.join(", ")})`;
}
