// The note's page: one slider, d; by its root both pairs are divided, and the scores of a real photo.

import { decodeLayer } from "./decode.js";
import { answer } from "./measure.js";
import { Pane } from "./pane.js";
import { showPairs } from "./pairs.js";
import { readTerm } from "./scores.js";
import { questionText } from "./words.js";

const MOST = 4096; // d at the right end
const PLAYED = 9000; // milliseconds from one end to the other

/** @import { Facts, Layer, State, Term, View } from "./types.d.ts" */

/** @param {string} id */
const part = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const slider = /** @type {HTMLInputElement} */ (part("lab-dim"));

/** @param {string} id */
const textOf = (id) => part(id).textContent ?? "";

/** @returns {number} d, as the slider has it */
const dimNow = () => Math.round(MOST ** (Number(slider.value) / 1000));

/** @param {number} dim */
const positionOf = (dim) => (1000 * Math.log(dim)) / Math.log(MOST);

/** The photo: a question, and its map under the slider. */
class PhotoLab {
  /**
   * @param {Facts} facts
   * @param {Layer} layer
   */
  constructor(facts, layer) {
    this.facts = facts;
    this.layer = layer;
    /** @type {Term[]} */
    this.terms = [];
    const template = /** @type {HTMLTemplateElement} */ (part("pane"));
    const root = /** @type {HTMLElement} */ (/** @type {HTMLElement} */ (template.content.cloneNode(true)).firstElementChild);
    part("lab-photo").append(root);
    this.pane = new Pane(root, facts, {
      onAsk: (_, { terms, mode }) => this.ask(mode === "set" ? terms : [...this.terms, ...signed(terms, mode)]),
      onPoint: () => undefined,
      onFocus: () => undefined,
      mode: () => "set",
      isFollowing: () => false,
    });
    this.pane.image.src = /** @type {HTMLImageElement} */ (part("photo")).src;
    const [likeliest] = layer.facts.classes;
    for (const name of ["mean", ...(likeliest === undefined ? [] : [`class:${likeliest}`])]) {
      const terms = [/** @type {Term} */ (readTerm(name))];
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name === "mean" ? "What is typical here?" : `Where is ${questionText(terms, facts)}?`;
      button.addEventListener("click", () => this.ask(terms));
      part("lab-asks").append(button);
    }
    this.ask([/** @type {Term} */ (readTerm("mean"))]);
  }

  /** @param {Term[]} terms */
  ask(terms) {
    this.terms = terms;
    this.show(dimNow());
  }

  /** @param {number} dim by whose root scores are divided */
  show(dim) {
    const setting = { scaling: "temperature", scalingSetting: Math.sqrt(dim), normalise: "softmax", normaliseSetting: null };
    /** @type {View} */
    const view = { terms: this.terms, layer: 0, ...setting };
    /** @type {State} */
    const state = { views: [view], stage: "weights", look: "overlay" };
    try {
      this.pane.show({ layer: this.layer, outcome: answer(this.layer, view), view, state });
      this.pane.part(".how").textContent = dim === 1 ? "not divided" : `divided by √${dim}`;
    } catch (error) {
      this.pane.refuse(error instanceof Error ? error.message : String(error));
    }
  }
}

/**
 * @param {Term[]} terms
 * @param {"add" | "subtract"} mode
 * @returns {Term[]}
 */
function signed(terms, mode) {
  return terms.map((term) => ({ ...term, sign: mode === "subtract" ? -1 : 1 }));
}

/** @type {PhotoLab | null} */
let photo = null;

function slideDim() {
  const dim = dimNow();
  part("lab-says").textContent = dim === 1 ? "d = 1: nothing is divided" : `d = ${dim}: divided by √${dim} = ${Math.sqrt(dim).toFixed(2)}`;
  slider.setAttribute("aria-valuetext", textOf("lab-says"));
  showPairs(part("lab-pairs"), Math.sqrt(dim));
  photo?.show(dim);
}

/** @param {boolean} isPlaying */
function setPlaying(isPlaying) {
  part("lab-play").setAttribute("aria-pressed", String(isPlaying));
  part("lab-play").textContent = isPlaying ? "Stop" : "Play";
}

/** From where the slider stands, or from the left, to the right end. */
function play() {
  const isAtEnd = Number(slider.value) >= 1000;
  const [begun, first] = [performance.now(), isAtEnd ? 0 : Number(slider.value)];
  setPlaying(true);
  const step = () => {
    if (part("lab-play").getAttribute("aria-pressed") !== "true") return;
    const position = Math.min(first + (1000 * (performance.now() - begun)) / PLAYED, 1000);
    slider.value = String(position);
    slideDim();
    if (position < 1000) requestAnimationFrame(step);
    else setPlaying(false);
  };
  requestAnimationFrame(step);
}

slider.addEventListener("input", () => {
  setPlaying(false);
  slideDim();
});
for (const button of document.querySelectorAll("[data-dim]")) {
  button.addEventListener("click", () => {
    setPlaying(false);
    slider.value = String(positionOf(Number(button.getAttribute("data-dim"))));
    slideDim();
  });
}
part("lab-play").addEventListener("click", () => {
  if (part("lab-play").getAttribute("aria-pressed") === "true") setPlaying(false);
  else play();
});
part("lab").hidden = false;
slideDim();
if (document.getElementById("facts")) {
  const facts = /** @type {Facts} */ (JSON.parse(textOf("facts")));
  decodeLayer(facts.layers[0], (name) => textOf(`${name}-0`)).then((layer) => {
    photo = new PhotoLab(facts, layer);
    document.documentElement.dataset.ready = "true";
  });
}
