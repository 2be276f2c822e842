// The state of the page <-> the part of its address behind the #, in attnvis' own words.

/** @import { Facts, State, View } from "./types.d.ts" */
import { readTerm, standsAlone, termText } from "./scores.js";
import { SCALING_SETTINGS } from "./scaling.js";
import { NORMALISER_SETTINGS } from "./normalise.js";

const STAGES = ["weights", "logits", "scores"];
const LOOKS = ["overlay", "heatmap", "photo"];

/**
 * @param {string} name
 * @param {number | null} setting
 * @returns {string} temperature:2
 */
export function stageText(name, setting) {
  return setting === null ? name : `${name}:${setting}`;
}

/**
 * @param {State} state
 * @param {Facts} facts
 * @returns {string} without the #
 */
export function writeState(state, facts) {
  const words = state.views.map((view, number) => {
    const mark = number ? String(number + 1) : "";
    const pieces = [
      `q${mark}=${view.terms.map(termText).join(";")}`,
      `scaling${mark}=${stageText(view.scaling, view.scalingSetting)}`,
      `normalise${mark}=${stageText(view.normalise, view.normaliseSetting)}`,
    ];
    if (facts.layers.length > 1) pieces.push(`layer${mark}=${encodeURIComponent(facts.layers[view.layer].name)}`);
    return pieces.join("&");
  });
  if (state.stage !== "weights") words.push(`show=${state.stage}`);
  if (state.look !== "overlay") words.push(`as=${state.look}`);
  return words.join("&");
}

/**
 * @param {string} text what stands behind the #
 * @param {Facts} facts
 * @param {View} usual what a link that says nothing of it means
 * @returns {State} what means nothing is left as usual
 */
export function readState(text, facts, usual) {
  const words = new URLSearchParams(text.replace(/^#/, "").replaceAll("+", "%2B"));
  const views = [readView(words, "", facts, usual)];
  if (words.has("q2")) views.push(readView(words, "2", facts, views[0]));
  const [stage, look] = [words.get("show") ?? "", words.get("as") ?? ""];
  return {
    views,
    stage: /** @type {State["stage"]} */ (STAGES.includes(stage) ? stage : "weights"),
    look: /** @type {State["look"]} */ (LOOKS.includes(look) ? look : "overlay"),
  };
}

/**
 * @param {URLSearchParams} words
 * @param {string} mark of the pane: "" or "2"
 * @param {Facts} facts
 * @param {View} usual
 * @returns {View}
 */
function readView(words, mark, facts, usual) {
  const terms = (words.get(`q${mark}`) ?? "").split(";").flatMap((text) => readTerm(text) ?? []);
  const isSum = terms.length > 1 && terms.some(standsAlone);
  const [scaling, scalingSetting] = readStage(words.get(`scaling${mark}`), SCALING_SETTINGS) ?? [
    usual.scaling,
    usual.scalingSetting,
  ];
  const [normalise, normaliseSetting] = readStage(words.get(`normalise${mark}`), NORMALISER_SETTINGS) ?? [
    usual.normalise,
    usual.normaliseSetting,
  ];
  const layer = facts.layers.findIndex(({ name }) => name === words.get(`layer${mark}`));
  return {
    terms: terms.length && !isSum ? terms : usual.terms,
    layer: layer >= 0 ? layer : usual.layer,
    scaling,
    scalingSetting,
    normalise,
    normaliseSetting,
  };
}

/**
 * @param {string | null} text temperature:2
 * @param {Record<string, { initial: number } | null>} known
 * @returns {[string, number | null] | null}
 */
function readStage(text, known) {
  const [name, setting] = (text ?? "").split(":");
  if (!Object.hasOwn(known, name)) return null;
  const number = Number(setting);
  const isGiven = setting !== undefined && number > 0 && Number.isFinite(number);
  return [name, known[name] && isGiven ? number : known[name] ? known[name].initial : null];
}
