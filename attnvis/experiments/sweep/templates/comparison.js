"use strict";
// Without this script the table stands in the order of the sweep; with it, a press on a heading sorts, a second one turns it round.
const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
for (const button of document.querySelectorAll("[data-column]")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const [body, column] = [heading.closest("table").tBodies[0], heading.cellIndex];
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (one, other) => {
      const [a, b] = [one.cells[column], other.cells[column]];
      if (a.dataset.value === undefined) return words.compare(a.textContent, b.textContent) * (up ? 1 : -1);
      if (a.dataset.value === "" || b.dataset.value === "") return (a.dataset.value === "") - (b.dataset.value === ""); // no number: last, either way
      return (a.dataset.value - b.dataset.value) * (up ? 1 : -1);
    };
    body.append(...[...body.rows].sort(compare));
  });
}
