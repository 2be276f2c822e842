/** What the page's own facts and the modules hand to one another.  Read by tsc only. */

export interface RowFacts {
  name: string; // pca:1, rarity
  dim: number;
  length: number;
  ownKeys: boolean;
  caution: string;
}

export interface LayerFacts {
  name: string;
  grid: [number, number];
  dim: number;
  first: [number, number];
  step: [number, number];
  seen: [number, number, number, number]; // top, left, height, width
  field: [number, number] | null;
  source: string;
  quantum: number;
  error: number;
  rows: RowFacts[];
  classes: number[];
  gram: number;
}

export interface ColourFacts {
  table: string;
  low: number;
  high: number;
  most: number;
  follow: boolean;
  contours: boolean;
}

export interface Facts {
  photo: { name: string; path: string; size: [number, number] };
  network: string;
  command: string[] | null;
  python: string[];
  start: string;
  layers: LayerFacts[];
  classes: { names: string[]; probabilities: number[] };
  sentences: Record<string, Record<string, string>>;
  colours: ColourFacts;
}

/** A question whose scores the file holds. */
export interface Row {
  scores: Float64Array;
  dim: number;
  length: number;
  keyNorms: Float64Array | null; // null: those of the patches
  error: number;
  caution: string;
}

export interface Layer {
  facts: LayerFacts;
  patches: number;
  tokens: Float32Array; // [N, D]
  norms: Float64Array;
  rows: Map<string, () => Row>;
  gram: Float32Array; // [G, G]
}

export interface Term {
  sign: 1 | -1;
  kind: string; // point, box, mean, class, pca, random, distance, norm, rarity
  numbers: number[];
}

/** The scores of one question and all that a scaling needs beside them. */
export interface Asked {
  scores: Float64Array;
  dim: number;
  length: number; // NaN: the file does not know it
  keyNorms: Float64Array;
  error: number; // of a score, at most
  vector: Float64Array | null; // [D]; null: the file does not know it
  cautions: string[];
}

export interface Setting {
  name: string;
  initial: number;
  low: number;
  high: number;
}

/** One pane: a question and what is done with its scores. */
export interface View {
  terms: Term[];
  layer: number;
  scaling: string;
  scalingSetting: number | null;
  normalise: string;
  normaliseSetting: number | null;
}

export interface State {
  views: View[]; // one or two
  stage: "weights" | "logits" | "scores";
  look: "overlay" | "heatmap" | "photo";
}

/** What a view comes to. */
export interface Outcome {
  asked: Asked;
  logits: Float64Array;
  weights: Float64Array;
  perplexity: number;
  hottest: number;
  bound: number; // total variation from Python's own weights, at most
}

export interface Placement {
  grid: [number, number];
  first: [number, number];
  step: [number, number];
  seen: [number, number, number, number];
}
