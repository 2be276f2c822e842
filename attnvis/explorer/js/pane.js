// One picture with its map, its marks and its colour bar; the pointer and the keys that ask it.

/** @import { Facts, Layer, Outcome, State, Term, View } from "./types.d.ts" */
import { nearestCell } from "./geometry.js";
import { colour, drawLines, levelsOfValues, levelsOfWeights, palette, pixelLevels } from "./draw.js";
import { format, questionText } from "./words.js";
import { stageText } from "./hash.js";

const QUICK_PIXELS = 720; // of a map's long side, while it changes
const FINE_PIXELS = 1800; // at rest
const REST = 160; // milliseconds
const SVG = "http://www.w3.org/2000/svg";
const DRAG = 6; // pixels of the screen from which on a press is a box

/** @typedef {{ terms: Term[], mode: "set" | "add" | "subtract" }} Question
 * @typedef {{ row: number, column: number, x: number, y: number }} Place
 * @typedef {{ onAsk: (pane: Pane, question: Question) => void, onPoint: (pane: Pane, place: Place | null) => void,
 *   onFocus: (pane: Pane) => void, mode: () => Question["mode"], isFollowing: () => boolean }} Listener */

export class Pane {
  /**
   * @param {HTMLElement} root
   * @param {Facts} facts
   * @param {Listener} listener
   */
  constructor(root, facts, listener) {
    this.root = root;
    this.facts = facts;
    this.listener = listener;
    this.stage = /** @type {HTMLElement} */ (root.querySelector(".stage"));
    this.image = /** @type {HTMLImageElement} */ (root.querySelector("img"));
    this.canvas = /** @type {HTMLCanvasElement} */ (root.querySelector("canvas.map"));
    this.bar = /** @type {HTMLCanvasElement} */ (root.querySelector("canvas.bar"));
    this.marks = /** @type {SVGElement} */ (/** @type {unknown} */ (root.querySelector("svg")));
    this.tip = /** @type {HTMLElement} */ (root.querySelector(".tip"));
    this.said = /** @type {HTMLElement} */ (root.querySelector(".said"));
    /** @type {{ layer: Layer, outcome: Outcome, view: View, state: State } | null} */
    this.shown = null;
    /** @type {Place | null} */
    this.place = null;
    this.options = { cells: false, field: false };
    /** @type {{ x: number, y: number, clientX: number, clientY: number, isBox: boolean } | null} */
    this.press = null;
    /** @type {Float32Array | undefined} */
    this.pixels = undefined;
    /** @type {ImageData | null} */
    this.data = null;
    this.scale = { low: 0, high: 1, isLog: true };
    this.barShown = "";
    this.restTimer = 0;
    const [height, width] = facts.photo.size;
    this.marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.listen();
  }

  /** @param {{ layer: Layer, outcome: Outcome, view: View, state: State }} shown */
  show(shown) {
    this.shown = shown;
    this.paint(QUICK_PIXELS);
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(() => this.paint(FINE_PIXELS), REST);
    this.drawMarks();
    this.writeHead();
    if (this.place) this.point(this.place);
  }

  /** @param {string} text why there is no map */
  refuse(text) {
    this.shown = null;
    clearTimeout(this.restTimer);
    this.canvas.getContext("2d")?.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.marks.replaceChildren();
    this.part(".question").textContent = text;
    this.part(".spread").textContent = "";
    this.part(".bar-box").hidden = true;
  }

  /** @param {string} selector */
  part(selector) {
    return /** @type {HTMLElement} */ (this.root.querySelector(selector));
  }

  /** @param {number} most pixels of the long side */
  paint(most) {
    if (!this.shown) return;
    const { layer, outcome, state } = this.shown;
    const { colours, photo } = this.facts;
    const scaled =
      state.stage === "weights"
        ? levelsOfWeights(outcome.weights, colours)
        : levelsOfValues(state.stage === "logits" ? outcome.logits : outcome.asked.scores, colours);
    this.scale = scaled;
    this.part(".bar-box").hidden = state.look === "photo";
    this.canvas.hidden = state.look === "photo";
    if (state.look === "photo") return;
    const shares = palette(colours, scaled.isLog, state.look === "heatmap");
    const [height, width] = this.pictureSize(most);
    if (this.canvas.width !== width || this.canvas.height !== height || !this.data || !this.pixels) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.pixels = new Float32Array(width * height);
      this.data = new ImageData(width, height);
    }
    const target = new Uint32Array(this.data.data.buffer);
    pixelLevels(scaled.levels, layer.facts, photo.size, [height, width], this.pixels);
    colour(target, this.pixels, shares, state.look);
    if (state.look === "overlay") drawLines(target, this.pixels, width, scaled.lines);
    this.canvas.getContext("2d")?.putImageData(this.data, 0, 0);
    this.paintBar(palette(colours, scaled.isLog, true));
  }

  /**
   * @param {number} most
   * @returns {[number, number]} height and width of the map in pixels
   */
  pictureSize(most) {
    const [height, width] = this.facts.photo.size;
    const shown = this.stage.getBoundingClientRect();
    const wanted = Math.max(shown.width, shown.height) * Math.min(window.devicePixelRatio || 1, 2);
    const long = Math.min(Math.max(wanted || most, 200), most);
    const zoom = long / Math.max(height, width);
    return [Math.max(1, Math.round(height * zoom)), Math.max(1, Math.round(width * zoom))];
  }

  /** @param {Uint32Array} colours */
  paintBar(colours) {
    const stage = this.shown?.state.stage ?? "weights";
    const shown = [stage, this.scale.low, this.scale.high].join();
    if (shown === this.barShown) return;
    this.barShown = shown;
    this.bar.width = 256;
    this.bar.height = 1;
    const data = new ImageData(256, 1);
    new Uint32Array(data.data.buffer).set(colours);
    this.bar.getContext("2d")?.putImageData(data, 0, 0);
    const ticks = this.part(".ticks");
    const { low, high, isLog } = this.scale;
    const values = isLog ? [low, 1, 4, 16, high] : [low, (low + high) / 2, high];
    const marks = [...new Set(values)].filter((value) => value >= low && value <= high);
    ticks.replaceChildren(
      ...marks.map((value) => {
        const tick = document.createElement("span");
        tick.style.left = `${100 * this.levelOf(value)}%`;
        tick.textContent = isLog && value === 1 ? "uniform" : isLog ? `${timesText(value)}` : format(value);
        return tick;
      }),
    );
    this.part(".unit").textContent =
      stage === "weights"
        ? "times uniform (N·a), the same scale in every picture"
        : `${stage}, from this map's lowest to its highest (min–max)`;
  }

  /** @param {number} value */
  levelOf(value) {
    const { low, high, isLog } = this.scale;
    const level = isLog ? Math.log2(value / low) / Math.log2(high / low) : (value - low) / (high - low);
    return Math.min(Math.max(level, 0), 1);
  }

  writeHead() {
    if (!this.shown) return;
    const { layer, outcome, view } = this.shown;
    this.part(".question").textContent = questionText(view.terms, this.facts);
    const layerText = this.facts.layers.length > 1 ? `, ${layer.facts.name}` : "";
    const setting = view.normalise === "softmax" ? "" : `, ${stageText(view.normalise, view.normaliseSetting)}`;
    this.part(".how").textContent = stageText(view.scaling, view.scalingSetting) + setting + layerText;
    const hottest = outcome.weights[outcome.hottest] * layer.patches;
    this.part(".spread").textContent =
      `spread over ${format(outcome.perplexity)} of ${layer.patches} patches, hottest ${format(hottest)} × uniform`;
    this.stage.setAttribute(
      "aria-label",
      `${this.facts.photo.name}: attention of ${questionText(view.terms, this.facts)}. ` +
        "Arrow keys move between patches, Enter asks, Shift Enter subtracts.",
    );
  }

  // Marks, in pixels of the photo

  drawMarks() {
    if (!this.shown) return;
    const { layer, view } = this.shown;
    const unit = Math.max(...this.facts.photo.size) / 100;
    /** @type {Element[]} */
    const shapes = [];
    if (this.options.cells) shapes.push(this.gridOf(layer));
    for (const term of view.terms) {
      const [x, y, width, height] = term.numbers;
      const kind = term.sign < 0 ? "asked minus" : "asked";
      if (term.kind === "box") shapes.push(...twice("rect", { x, y, width, height }, kind));
      if (term.kind === "point") shapes.push(...ring(x, y, unit, kind));
    }
    if (this.place) shapes.push(...this.cellMarks(layer, this.place));
    if (this.press?.isBox && this.place) shapes.push(...twice("rect", boxOf(this.press, this.place), "asked"));
    this.marks.replaceChildren(...shapes);
  }

  /** @param {Layer} layer */
  gridOf({ facts }) {
    const lines = [];
    const [rows, columns] = facts.grid;
    const [top, left] = [facts.first[0] - facts.step[0] / 2, facts.first[1] - facts.step[1] / 2];
    const [bottom, right] = [top + rows * facts.step[0], left + columns * facts.step[1]];
    for (let row = 0; row <= rows; row++) lines.push(`M${left} ${top + row * facts.step[0]}H${right}`);
    for (let column = 0; column <= columns; column++) lines.push(`M${left + column * facts.step[1]} ${top}V${bottom}`);
    return shape("path", { d: lines.join("") }, "cells");
  }

  /**
   * @param {Layer} layer
   * @param {Place} place
   */
  cellMarks({ facts }, { row, column }) {
    const [down, across] = [facts.first[0] + facts.step[0] * row, facts.first[1] + facts.step[1] * column];
    const tile = { x: across - facts.step[1] / 2, y: down - facts.step[0] / 2, width: facts.step[1], height: facts.step[0] };
    const shapes = twice("rect", tile, "cell");
    if (!this.options.field || !facts.field) return shapes;
    const [top, left, tall, wide] = facts.seen;
    const y = Math.max(top, down - facts.field[0] / 2);
    const x = Math.max(left, across - facts.field[1] / 2);
    const height = Math.min(top + tall, down + facts.field[0] / 2) - y;
    const width = Math.min(left + wide, across + facts.field[1] / 2) - x;
    return [...shapes, ...twice("rect", { x, y, width, height }, "field")];
  }

  // Pointer and keys

  listen() {
    const { stage } = this;
    stage.addEventListener("pointerdown", (event) => this.pressDown(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    stage.addEventListener("pointerup", (event) => this.release(event));
    stage.addEventListener("pointercancel", () => (this.press = null));
    stage.addEventListener("pointerleave", () => {
      if (!this.press) this.leave();
    });
    stage.addEventListener("contextmenu", (event) => {
      if (event.ctrlKey) event.preventDefault();
    });
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("focus", () => this.listener.onFocus(this));
    this.root.addEventListener("pointerdown", () => this.listener.onFocus(this));
  }

  /**
   * @param {PointerEvent} event
   * @returns {{ x: number, y: number }} in pixels of the photo
   */
  onPhoto(event) {
    const box = this.stage.getBoundingClientRect();
    const [height, width] = this.facts.photo.size;
    const x = ((event.clientX - box.left) / box.width) * width;
    const y = ((event.clientY - box.top) / box.height) * height;
    return { x: clamp(x, 0, width - 0.5), y: clamp(y, 0, height - 0.5) };
  }

  /** @param {{ x: number, y: number }} spot */
  placeAt({ x, y }) {
    const layer = this.shown?.layer.facts ?? this.facts.layers[0];
    const [row, column] = nearestCell(layer, y, x);
    return { row, column, x, y };
  }

  /** @param {PointerEvent} event */
  pressDown(event) {
    if (event.button !== 0) return;
    const spot = this.onPhoto(event);
    this.press = { ...spot, clientX: event.clientX, clientY: event.clientY, isBox: false };
    if (event.pointerType === "mouse") this.stage.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  move(event) {
    const place = this.placeAt(this.onPhoto(event));
    if (this.press) {
      const far = Math.hypot(event.clientX - this.press.clientX, event.clientY - this.press.clientY);
      this.press.isBox ||= far > DRAG;
    }
    this.point(place);
    if (this.listener.isFollowing() && !this.press) {
      this.listener.onAsk(this, { terms: [pointTerm(place)], mode: "set" });
    }
  }

  /** @param {PointerEvent} event */
  release(event) {
    if (!this.press) return;
    const { press } = this;
    this.press = null;
    const place = this.placeAt(this.onPhoto(event));
    const mode = event.shiftKey ? "subtract" : event.altKey || event.ctrlKey || event.metaKey ? "add" : this.listener.mode();
    const box = boxOf(press, place);
    const isBox = press.isBox && box.width >= 1 && box.height >= 1;
    /** @type {Term} */
    const term = isBox
      ? { sign: 1, kind: "box", numbers: [box.x, box.y, box.width, box.height] }
      : pointTerm(this.placeAt(press));
    this.listener.onAsk(this, { terms: [term], mode });
  }

  leave() {
    this.place = null;
    this.tip.hidden = true;
    this.part(".needle").hidden = true;
    this.drawMarks();
    this.listener.onPoint(this, null);
  }

  /** @param {Place} place */
  point(place) {
    this.place = place;
    this.drawMarks();
    this.writeTip();
    this.listener.onPoint(this, place);
  }

  writeTip() {
    if (!this.shown || !this.place) return;
    const { outcome, layer, state } = this.shown;
    const patch = this.place.row * layer.facts.grid[1] + this.place.column;
    const times = outcome.weights[patch] * layer.patches;
    const value =
      state.stage === "weights" ? times : state.stage === "logits" ? outcome.logits[patch] : outcome.asked.scores[patch];
    this.tip.textContent = state.stage === "weights" ? `${format(times)} × uniform` : `${state.stage.slice(0, -1)} ${format(value)}`;
    this.tip.hidden = false;
    const [height, width] = this.facts.photo.size;
    this.tip.style.left = `${(100 * this.place.x) / width}%`;
    this.tip.style.top = `${(100 * this.place.y) / height}%`;
    this.tip.classList.toggle("left", this.place.x > 0.75 * width);
    this.tip.classList.toggle("up", this.place.y > 0.85 * height);
    const needle = this.part(".needle");
    needle.hidden = false;
    needle.style.left = `${100 * this.levelOf(value)}%`;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const layer = this.shown?.layer.facts ?? this.facts.layers[0];
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    const from = this.place ?? { row: layer.grid[0] >> 1, column: layer.grid[1] >> 1, x: 0, y: 0 };
    if (move) {
      const row = clamp(from.row + (this.place ? move[0] : 0), 0, layer.grid[0] - 1);
      const column = clamp(from.column + (this.place ? move[1] : 0), 0, layer.grid[1] - 1);
      const [height, width] = this.facts.photo.size;
      const y = clamp(layer.first[0] + layer.step[0] * row, 0, height - 0.5);
      const x = clamp(layer.first[1] + layer.step[1] * column, 0, width - 0.5);
      this.point({ row, column, x, y });
      this.said.textContent = `row ${row + 1}, column ${column + 1}: ${this.tip.textContent}`;
    } else if (event.key === "Enter" || event.key === " ") {
      const mode = event.shiftKey ? "subtract" : event.altKey ? "add" : this.listener.mode();
      if (this.place) this.listener.onAsk(this, { terms: [pointTerm(this.place)], mode });
      if (this.shown) this.said.textContent = `${this.part(".question").textContent}: ${this.part(".spread").textContent}`;
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** @param {Place} place */
function pointTerm({ x, y }) {
  return /** @type {Term} */ ({ sign: 1, kind: "point", numbers: [tenth(x), tenth(y)] });
}

/**
 * @param {{ x: number, y: number }} one
 * @param {{ x: number, y: number }} other
 */
function boxOf(one, other) {
  const [x, y] = [Math.round(Math.min(one.x, other.x)), Math.round(Math.min(one.y, other.y))];
  return { x, y, width: Math.round(Math.abs(one.x - other.x)), height: Math.round(Math.abs(one.y - other.y)) };
}

/** @param {number} value */
function tenth(value) {
  return Math.round(10 * value) / 10;
}

/** @param {number} value @param {number} low @param {number} high */
function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** @param {number} value */
function timesText(value) {
  return value === 0.25 ? "¼" : value === 0.5 ? "½" : format(value);
}

/**
 * @param {string} kind
 * @param {Record<string, string | number>} attributes
 * @param {string} classes
 */
function shape(kind, attributes, classes) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.setAttribute("class", classes);
  element.setAttribute("vector-effect", "non-scaling-stroke");
  return element;
}

/**
 * Dark under light: seen on any ground.
 *
 * @param {string} kind
 * @param {Record<string, string | number>} attributes
 * @param {string} classes
 */
function twice(kind, attributes, classes) {
  return [shape(kind, attributes, `under ${classes}`), shape(kind, attributes, classes)];
}

/** @param {number} x @param {number} y @param {number} unit @param {string} classes */
function ring(x, y, unit, classes) {
  const radius = 1.4 * unit;
  const [inner, outer] = [0.55 * radius, 1.7 * radius];
  const ticks = `M${x - outer} ${y}H${x - inner}M${x + inner} ${y}H${x + outer}`;
  const upright = classes.includes("minus") ? "" : `M${x} ${y - outer}V${y - inner}M${x} ${y + inner}V${y + outer}`;
  return [...twice("circle", { cx: x, cy: y, r: radius }, classes), ...twice("path", { d: ticks + upright }, classes)];
}
