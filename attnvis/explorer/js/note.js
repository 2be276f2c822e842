// The note's page: one slider, d; both pairs divided by its root.

import { showPairs } from "./pairs.js";

const MOST = 4096; // d at the right end

/** @param {string} id */
const part = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

function slideDim() {
  const slider = /** @type {HTMLInputElement} */ (part("lab-dim"));
  const dim = Math.round(MOST ** (Number(slider.value) / 1000));
  part("lab-says").textContent = dim === 1 ? "d = 1: nothing is divided" : `d = ${dim}: divided by √${dim} = ${Math.sqrt(dim).toFixed(2)}`;
  slider.setAttribute("aria-valuetext", part("lab-says").textContent ?? "");
  showPairs(part("lab-pairs"), Math.sqrt(dim));
}

part("lab-dim").addEventListener("input", slideDim);
for (const button of document.querySelectorAll("[data-dim]")) {
  button.addEventListener("click", () => {
    const slider = /** @type {HTMLInputElement} */ (part("lab-dim"));
    slider.value = String((1000 * Math.log(Number(button.getAttribute("data-dim")))) / Math.log(MOST));
    slideDim();
  });
}
part("lab").hidden = false;
slideDim();
