// The page of a run. Without this script it shows its cards in the order of the run; with it, rows can be sorted and filtered,
// those of a long run come as one scrolls, pictures are changed for heatmaps and photos, and open large.
import { asLook, part, pictureOf, wireLarge } from "./large.js";
import { compareNumbers, readLines } from "./lines.js";

/** @typedef {"order" | "photo" | "perplexity" | "max"} Key */

const lines = readLines();
const lists = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".rows")]);
const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".row")]);
const texts = rows.map((row) => (row.dataset.text ?? "").toLowerCase());
const buttons = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-sort]")]);
const names = buttons.map((button) => button.textContent ?? "");
const find = /** @type {HTMLInputElement | null} */ (document.getElementById("find"));
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
let sorted = { key: /** @type {Key} */ ("order"), isUp: true };

/** @param {Element} item */
const order = (item) => Number(/** @type {HTMLElement} */ (item).dataset.order);

/**
 * What an item is sorted by; several maps of one photo by the one that comes first.
 * @param {HTMLElement} item
 */
function numberOf(item) {
  const inside = /** @type {HTMLElement[]} */ (item.classList.contains("row") ? [item] : [...item.querySelectorAll(".row")]);
  const numbers = inside.map(({ dataset }) => (dataset[sorted.key] ? Number(dataset[sorted.key]) : NaN)).filter((value) => !Number.isNaN(value));
  if (!numbers.length) return NaN;
  return sorted.isUp ? Math.min(...numbers) : Math.max(...numbers);
}

/** @param {Key} key */
function sort(key) {
  // the first press shows what one looks for: names from A, the sharpest attention, the strongest preference
  sorted = { key, isUp: key === sorted.key && key !== "order" ? !sorted.isUp : key !== "max" };
  const sign = sorted.isUp ? 1 : -1;
  for (const list of lists) {
    const items = /** @type {HTMLElement[]} */ ([...list.children]);
    const keys = new Map(items.map((item) => [item, key === "photo" ? (item.dataset.photo ?? "") : numberOf(item)]));
    items.sort((one, other) => {
      const [a, b] = [keys.get(one) ?? "", keys.get(other) ?? ""];
      if (typeof a === "string" || typeof b === "string") return collator.compare(String(a), String(b)) * sign || order(one) - order(other);
      return compareNumbers(a, b, sign) || order(one) - order(other);
    });
    list.append(...items);
  }
  if (lines) {
    lines.sort(key, sign, collator);
    filter(find?.value ?? "");
  }
  buttons.forEach((button, number) => {
    const isActive = button.dataset.sort === key;
    button.setAttribute("aria-pressed", String(isActive));
    const arrow = sorted.isUp ? " ↑" : " ↓";
    button.textContent = names[number] + (isActive && key !== "order" ? arrow : "");
  });
}

/** @param {string} text */
function filter(text) {
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, number) => {
    const isShown = wanted.every((word) => texts[number].includes(word));
    if (row.hidden === isShown) row.hidden = !isShown;
    if (isShown) shown += 1;
  });
  for (const group of document.querySelectorAll(".of-photo")) {
    /** @type {HTMLElement} */ (group).hidden = !group.querySelector(".row:not([hidden])");
  }
  if (lines) shown += lines.filter(wanted);
  part("shown").textContent = wanted.length ? `${shown} of ${rows.length + (lines?.lines.length ?? 0)}` : "";
}

/** The pictures of all cards, for those of another kind; a card that has none keeps its overlay. @param {string} text */
function look(text) {
  const chosen = asLook(text);
  document.body.dataset.look = chosen;
  for (const image of /** @type {NodeListOf<HTMLImageElement>} */ (document.querySelectorAll("a[data-group] > img"))) {
    image.dataset.small ??= image.src;
    const tile = /** @type {HTMLElement} */ (image.parentElement);
    const other = chosen === "overlay" ? "" : pictureOf(tile, chosen);
    image.loading = "lazy";
    image.onerror = () => {
      image.onerror = null;
      image.src = image.dataset.small ?? "";
      part("looks-say").textContent = "Heatmaps and photos lie in the run's folder, which is not beside this page.";
    };
    if (image.getAttribute("src") !== (other || image.dataset.small)) image.src = other || image.dataset.small;
  }
}

wireLarge();
if (find) {
  const field = find;
  /** @type {HTMLElement} */ (document.querySelector(".tools")).hidden = false;
  for (const button of buttons) button.addEventListener("click", () => sort(/** @type {Key} */ (button.dataset.sort)));
  for (const chip of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-find]"))) {
    chip.addEventListener("click", () => {
      field.value = field.value === chip.dataset.find ? "" : (chip.dataset.find ?? "");
      filter(field.value);
    });
  }
  field.addEventListener("input", () => filter(field.value));
  filter(field.value); // a reloaded page keeps what was typed
  for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=look]"))) {
    radio.addEventListener("change", () => look(radio.value));
    if (radio.checked && radio.value !== "overlay") look(radio.value);
  }
}
