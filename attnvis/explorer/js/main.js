// The page: its facts are read, its controls wired, and every change is asked anew.

/** @import { Facts, Layer, Outcome, Term, View } from "./types.d.ts" */
import { decodeLayer } from "./decode.js";
import { readTerm, standsAlone, termText } from "./scores.js";
import { ORIGINS, SCALING_SETTINGS, divisorOf } from "./scaling.js";
import { NORMALISER_SETTINGS } from "./normalise.js";
import { answer } from "./measure.js";
import { readState, stageText, writeState } from "./hash.js";
import { commandOf, format, percent, pythonOf, questionText, termLabel } from "./words.js";
import { Pane } from "./pane.js";
import { showPairs } from "./pairs.js";
import { copy, picture } from "./save.js";

const CHANNELS = 5;
const ADDRESS_DELAY = 200; // milliseconds
const FOUND = 8; // classes that a search lists

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {string} id */
const input = (id) => /** @type {HTMLInputElement} */ (byId(id));
/** @param {string} id */
const choice = (id) => /** @type {HTMLSelectElement} */ (byId(id));

/** @param {string} id */
function textOf(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error("this file is cut off: a part of it is missing");
  return element.textContent ?? "";
}

/**
 * A page may hold several photos: the pieces of all but the first have its number behind a dot.
 * @param {string} id
 * @param {number} photo
 */
const idOf = (id, photo) => (photo ? `${id}.${photo}` : id);

/** @param {string} hash @returns {number} the photo that a link asks for: photo=2 is the second */
function photoOf(hash) {
  const number = Number(new URLSearchParams(hash.replace(/^#/, "")).get("photo") ?? 1) - 1;
  return document.getElementById(idOf("facts", number)) ? number : 0;
}

/** @param {number} photo @returns {Facts} */
function readFacts(photo) {
  const text = textOf(idOf("facts", photo));
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("this file is damaged: its facts cannot be read");
  }
}

class Page {
  /** @param {number} photo */
  constructor(photo) {
    this.photo = photo;
    this.facts = readFacts(photo);
    /** @type {Layer[]} */
    this.layers = [];
    /** @type {Pane[]} */
    this.panes = [];
    this.active = 0;
    this.isFollowing = false;
    this.isWaiting = false;
    this.addressTimer = 0;
    this.listed = -1; // the layer of which the classes are listed
    this.state = readState(window.location.hash || this.facts.start, this.facts, this.usualView());
  }

  /** @returns {View} what a page asks before anyone asked */
  usualView() {
    const layer = this.facts.layers.length - 1; // of several the one that is nearest to the classifier
    const { classes } = this.facts.layers[layer];
    const first = classes.length ? `class:${classes[0]}` : "mean";
    return {
      terms: [/** @type {Term} */ (readTerm(first))],
      layer,
      scaling: "perplexity",
      scalingSetting: 0.1,
      normalise: "softmax",
      normaliseSetting: null,
    };
  }

  /** @returns {View} the one that the controls are for */
  get view() {
    return this.state.views[this.active];
  }

  async start() {
    this.wire();
    this.fillPhotos();
    await this.load();
  }

  async load() {
    const { photo } = this;
    // One after the other: the first is shown as soon as it is there.
    for (const [number, facts] of this.facts.layers.entries()) {
      const layer = await decodeLayer(facts, (name) => textOf(idOf(`${name}-${number}`, photo)));
      if (photo !== this.photo) return; // another was chosen meanwhile
      this.layers[number] = layer;
      if (number === Math.max(...this.state.views.map(({ layer }) => layer))) this.begin();
    }
  }

  begin() {
    this.fillChoices();
    this.writeLead();
    this.makePanes();
    this.update();
  }

  // Photos

  fillPhotos() {
    const box = document.getElementById("photos");
    for (let photo = 0; box && document.getElementById(idOf("facts", photo)); photo++) {
      const image = document.createElement("img");
      image.src = /** @type {HTMLImageElement} */ (byId(idOf("photo", photo))).src;
      image.alt = readFacts(photo).photo.name;
      const button = document.createElement("button");
      button.type = "button";
      button.title = image.alt;
      button.append(image);
      button.addEventListener("click", () => this.pick(photo));
      box.append(button);
    }
  }

  /**
   * Another photo, asked the same; a place on one photo is none on another.
   * @param {number} photo
   * @param {string} [link] what is asked of it; none: what is asked now
   */
  async pick(photo, link) {
    if (photo === this.photo) return;
    const asked = link ?? writeState(this.state, this.facts);
    this.photo = photo;
    this.facts = readFacts(photo);
    this.layers = [];
    this.listed = -1;
    for (const pane of this.panes.splice(0)) pane.root.remove();
    this.state = readState(asked, this.facts, this.usualView());
    if (link === undefined) for (const view of this.state.views) this.leaveOut(view);
    await this.load();
  }

  /** @param {View} view without what only the photo before could be asked */
  leaveOut(view) {
    const { classes } = this.facts.layers[view.layer];
    const kept = view.terms.filter(({ kind, numbers }) => kind !== "point" && kind !== "box" && (kind !== "class" || classes.includes(numbers[0])));
    view.terms = kept.length ? kept : this.usualView().terms;
  }

  writeLead() {
    const { name, size } = this.facts.photo;
    document.title = name;
    /** @type {HTMLElement} */ (document.querySelector("h1")).textContent = name;
    byId("lead-size").textContent = `${size[1]} × ${size[0]}`;
    /** @type {HTMLElement} */ (document.querySelector(".lab")).style.setProperty("--ratio", String(size[1] / size[0]));
    document.querySelectorAll("#photos button").forEach((button, photo) => button.setAttribute("aria-pressed", String(photo === this.photo)));
  }

  // Panes

  makePanes() {
    const stages = byId("stages");
    const template = /** @type {HTMLTemplateElement} */ (byId("pane"));
    while (this.panes.length > this.state.views.length) this.panes.pop()?.root.remove();
    while (this.panes.length < this.state.views.length) {
      const root = /** @type {HTMLElement} */ (template.content.cloneNode(true)).firstElementChild;
      stages.append(/** @type {Element} */ (root));
      const pane = new Pane(/** @type {HTMLElement} */ (root), this.facts, {
        onAsk: (asker, question) => this.ask(asker, question),
        onPoint: (pointed, place) => this.writePatch(pointed, place !== null),
        onFocus: (focused) => this.activate(this.panes.indexOf(focused)),
        mode: () => /** @type {"set"} */ (document.querySelector("input[name=mode]:checked")?.getAttribute("value") ?? "set"),
        isFollowing: () => this.isFollowing,
      });
      pane.image.src = /** @type {HTMLImageElement} */ (byId(idOf("photo", this.photo))).src;
      this.panes.push(pane);
    }
    this.active = Math.min(this.active, this.panes.length - 1);
    stages.classList.toggle("two", this.panes.length > 1);
    byId("compare").setAttribute("aria-pressed", String(this.panes.length > 1));
    byId("compare-text").textContent = this.panes.length > 1 ? "Close the second" : "Compare side by side";
    this.panes.forEach((pane, number) => {
      pane.root.classList.toggle("active", this.panes.length > 1 && number === this.active);
      pane.part(".letter").textContent = this.panes.length > 1 ? "AB"[number] : "";
    });
  }

  /** @param {number} number */
  activate(number) {
    if (number === this.active || number < 0) return;
    this.active = number;
    this.makePanes();
    this.writeControls();
  }

  // Questions

  /**
   * @param {Pane | null} pane
   * @param {import("./pane.js").Question} question
   */
  ask(pane, { terms, mode }) {
    if (pane) this.active = Math.max(this.panes.indexOf(pane), 0);
    const { view } = this;
    const added = terms.map((term) => ({ ...term, sign: /** @type {1 | -1} */ (mode === "subtract" ? -1 : 1) }));
    const isWhole = [...view.terms, ...terms].some(standsAlone);
    if (mode === "set" || (isWhole && mode === "add")) view.terms = terms;
    else if (isWhole) this.say("Distance, norm and rarity stand alone: nothing is subtracted from them.");
    else view.terms = [...view.terms.filter((known) => !added.some((term) => sameTerm(known, term))), ...added];
    this.later();
  }

  /** A change is shown with the next frame, however many came before it. */
  later() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.update();
    });
  }

  update() {
    if (!this.layers[this.view.layer]) return; // it is still being unpacked
    if (this.panes.length !== this.state.views.length) this.makePanes();
    this.panes.forEach((pane, number) => this.showPane(pane, this.state.views[number]));
    this.writeControls();
    clearTimeout(this.addressTimer); // browsers refuse a page that changes its address with every step of a slider
    this.addressTimer = setTimeout(() => this.writeAddress(), ADDRESS_DELAY);
  }

  /**
   * @param {Pane} pane
   * @param {View} view
   */
  showPane(pane, view) {
    const layer = this.layers[view.layer];
    if (!layer) return;
    pane.options = { cells: input("cells").checked, field: input("field").checked };
    try {
      pane.show({ layer, outcome: answer(layer, view), view, state: this.state });
    } catch (error) {
      pane.refuse(error instanceof Error ? error.message : String(error));
    }
  }

  writeAddress() {
    try {
      const photo = this.photo ? `photo=${this.photo + 1}&` : "";
      window.history.replaceState(null, "", `#${photo}${writeState(this.state, this.facts)}`);
    } catch {
      // a frame without an origin has no address of its own
    }
  }

  // Controls

  fillChoices() {
    const { facts } = this;
    for (const id of ["scaling", "normalise", "layer"]) choice(id).replaceChildren();
    choice("component").length = 1;
    const scaling = choice("scaling");
    for (const name of Object.keys(SCALING_SETTINGS)) scaling.add(new Option(SCALING_LABELS[name], name));
    const normaliser = choice("normalise");
    for (const name of Object.keys(NORMALISER_SETTINGS)) normaliser.add(new Option(name, name));
    const layer = choice("layer");
    facts.layers.forEach(({ name, grid, dim }, number) => {
      layer.add(new Option(`${name}: ${grid[0]} × ${grid[1]} patches of ${dim} channels`, String(number)));
    });
    byId("layer-row").hidden = facts.layers.length < 2;
    byId("class-row").hidden = !facts.layers.some(({ classes }) => classes.length);
    const component = choice("component");
    for (const { name } of facts.layers[0].rows) {
      if (name.startsWith("pca:")) component.add(new Option(`principal direction ${name.slice(4)}`, name));
    }
    for (const { name } of facts.layers[0].rows) {
      if (name.startsWith("random:")) component.add(new Option(`random vector ${name.slice(7)}: the control`, name));
    }
  }

  wire() {
    for (const button of document.querySelectorAll("[data-ask]")) {
      button.addEventListener("click", () => this.askText(button.getAttribute("data-ask") ?? "mean", "set"));
    }
    choice("component").addEventListener("change", ({ target }) => {
      const { value } = /** @type {HTMLSelectElement} */ (target);
      if (value) this.askText(value, "set");
    });
    input("find").addEventListener("input", () => this.listClasses(input("find").value));
    input("find").addEventListener("keydown", (event) => {
      if (event.key === "Enter") /** @type {HTMLElement | null} */ (document.querySelector("#found .pick"))?.click();
    });
    choice("scaling").addEventListener("change", () => this.choose("scaling", choice("scaling").value));
    choice("normalise").addEventListener("change", () => this.choose("normalise", choice("normalise").value));
    input("sharp").addEventListener("input", () => this.slide());
    input("normal").addEventListener("input", () => this.slideNormaliser());
    choice("layer").addEventListener("change", () => this.change({ layer: Number(choice("layer").value) }));
    for (const name of ["stage", "look"]) {
      for (const radio of document.querySelectorAll(`input[name=${name}]`)) {
        radio.addEventListener("change", () => {
          Object.assign(this.state, { [name]: radio.getAttribute("value") });
          this.later();
        });
      }
    }
    for (const id of ["cells", "field"]) input(id).addEventListener("change", () => this.later());
    input("follow").addEventListener("change", () => (this.isFollowing = input("follow").checked));
    byId("compare").addEventListener("click", () => this.compare());
    byId("save").addEventListener("click", () => this.save());
    for (const kind of ["link", "command", "python"]) byId(`copy-${kind}`).addEventListener("click", () => this.copyText(kind));
    window.addEventListener("hashchange", ({ newURL }) => {
      const hash = newURL.replace(/^[^#]*/, ""); // the page itself may have written its address anew since
      if (photoOf(hash) !== this.photo) {
        this.pick(photoOf(hash), hash);
        return;
      }
      this.state = readState(hash, this.facts, this.usualView());
      this.later();
    });
    window.addEventListener("resize", () => this.later());
    document.addEventListener("keydown", (event) => this.shortcut(event));
  }

  /** @param {KeyboardEvent} event */
  shortcut(event) {
    const { target } = event;
    if (target instanceof HTMLInputElement && target.type === "search") return;
    if (target instanceof HTMLSelectElement || event.ctrlKey || event.metaKey || event.altKey) return;
    const looks = { 1: "overlay", 2: "heatmap", 3: "photo" };
    if (event.key === "f") input("follow").click();
    else if (event.key === "b") this.compare();
    else if (event.key === "c") input("cells").click();
    else if (event.key === "Escape" && this.isFollowing) input("follow").click();
    else if (Object.hasOwn(looks, event.key)) {
      this.state.look = /** @type {"photo"} */ (looks[/** @type {keyof typeof looks} */ (/** @type {unknown} */ (event.key))]);
      this.later();
    }
  }

  /** @param {Partial<View>} change */
  change(change) {
    Object.assign(this.view, change);
    this.later();
  }

  /**
   * @param {"scaling" | "normalise"} group
   * @param {string} name
   */
  choose(group, name) {
    const known = group === "scaling" ? SCALING_SETTINGS : NORMALISER_SETTINGS;
    const setting = known[name]?.initial ?? null;
    this.change(group === "scaling" ? { scaling: name, scalingSetting: setting } : { normalise: name, normaliseSetting: setting });
  }

  slide() {
    const { view } = this;
    const dim = this.facts.layers[view.layer].dim;
    const name = divisorOf(view.scaling, view.scalingSetting, dim) === null ? view.scaling : "temperature";
    const setting = SCALING_SETTINGS[name];
    if (setting) this.change({ scaling: name, scalingSetting: fromSlider(Number(input("sharp").value), setting) });
  }

  slideNormaliser() {
    const setting = NORMALISER_SETTINGS[this.view.normalise];
    if (!setting) return;
    const value = fromSlider(Number(input("normal").value), setting);
    this.change({ normaliseSetting: setting.name === "k" ? Math.round(value) : value });
  }

  compare() {
    if (this.state.views.length > 1) this.state.views.splice(1 - this.active, 1);
    else this.state.views.push(structuredClone(this.view));
    this.active = this.state.views.length - 1;
    this.makePanes();
    this.later();
  }

  /**
   * @param {string} text
   * @param {"set" | "add" | "subtract"} mode
   */
  askText(text, mode) {
    const term = readTerm(text);
    if (term) this.ask(null, { terms: [term], mode });
  }

  /** @param {string} wanted */
  listClasses(wanted) {
    const { names, probabilities } = this.facts.classes;
    const known = this.facts.layers[this.view.layer].classes;
    this.listed = this.view.layer;
    const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
    const order = Array.from(names.keys()).sort((one, other) => probabilities[other] - probabilities[one]);
    const found = (names.length ? order : known).filter((index) => {
      const name = (names[index] ?? `class ${index}`).toLowerCase();
      return words.every((word) => name.includes(word));
    });
    const rows = found.slice(0, words.length ? FOUND : 5).map((index) => this.classRow(index, known.includes(index)));
    byId("found").replaceChildren(...rows);
    byId("found-none").hidden = found.length > 0;
  }

  /**
   * @param {number} index
   * @param {boolean} isKnown
   */
  classRow(index, isKnown) {
    const row = document.createElement("li");
    const name = termLabel({ sign: 1, kind: "class", numbers: [index] }, this.facts);
    const share = this.facts.classes.probabilities[index];
    const chance = share === undefined ? "" : percent(share);
    row.append(this.classButton(name, "pick", name, () => this.askText(`class:${index}`, "set"), isKnown));
    const number = document.createElement("span");
    number.className = "chance";
    number.textContent = isKnown ? chance : `${chance}, not in this file`;
    number.style.setProperty("--share", String(share ?? 0));
    row.append(number);
    row.append(this.classButton("+", "add", `add ${name}`, () => this.askText(`class:${index}`, "add"), isKnown));
    row.append(this.classButton("−", "subtract", `subtract ${name}`, () => this.askText(`class:${index}`, "subtract"), isKnown));
    return row;
  }

  /**
   * @param {string} text
   * @param {string} kind
   * @param {string} label
   * @param {() => void} act
   * @param {boolean} isKnown
   */
  classButton(text, kind, label, act, isKnown) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = kind;
    button.textContent = text;
    button.title = isKnown ? label : `attnvis explore PHOTO classes=all keeps every class`;
    button.setAttribute("aria-label", label);
    button.disabled = !isKnown;
    button.addEventListener("click", act);
    return button;
  }

  // What the controls say

  writeControls() {
    const { view, state } = this;
    const layer = this.layers[view.layer];
    const outcome = this.panes[this.active]?.shown?.outcome ?? null;
    if (this.listed !== view.layer) this.listClasses(input("find").value);
    this.writeChips();
    choice("scaling").value = view.scaling;
    choice("normalise").value = view.normalise;
    choice("layer").value = String(view.layer);
    const [lone] = view.terms;
    choice("component").value = view.terms.length === 1 && (lone.kind === "pca" || lone.kind === "random") ? termText(lone) : "";
    for (const [name, value] of [["stage", state.stage], ["look", state.look]]) {
      /** @type {HTMLInputElement} */ (document.querySelector(`input[name=${name}][value=${value}]`)).checked = true;
    }
    this.writeSlider(layer);
    this.writeNormaliser();
    this.writeNumbers(layer, outcome);
    this.writePatch(this.panes[this.active], this.panes[this.active]?.place !== null);
    byId("command").textContent = commandOf(view, this.facts) ?? pythonOf(view, this.facts);
    /** @type {HTMLButtonElement} */ (byId("copy-command")).disabled = commandOf(view, this.facts) === null;
  }

  writeChips() {
    const chips = this.view.terms.map((term, number) => {
      const chip = document.createElement("li");
      const sign = document.createElement("button");
      sign.type = "button";
      sign.className = "sign";
      sign.textContent = term.sign < 0 ? "−" : "+";
      sign.disabled = standsAlone(term);
      sign.title = "add or subtract";
      sign.setAttribute("aria-label", `${term.sign < 0 ? "subtracted" : "added"}: ${termLabel(term, this.facts)}; press to turn`);
      sign.addEventListener("click", () => {
        term.sign = term.sign < 0 ? 1 : -1;
        this.later();
      });
      const name = document.createElement("span");
      name.textContent = termLabel(term, this.facts);
      chip.append(sign, name);
      if (this.view.terms.length > 1) {
        const away = document.createElement("button");
        away.type = "button";
        away.className = "away";
        away.textContent = "×";
        away.setAttribute("aria-label", `remove ${termLabel(term, this.facts)}`);
        away.addEventListener("click", () => {
          this.view.terms.splice(number, 1);
          this.later();
        });
        chip.append(away);
      }
      chip.classList.toggle("minus", term.sign < 0);
      return chip;
    });
    byId("chips").replaceChildren(...chips);
  }

  /** @param {Layer} layer */
  writeSlider(layer) {
    const { view } = this;
    const divisor = divisorOf(view.scaling, view.scalingSetting, layer.facts.dim);
    const setting = divisor === null ? SCALING_SETTINGS[view.scaling] : SCALING_SETTINGS.temperature;
    const value = divisor ?? view.scalingSetting ?? 0;
    byId("scaling-text").textContent = this.facts.sentences.scaling[view.scaling] ?? "";
    byId("sharp-name").textContent = divisor !== null ? "temperature: scores are divided by" : SETTING_LABELS[view.scaling] ?? "setting";
    byId("sharp-value").textContent = view.scaling === "perplexity" && value < 1 ? percent(value) : format(value, 4);
    byId("pairs-box").hidden = divisor === null;
    if (divisor !== null) {
      showPairs(byId("pairs"), divisor);
      byId("pairs-say").textContent = `A photo of two patches, whose scores are divided by ${format(divisor, 4)} too:`;
    }
    const ticks = byId("sharp-ticks");
    ticks.replaceChildren();
    if (!setting) return;
    input("sharp").value = String(toSlider(value, setting));
    if (divisor === null) return;
    const marks = { none: 1, "√d": Math.sqrt(layer.facts.dim), d: layer.facts.dim };
    for (const [name, place] of Object.entries(marks)) {
      const tick = document.createElement("button");
      tick.type = "button";
      tick.textContent = name;
      tick.title = `divide by ${format(place, 4)}`;
      tick.style.left = `${toSlider(place, setting) / 10}%`;
      tick.addEventListener("click", () => this.choose("scaling", { none: "none", "√d": "inv_sqrt_d", d: "inv_d" }[name] ?? "none"));
      ticks.append(tick);
    }
  }

  writeNormaliser() {
    const { view } = this;
    const setting = NORMALISER_SETTINGS[view.normalise];
    byId("normalise-text").textContent = this.facts.sentences.normalise[view.normalise] ?? "";
    byId("normal-row").hidden = !setting;
    if (!setting) return;
    input("normal").value = String(toSlider(view.normaliseSetting ?? setting.initial, setting));
    byId("normal-name").textContent = setting.name === "k" ? "patches that are kept" : "power";
    byId("normal-value").textContent = format(view.normaliseSetting ?? setting.initial);
  }

  /**
   * @param {Layer} layer
   * @param {Outcome | null} outcome
   */
  writeNumbers(layer, outcome) {
    byId("perplexity").textContent = outcome ? `${format(outcome.perplexity)} of ${layer.patches} patches` : "–";
    const hottest = outcome ? outcome.weights[outcome.hottest] * layer.patches : NaN;
    byId("hottest").textContent = `${format(hottest)} × uniform`;
    byId("length").textContent = outcome ? format(outcome.asked.length) : "–";
    byId("bound").textContent = outcome ? boundText(outcome.bound) : "";
    const cautions = [...(outcome?.asked.cautions ?? [])];
    if (outcome && outcome.perplexity > 0.9 * layer.patches && layer.patches > 1) cautions.push("nearly uniform: this says little");
    if (outcome && outcome.weights[outcome.hottest] > 0.99 && layer.patches > 1) cautions.push("one-hot: nearly all of the weight is on one patch");
    const asked = this.view.terms.length === 1 && this.view.terms[0].kind === "class" ? this.view.terms[0].numbers[0] : -1;
    const share = this.facts.classes.probabilities[asked];
    if (share < 0.01) cautions.push(`unlikely: the network gives this class ${percent(share)} here`);
    byId("caution").textContent = cautions.join("; ");
    byId("caution").hidden = !cautions.length;
  }

  /**
   * @param {Pane | undefined} pane
   * @param {boolean} isPointed
   */
  writePatch(pane, isPointed) {
    const list = byId("channels");
    if (!pane?.shown || pane !== this.panes[this.active]) return;
    const { layer, outcome, view } = pane.shown;
    const place = isPointed ? pane.place : null;
    const patch = place ? place.row * layer.facts.grid[1] + place.column : outcome.hottest;
    const [row, column] = [Math.floor(patch / layer.facts.grid[1]), patch % layer.facts.grid[1]];
    byId("patch-where").textContent = `${place ? "Under the pointer" : "The hottest patch"}: row ${row + 1}, column ${column + 1}`;
    const { asked } = outcome;
    byId("patch-times").textContent = `${format(outcome.weights[patch] * layer.patches)} × uniform`;
    byId("patch-score").textContent = format(asked.scores[patch]);
    const origin = ORIGINS[view.scaling] ? `, from ${ORIGINS[view.scaling]}` : "";
    byId("patch-logit").textContent = `${format(outcome.logits[patch])}${origin}`;
    byId("patch-cosine").textContent = format(asked.scores[patch] / (asked.length * asked.keyNorms[patch]));
    byId("patch-norm").textContent = format(layer.norms[patch]);
    const channels = strongest(layer, patch, asked.vector);
    byId("channels-title").textContent = asked.vector ? "Channels that make its score" : "Its strongest channels";
    const most = Math.max(...channels.map(({ amount }) => Math.abs(amount)), 1e-12);
    list.replaceChildren(
      ...channels.map(({ channel, amount }) => {
        const item = document.createElement("li");
        item.style.setProperty("--share", String(Math.abs(amount) / most));
        const [name, value] = [document.createElement("span"), document.createElement("span")];
        name.textContent = `channel ${channel}`;
        value.textContent = asked.vector ? `${percent(amount / asked.scores[patch])} of it` : format(amount);
        if (asked.vector && !(asked.scores[patch] > 0)) value.textContent = format(amount);
        item.append(name, value);
        return item;
      }),
    );
  }

  // Taking along

  save() {
    const address = picture(this.panes, this.facts);
    const link = document.createElement("a");
    link.href = address;
    link.download = `${this.facts.photo.name.replace(/\.\w+$/, "")}-attention.png`;
    link.click();
    /** @type {HTMLImageElement} */ (byId("saved")).src = address;
    byId("saved-box").hidden = false;
    this.say("The picture is saved; where downloads are not allowed, copy it from below.");
  }

  /** @param {string} kind */
  async copyText(kind) {
    const { view, facts } = this;
    this.writeAddress();
    const texts = { link: window.location.href, command: commandOf(view, facts) ?? "", python: pythonOf(view, facts) };
    const text = texts[/** @type {keyof typeof texts} */ (kind)];
    byId("command").textContent = text;
    const isCopied = await copy(text);
    this.say(isCopied ? `Copied: the ${kind === "python" ? "Python line" : kind}.` : "Not allowed to copy here: mark the text and copy it.");
  }

  /** @param {string} text */
  say(text) {
    byId("say").textContent = text;
  }
}

/** @type {Record<string, string>} */
const SCALING_LABELS = {
  none: "s, not scaled",
  inv_sqrt_d: "s / √d",
  inv_d: "s / d",
  temperature: "s / temperature",
  cosine: "cosine / temperature",
  zscore: "z-score",
  robust_z: "robust z-score",
  minmax: "min–max",
  log_n: "log N",
  ssmax: "s ln N (SSMax)",
  perplexity: "to a share of the patches",
};

/** @type {Record<string, string>} */
const SETTING_LABELS = {
  cosine: "temperature of the cosine",
  zscore: "temperature",
  robust_z: "temperature",
  minmax: "temperature",
  log_n: "base of the logarithm",
  ssmax: "factor",
  perplexity: "share of the patches",
};

/** @param {Term} one @param {Term} other */
function sameTerm(one, other) {
  return one.kind === other.kind && one.numbers.join() === other.numbers.join();
}

/** @param {number} position 0 ... 1000 @param {{ low: number, high: number }} setting */
function fromSlider(position, { low, high }) {
  return Number((low * (high / low) ** (position / 1000)).toPrecision(3));
}

/** @param {number} value @param {{ low: number, high: number }} setting */
function toSlider(value, { low, high }) {
  return Math.min(Math.max((1000 * Math.log(value / low)) / Math.log(high / low), 0), 1000);
}

/** @param {number} bound */
function boundText(bound) {
  const size = bound < 1e-5 ? "0.00001" : format(bound, 1);
  return `Weights within ${size} of attnvis in Python, at worst (total variation, of 1).`;
}

/**
 * @param {Layer} layer
 * @param {number} patch
 * @param {Float64Array | null} vector of the question
 * @returns {{ channel: number, amount: number }[]} by what they add to the score; without a vector by their own size
 */
function strongest(layer, patch, vector) {
  const dim = layer.facts.dim;
  /** @type {{ channel: number, amount: number }[]} */
  const best = [];
  for (let channel = 0; channel < dim; channel++) {
    const value = layer.tokens[patch * dim + channel];
    const amount = vector ? value * vector[channel] : value;
    const size = Math.abs(amount);
    if (best.length === CHANNELS && size <= Math.abs(best[CHANNELS - 1].amount)) continue;
    best.push({ channel, amount });
    best.sort((one, other) => Math.abs(other.amount) - Math.abs(one.amount));
    if (best.length > CHANNELS) best.pop();
  }
  return best;
}

const begun = performance.now();
(async () => {
  const trouble = byId("trouble"); // what it says stands there where no script runs, or not all of the file came
  try {
    const page = new Page(photoOf(window.location.hash));
    await page.start();
    trouble.hidden = true;
    const api = {
      ready: performance.now() - begun,
      /** @param {string} text of a link */
      answer: (text) => {
        const [view] = readState(text, page.facts, page.usualView()).views;
        const { weights, bound, perplexity } = answer(page.layers[view.layer], view);
        return { weights: Array.from(weights), bound, perplexity };
      },
      question: () => questionText(page.view.terms, page.facts),
      scaling: () => stageText(page.view.scaling, page.view.scalingSetting),
    };
    Object.assign(globalThis, { attnvisExplorer: api }); // for scripts, and for tests
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    trouble.classList.remove("late");
    trouble.textContent = `This page cannot be shown: ${error instanceof Error ? error.message : error}.`;
  }
})();
