// The page of a sweep. Without this script the table stands in the order of the sweep and the first photo is shown; with it, a press on a
// heading sorts, a second one turns it round, another photo can be chosen, and pictures open large.
import { part, wireLarge } from "./large.js";

const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/**
 * @param {HTMLTableCellElement} a
 * @param {HTMLTableCellElement} b
 * @param {boolean} isUp
 */
function compareCells(a, b, isUp) {
  const [one, other] = [a.dataset.value, b.dataset.value];
  const sign = isUp ? 1 : -1;
  if (one === undefined || other === undefined) return words.compare(a.textContent ?? "", b.textContent ?? "") * sign;
  if (one === "" || other === "") return Number(one === "") - Number(other === ""); // no number: last, either way
  return (Number(one) - Number(other)) * sign;
}

/** @param {HTMLTableCellElement} heading */
function sortBy(heading) {
  const body = /** @type {HTMLTableElement} */ (heading.closest("table")).tBodies[0];
  const isUp = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentElement?.children ?? []) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", isUp ? "ascending" : "descending");
  body.append(...[...body.rows].sort((a, b) => compareCells(a.cells[heading.cellIndex], b.cells[heading.cellIndex], isUp)));
}

/** @param {string} number */
function choosePhoto(number) {
  for (const photo of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".one-photo"))) photo.hidden = photo.dataset.number !== number;
}

for (const button of document.querySelectorAll("[data-column]")) {
  const heading = /** @type {HTMLTableCellElement} */ (button.closest("th"));
  button.addEventListener("click", () => sortBy(heading));
}
const choice = /** @type {HTMLSelectElement | null} */ (document.getElementById("photo-choice"));
if (choice) {
  choice.addEventListener("change", () => choosePhoto(choice.value));
  choosePhoto(choice.value); // a reloaded page keeps what was chosen
  document.addEventListener("error", ({ target }) => {
    if (target instanceof HTMLImageElement && target.closest(".one-photo")) {
      part("photo-say").textContent = "This photo's pictures lie in the sweep's folder, which is not beside this page.";
    }
  }, true);
}
wireLarge();
