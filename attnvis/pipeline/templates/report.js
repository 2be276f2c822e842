"use strict";
// Without this script the page shows every row in the order of the run; with it, rows can be sorted and filtered.
const lists = [...document.querySelectorAll(".rows")];
const rows = [...document.querySelectorAll(".row")];
const buttons = [...document.querySelectorAll("[data-sort]")];
const find = document.getElementById("find");
const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
let sorted = { key: "order", up: true };

function compare(one, other) {
  const [a, b] = [one.dataset[sorted.key], other.dataset[sorted.key]];
  if (sorted.key === "photo") return words.compare(a, b) * (sorted.up ? 1 : -1);
  const [x, y] = [a === "" ? NaN : Number(a), b === "" ? NaN : Number(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // what has no number comes last, either way
  return (x - y) * (sorted.up ? 1 : -1);
}

function sort(key) {
  // the first press shows what one looks for: names from A, the sharpest attention, the strongest preference
  sorted = { key, up: key === sorted.key && key !== "order" ? !sorted.up : key !== "max" };
  for (const list of lists) list.append(...[...list.children].sort((a, b) => compare(a, b) || a.dataset.order - b.dataset.order));
  for (const button of buttons) {
    const active = button.dataset.sort === key;
    button.setAttribute("aria-pressed", active);
    button.textContent = button.dataset.name + (active && key !== "order" ? (sorted.up ? " ↑" : " ↓") : "");
  }
}

function filter() {
  const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.dataset.text.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = wanted.length ? `${shown} of ${rows.length}` : "";
}

if (find) {
  document.querySelector(".tools").hidden = false;
  for (const button of buttons) {
    button.dataset.name = button.textContent;
    button.addEventListener("click", () => sort(button.dataset.sort));
  }
  for (const chip of document.querySelectorAll("[data-find]")) {
    chip.addEventListener("click", () => {
      find.value = find.value === chip.dataset.find ? "" : chip.dataset.find;
      filter();
    });
  }
  find.addEventListener("input", filter);
  filter(); // a reloaded page keeps what was typed
}
