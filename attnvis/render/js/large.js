// Tiles that open large: one, or all that belong together side by side; as overlay, heatmap or photo; enlarged and moved together.
// A tile is a link to its picture: without this script it opens that.

/** @typedef {"overlay" | "heatmap" | "photo"} Look */
/** @typedef {{ tiles: HTMLAnchorElement[], at: number, look: Look, zoom: number, isAll: boolean }} State */

const LOOKS = /** @type {Look[]} */ (["overlay", "heatmap", "photo"]);
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const MOST = 24; // pictures side by side

/** @param {string} id */
export const part = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * @param {string | undefined} text
 * @returns {Look}
 */
export const asLook = (text) => LOOKS.find((look) => look === text) ?? "overlay";

/**
 * Where the picture of a tile lies; nothing for a look that it has not.
 * @param {HTMLElement} tile
 * @param {Look} look
 */
export function pictureOf(tile, look) {
  if (look === "heatmap") return tile.dataset.heatmap ?? "";
  if (look === "photo") return tile.dataset.bare ?? "";
  return tile.getAttribute("href") ?? "";
}

/**
 * Those that can be seen in the page, in its order.
 * @param {ParentNode} root
 */
export function tilesOf(root) {
  return /** @type {HTMLAnchorElement[]} */ ([...root.querySelectorAll("a[data-group]")]).filter((tile) => !tile.closest("[hidden]"));
}

/** The dialog, and what it shows. */
export class Large {
  /** @param {HTMLDialogElement} dialog */
  constructor(dialog) {
    this.dialog = dialog;
    this.box = part("large-pictures");
    /** @type {State} */
    this.state = { tiles: [], at: 0, look: "overlay", zoom: 1, isAll: false };
  }

  wire() {
    document.addEventListener("click", (event) => {
      const tile = /** @type {HTMLElement} */ (event.target).closest("a[data-group]");
      if (!(tile instanceof HTMLAnchorElement) || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      this.open(tile);
    });
    for (const [id, act] of /** @type {[string, () => void][]} */ ([
      ["large-close", () => this.dialog.close()],
      ["large-before", () => this.step(-1)],
      ["large-next", () => this.step(1)],
      ["large-in", () => this.magnify(1)],
      ["large-out", () => this.magnify(-1)],
      ["large-all", () => this.change({ isAll: !this.state.isAll })],
    ])) {
      part(id).addEventListener("click", act);
    }
    for (const radio of this.dialog.querySelectorAll("input[name=large-look]")) {
      radio.addEventListener("change", () => this.change({ look: asLook(/** @type {HTMLInputElement} */ (radio).value) }));
    }
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // beside it
    });
  }

  /**
   * @param {HTMLAnchorElement} tile
   * @param {Look} [look]
   */
  open(tile, look) {
    const tiles = tilesOf(document);
    const at = Math.max(tiles.indexOf(tile), 0);
    this.state = { ...this.state, tiles, at, look: look ?? asLook(document.body.dataset.look), zoom: 1 };
    this.dialog.showModal();
    this.show();
  }

  /** @returns {HTMLAnchorElement[]} what is shown now */
  get shown() {
    const { tiles, at, isAll } = this.state;
    return isAll ? this.together(tiles[at]).slice(0, MOST) : tiles.slice(at, at + 1);
  }

  /** @param {HTMLElement | undefined} tile */
  together(tile) {
    return this.state.tiles.filter((other) => other.dataset.group === tile?.dataset.group);
  }

  /** @param {Partial<State>} change */
  change(change) {
    Object.assign(this.state, change);
    this.show();
  }

  /** @param {1 | -1} way */
  step(way) {
    const { tiles, at, isAll } = this.state;
    let next = at + way;
    while (isAll && tiles[next] && tiles[next].dataset.group === tiles[at].dataset.group) next += way;
    if (tiles[next]) this.change({ at: next });
  }

  /** @param {1 | -1} way */
  magnify(way) {
    const next = ZOOMS[ZOOMS.indexOf(this.state.zoom) + way];
    if (!next) return;
    this.state.zoom = next;
    this.zoomAll();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { target } = event;
    const isRadio = target instanceof HTMLInputElement;
    const isMoving = this.state.zoom > 1 && target instanceof HTMLElement && target.classList.contains("pan");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowRight" && !isRadio && !isMoving) this.step(1);
    else if (event.key === "ArrowLeft" && !isRadio && !isMoving) this.step(-1);
    else if (event.key === "+" || event.key === "=") this.magnify(1);
    else if (event.key === "-") this.magnify(-1);
    else if (event.key === "a" && !part("large-all").hidden) this.change({ isAll: !this.state.isAll });
    else if (["1", "2", "3"].includes(event.key)) this.change({ look: LOOKS[Number(event.key) - 1] });
    else return;
    event.preventDefault();
  }

  show() {
    const { tiles, at, look, isAll } = this.state;
    const several = this.together(tiles[at]).length;
    part("large-title").textContent = tiles[at].dataset.title ?? "";
    part("large-place").textContent = `${at + 1} of ${tiles.length}`;
    part("large-all").hidden = several < 2;
    part("large-all").setAttribute("aria-pressed", String(isAll));
    part("large-all").textContent = several > MOST ? `first ${MOST} of ${several} side by side` : `all ${several} side by side`;
    const { shown } = this;
    part("large-look").hidden = !shown.some((tile) => pictureOf(tile, "heatmap") || pictureOf(tile, "photo"));
    for (const radio of this.dialog.querySelectorAll("input[name=large-look]")) {
      /** @type {HTMLInputElement} */ (radio).checked = /** @type {HTMLInputElement} */ (radio).value === look;
    }
    this.box.replaceChildren(...shown.map((tile) => this.figure(tile)));
    this.box.classList.toggle("several", shown.length > 1);
    this.zoomAll();
  }

  /** @param {HTMLAnchorElement} tile */
  figure(tile) {
    const figure = document.createElement("figure");
    const pan = document.createElement("div");
    pan.className = "pan";
    pan.tabIndex = 0;
    pan.setAttribute("role", "group");
    pan.setAttribute("aria-label", `${tile.dataset.caption ?? ""}; the arrows move an enlarged picture`);
    const image = document.createElement("img");
    image.alt = `${this.state.look} of ${tile.dataset.title ?? ""}: ${tile.dataset.caption ?? ""}`;
    image.draggable = false;
    const caption = document.createElement("figcaption");
    caption.textContent = tile.dataset.caption ?? "";
    const small = tile.querySelector("img")?.dataset.small ?? tile.querySelector("img")?.src ?? "";
    const wanted = pictureOf(tile, this.state.look);
    if (!wanted) caption.textContent += ` (it has no ${this.state.look} beside this page: the overlay)`;
    image.addEventListener("error", () => {
      if (!small || image.src === small) return;
      image.src = small; // the page alone was sent: its own small picture is all there is
      caption.textContent += " (small: the run's folder is not beside this page)";
    });
    image.addEventListener("load", () => pan.style.setProperty("--ratio", `${image.naturalWidth} / ${image.naturalHeight}`));
    image.src = wanted || pictureOf(tile, "overlay");
    image.addEventListener("click", () => this.change({ zoom: this.state.zoom > 1 ? 1 : 3 }));
    pan.addEventListener("scroll", () => this.follow(pan));
    pan.append(image);
    figure.append(pan, caption);
    return figure;
  }

  /** All pictures show the same place. @param {HTMLElement} moved */
  follow(moved) {
    const [across, down] = [moved.scrollWidth - moved.clientWidth, moved.scrollHeight - moved.clientHeight];
    for (const pan of this.box.querySelectorAll(".pan")) {
      if (pan === moved) continue;
      if (across > 0) pan.scrollLeft = (moved.scrollLeft / across) * (pan.scrollWidth - pan.clientWidth);
      if (down > 0) pan.scrollTop = (moved.scrollTop / down) * (pan.scrollHeight - pan.clientHeight);
    }
  }

  zoomAll() {
    const { zoom } = this.state;
    this.box.classList.toggle("zoomed", zoom > 1);
    for (const image of this.box.querySelectorAll("img")) image.style.width = image.style.height = `${100 * zoom}%`;
    for (const pan of this.box.querySelectorAll(".pan")) {
      pan.scrollLeft = (pan.scrollWidth - pan.clientWidth) / 2;
      pan.scrollTop = (pan.scrollHeight - pan.clientHeight) / 2;
    }
    part("large-zoom").textContent = zoom === 1 ? "whole" : `${zoom}×`;
  }
}

/** Wires the dialog of this page, where it has one. */
export function wireLarge() {
  const dialog = document.getElementById("large");
  if (!(dialog instanceof HTMLDialogElement)) return null;
  const large = new Large(dialog);
  large.wire();
  return large;
}
