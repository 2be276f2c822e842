// Pictures and texts that a reader takes along, in a frame that may allow neither downloads nor the clipboard.

/** @import { Pane } from "./pane.js" */
/** @import { Facts } from "./types.d.ts" */

/**
 * @param {Pane[]} panes
 * @param {Facts} facts
 * @returns {string} a png as the address of an image: the pictures side by side, what was asked, the colour bars
 */
export function picture(panes, facts) {
  const width = Math.max(panes[0].image.naturalWidth, 640);
  const height = Math.round((width * facts.photo.size[0]) / facts.photo.size[1]);
  const [margin, foot, head] = [16, 96, 64];
  const canvas = document.createElement("canvas");
  canvas.width = panes.length * (width + margin) + margin;
  canvas.height = head + height + foot;
  const brush = canvas.getContext("2d");
  if (!brush) throw new Error("This browser gives no canvas.");
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  panes.forEach((pane, number) => {
    const left = margin + number * (width + margin);
    brush.fillStyle = "#181b21";
    brush.font = "600 22px system-ui, sans-serif";
    brush.fillText(pane.part(".question").textContent ?? "", left, 28, width);
    brush.font = "16px system-ui, sans-serif";
    brush.fillStyle = "#5f656f";
    brush.fillText(`${pane.part(".how").textContent} · ${pane.part(".spread").textContent}`, left, 52, width);
    brush.drawImage(pane.image, left, head, width, height);
    if (!pane.canvas.hidden) brush.drawImage(pane.canvas, left, head, width, height);
    drawAsked(brush, pane, left, head, width / facts.photo.size[1]);
    if (!pane.canvas.hidden) drawBar(brush, pane, left, head + height + 14, width);
  });
  return canvas.toDataURL("image/png");
}

/**
 * @param {CanvasRenderingContext2D} brush
 * @param {Pane} pane
 * @param {number} left
 * @param {number} top
 * @param {number} zoom
 */
function drawAsked(brush, pane, left, top, zoom) {
  for (const { sign, kind, numbers } of pane.shown?.view.terms ?? []) {
    const [x, y, width, height] = numbers.map((number) => number * zoom);
    for (const [colour, thickness] of /** @type {[string, number][]} */ ([["#141414", 5], ["#fff", 2.5]])) {
      brush.strokeStyle = colour;
      brush.lineWidth = thickness;
      brush.setLineDash(sign < 0 ? [7, 5] : []);
      brush.beginPath();
      if (kind === "box") brush.rect(left + x, top + y, width, height);
      if (kind === "point") brush.arc(left + x, top + y, 12, 0, 2 * Math.PI);
      brush.stroke();
    }
  }
  brush.setLineDash([]);
}

/**
 * @param {CanvasRenderingContext2D} brush
 * @param {Pane} pane
 * @param {number} left
 * @param {number} top
 * @param {number} width
 */
function drawBar(brush, pane, left, top, width) {
  brush.imageSmoothingEnabled = false;
  brush.drawImage(pane.bar, left, top, width, 16);
  brush.imageSmoothingEnabled = true;
  brush.fillStyle = "#181b21";
  brush.font = "15px system-ui, sans-serif";
  for (const tick of pane.part(".ticks").children) {
    const text = tick.textContent ?? "";
    const place = (parseFloat(/** @type {HTMLElement} */ (tick).style.left) / 100) * width;
    const half = brush.measureText(text).width / 2;
    brush.fillText(text, left + Math.min(Math.max(place - half, 0), width - 2 * half), top + 34);
  }
  brush.fillStyle = "#5f656f";
  brush.fillText(pane.part(".unit").textContent ?? "", left, top + 58, width);
}

/**
 * @param {string} text
 * @returns {Promise<boolean>} whether it is on the clipboard now
 */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.style.position = "fixed";
    document.body.append(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    return isCopied;
  }
}
