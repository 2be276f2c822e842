// Values of cells -> coloured pixels, as attnvis.render.overlays has them: bicubic through the cells' levels.

/** @import { ColourFacts, Placement } from "./types.d.ts" */
import { bytesOf } from "./decode.js";
import { cubicTaps } from "./geometry.js";
import { extremes } from "./scaling.js";

const LINES = [4, 16, 64]; // times uniform
const UNSEEN = { overlay: 0xb0707070, heatmap: 0xffe6e6e6, photo: 0 };

/** @typedef {{ levels: Float32Array, low: number, high: number, isLog: boolean, lines: number[] }} Levels
 * levels: 0 ... 1 of every cell; low and high: the values at the ends of the scale */

/**
 * @param {Float64Array} weights
 * @param {ColourFacts} colours
 * @returns {Levels} on the fixed scale in times uniform, the same for every view
 */
export function levelsOfWeights(weights, { low, high, contours }) {
  const octaves = Math.log2(high / low);
  const levels = Float32Array.from(weights, (weight) => {
    const times = Math.min(Math.max(weight * weights.length, low), high);
    return Math.log2(times / low) / octaves;
  });
  const lines = contours ? LINES.filter((line) => line < high).map((line) => Math.log2(line / low) / octaves) : [];
  return { levels, low, high, isLog: true, lines };
}

/**
 * @param {Float64Array} values logits or scores
 * @param {ColourFacts} colours
 * @returns {Levels} from the lowest to the highest; constant ones get the middle
 */
export function levelsOfValues(values, { contours }) {
  let [low, high] = extremes(values);
  if (high - low <= 1e-6 * Math.abs(high)) [low, high] = [low - Math.abs(low) - 1, high + Math.abs(high) + 1];
  const levels = Float32Array.from(values, (value) => (value - low) / (high - low));
  return { levels, low, high, isLog: false, lines: contours ? [0.5, 0.75] : [] };
}

/**
 * @param {ColourFacts} colours
 * @param {boolean} isLog whether the scale is that of times uniform: then nothing is painted up to uniform
 * @param {boolean} isOpaque
 * @returns {Uint32Array} 256 colours, as the bytes of a canvas are read
 */
export function palette(colours, isLog, isOpaque) {
  const key = `${isLog} ${isOpaque}`;
  const made = knownPalettes.get(key) ?? makePalette(colours, isLog, isOpaque);
  knownPalettes.set(key, made);
  return made;
}

/** @type {Map<string, Uint32Array>} */
const knownPalettes = new Map(); // a page has one set of colours

/**
 * @param {ColourFacts} colours
 * @param {boolean} isLog
 * @param {boolean} isOpaque
 */
function makePalette(colours, isLog, isOpaque) {
  const table = bytesOf(colours.table);
  const packed = new Uint32Array(256);
  const bytes = new Uint8Array(packed.buffer);
  const octaves = Math.log2(colours.high / colours.low);
  const start = isLog ? Math.round((255 * Math.log2(1 / colours.low)) / octaves) / 255 : 0;
  for (let level = 0; level < 256; level++) {
    const above = Math.min(Math.max((2 * (level / 255 - start)) / (1 - start), 0), 1);
    const share = colours.follow ? Math.sin((Math.PI / 2) * above) : 1;
    bytes.set(table.subarray(3 * level, 3 * level + 3), 4 * level);
    bytes[4 * level + 3] = isOpaque ? 255 : Math.round(255 * colours.most * share);
  }
  return packed;
}

/** @type {Map<string, ReturnType<typeof cubicTaps>>} */
const knownTaps = new Map();

/**
 * @param {Placement} placement
 * @param {number} axis
 * @param {number} pixels
 * @param {number} length
 */
function taps(placement, axis, pixels, length) {
  const key = [axis, pixels, length, placement.grid, placement.first, placement.step].join();
  let known = knownTaps.get(key);
  if (!known) {
    if (knownTaps.size > 40) knownTaps.clear();
    known = cubicTaps(placement, axis, pixels, length);
    knownTaps.set(key, known);
  }
  return known;
}

/**
 * The level of every pixel, nowhere beyond the coldest and the hottest cell; NaN where the network never looked.
 *
 * @param {Float32Array} cells
 * @param {Placement} placement
 * @param {[number, number]} photo height, width
 * @param {[number, number]} size of the picture: height, width
 * @param {Float32Array} [target] of height * width, to be written to
 * @returns {Float32Array}
 */
export function pixelLevels(cells, placement, photo, [height, width], target) {
  const pixels = target ?? new Float32Array(height * width);
  const columns = placement.grid[1];
  const down = taps(placement, 0, height, photo[0]);
  const across = taps(placement, 1, width, photo[1]);
  let [low, high] = [Infinity, -Infinity];
  for (const cell of cells) {
    if (cell < low) low = cell;
    if (cell > high) high = cell;
  }
  const line = new Float32Array(columns);
  const { cells: places, weights } = across;
  const [top, left, tall, wide] = placement.seen;
  for (let y = 0, pixel = 0; y < height; y++) {
    const place = ((y + 0.5) * photo[0]) / height;
    if (place < top || place >= top + tall) {
      pixels.fill(NaN, pixel, pixel + width);
      pixel += width;
      continue;
    }
    const [r0, r1, r2, r3] = down.cells.subarray(4 * y, 4 * y + 4);
    const [w0, w1, w2, w3] = down.weights.subarray(4 * y, 4 * y + 4);
    for (let c = 0; c < columns; c++) {
      line[c] =
        w0 * cells[r0 * columns + c] + w1 * cells[r1 * columns + c] + w2 * cells[r2 * columns + c] + w3 * cells[r3 * columns + c];
    }
    for (let x = 0, tap = 0; x < width; x++, tap += 4, pixel++) {
      const level =
        weights[tap] * line[places[tap]] +
        weights[tap + 1] * line[places[tap + 1]] +
        weights[tap + 2] * line[places[tap + 2]] +
        weights[tap + 3] * line[places[tap + 3]];
      pixels[pixel] = level < low ? low : level > high ? high : level;
    }
  }
  blank(pixels, [height, width], photo[1], left, left + wide);
  return pixels;
}

/**
 * @param {Float32Array} pixels whose columns outside of start ... end become NaN
 * @param {[number, number]} size
 * @param {number} length
 * @param {number} start
 * @param {number} end
 */
function blank(pixels, [height, width], length, start, end) {
  for (let x = 0; x < width; x++) {
    const place = ((x + 0.5) * length) / width;
    if (place >= start && place < end) continue;
    for (let y = 0; y < height; y++) pixels[y * width + x] = NaN;
  }
}

/**
 * @param {Uint32Array} target
 * @param {Float32Array} levels of pixels
 * @param {Uint32Array} colours
 * @param {"overlay" | "heatmap" | "photo"} look
 */
export function colour(target, levels, colours, look) {
  const unseen = UNSEEN[look];
  for (let pixel = 0; pixel < target.length; pixel++) {
    const level = levels[pixel];
    target[pixel] = level === level ? colours[(255 * level + 0.5) | 0] : unseen;
  }
}

/**
 * Thin white lines where the levels pass each of `lines`.
 *
 * @param {Uint32Array} target
 * @param {Float32Array} levels
 * @param {number} width
 * @param {number[]} lines from the lowest up
 */
export function drawLines(target, levels, width, lines) {
  if (!lines.length) return;
  const bytes = new Uint8Array(target.buffer);
  const lowest = lines[0];
  const end = levels.length - width - 1;
  for (let pixel = 0; pixel < end; pixel++) {
    const here = levels[pixel];
    const right = levels[pixel + 1];
    const below = levels[pixel + width];
    if (here < lowest && right < lowest && below < lowest) continue; // most of most pictures
    for (const line of lines) {
      if (here > line === right > line && here > line === below > line) continue;
      if (right !== right || below !== below || here !== here || (pixel + 1) % width === 0) continue;
      const steep = Math.hypot(right - here, below - here);
      whiten(bytes, 4 * pixel, 1 - 0.5 * Math.min(Math.abs(here - line) / steep, 1));
    }
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {number} byte
 * @param {number} share of white that is laid over it
 */
function whiten(bytes, byte, share) {
  const under = (bytes[byte + 3] / 255) * (1 - share);
  const alpha = share + under;
  for (let channel = 0; channel < 3; channel++) {
    bytes[byte + channel] = (255 * share + bytes[byte + channel] * under) / alpha;
  }
  bytes[byte + 3] = 255 * alpha;
}
