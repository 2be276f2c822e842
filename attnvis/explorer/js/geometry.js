// Where cells lie on the photo: as attnvis.geometry and attnvis.attention.query.kinds have it.  Axis 0: rows.

/** @import { Placement } from "./types.d.ts" */

/**
 * @param {Placement} placement
 * @param {number} axis
 * @returns {number[]} the cells' centres along an axis, in pixels of the photo
 */
export function cellCentres(placement, axis) {
  return Array.from({ length: placement.grid[axis] }, (_, cell) => placement.first[axis] + placement.step[axis] * cell);
}

/**
 * @param {Placement} placement
 * @param {number} axis
 * @param {number} position in pixels of the photo
 * @returns {number[]} linear interpolation between the cells' centres; they sum to 1
 */
export function interpolationWeights(placement, axis, position) {
  const centres = cellCentres(placement, axis);
  const inside = Math.min(Math.max(position, centres[0]), centres[centres.length - 1]);
  return centres.map((centre) => Math.max(0, 1 - Math.abs(centre - inside) / placement.step[axis]));
}

/**
 * @param {Placement} placement
 * @param {number} axis
 * @param {number} low
 * @param {number} high
 * @returns {number[]} the length that each cell shares with [low, high)
 */
export function overlapLengths(placement, axis, low, high) {
  const centres = cellCentres(placement, axis);
  const [start, length] = [placement.seen[axis], placement.seen[axis + 2]];
  const edges = [start];
  for (let cell = 1; cell < centres.length; cell++) edges.push((centres[cell - 1] + centres[cell]) / 2);
  edges.push(start + length);
  return centres.map((_, cell) => Math.max(Math.min(high, edges[cell + 1]) - Math.max(low, edges[cell]), 0));
}

/**
 * @param {Placement} placement
 * @param {number} down
 * @param {number} across
 * @returns {[number, number]} the cell (row, column) whose centre is next to a place on the photo
 */
export function nearestCell(placement, down, across) {
  /**
   * @param {number} place
   * @param {number} axis
   */
  const along = (place, axis) => {
    const cell = Math.round((place - placement.first[axis]) / placement.step[axis]);
    return Math.min(Math.max(cell, 0), placement.grid[axis] - 1);
  };
  return [along(down, 0), along(across, 1)];
}

/**
 * Cubic interpolation (Catmull and Rom 1974) at the centres of pixels: four cells and their weights for each.
 *
 * @param {Placement} placement
 * @param {number} axis
 * @param {number} pixels along the axis
 * @param {number} length of the photo along the axis
 * @returns {{ cells: Int32Array, weights: Float32Array }} [pixels, 4]
 */
export function cubicTaps(placement, axis, pixels, length) {
  const count = placement.grid[axis];
  const cells = new Int32Array(4 * pixels);
  const weights = new Float32Array(4 * pixels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    const place = ((pixel + 0.5) * length) / pixels;
    const position = Math.min(Math.max((place - placement.first[axis]) / placement.step[axis], 0), count - 1);
    const base = Math.min(Math.floor(position), Math.max(count - 2, 0));
    for (let tap = 0; tap < 4; tap++) cells[4 * pixel + tap] = Math.min(Math.max(base - 1 + tap, 0), count - 1);
    for (let side = 0; side < 2; side++) {
      const cell = base + side;
      if (cell > count - 1) continue;
      const offset = position - cell;
      const nearness = Math.max(0, 1 - Math.abs(offset));
      const square = nearness * nearness;
      weights[4 * pixel + 1 + side] += square * (3 - 2 * nearness);
      if (cell === 0 || cell === count - 1) continue; // the outer cells' slope is 0
      const halfSlope = (square * offset) / 2;
      weights[4 * pixel + 2 + side] += halfSlope;
      weights[4 * pixel + side] -= halfSlope;
    }
  }
  return { cells, weights };
}
