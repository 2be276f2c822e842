// The table of a long run: rows that are data, shown as one scrolls, in the order and by the filter of the page.

/**
 * @typedef {[order: number, group: number, photo: string, query: string, label: string, scaling: string, address: string,
 *   perplexity: number | null, patches: number | null, max: number | null, badges: string[]]} LineData
 */

const STEP = 100; // rows that come at once

/**
 * @param {number | null} value
 * @returns {string} 0.0123, 34.2, 1204; a dash for nothing
 */
export function format(value) {
  if (value === null) return "–";
  return Math.abs(value) >= 1000 && Math.abs(value) < 1e9 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

/**
 * Orders two values; what is none comes last, whichever way.
 * @param {number | null} a
 * @param {number | null} b
 * @param {number} sign
 */
export function compareNumbers(a, b, sign) {
  const [isNone, isOtherNone] = [a === null || Number.isNaN(a), b === null || Number.isNaN(b)];
  if (isNone || isOtherNone) return Number(isNone) - Number(isOtherNone);
  return (Number(a) - Number(b)) * sign;
}

export class Lines {
  /**
   * @param {HTMLElement} body of the table
   * @param {HTMLElement} more the button below it
   * @param {LineData[]} lines
   */
  constructor(body, more, lines) {
    this.body = body;
    this.more = more;
    this.lines = lines;
    this.texts = lines.map(([, , photo, query, label, scaling, , , , , badges]) => [photo, query, label, scaling, ...badges].join(" ").toLowerCase());
    this.order = lines.map((_, number) => number);
    this.shown = this.order;
    this.count = 0; // rows that are in the page
    this.observer = new IntersectionObserver((entries) => {
      if (entries.some(({ isIntersecting }) => isIntersecting)) this.add();
    }, { rootMargin: "600px" });
  }

  wire() {
    this.more.addEventListener("click", () => this.add());
    this.show();
  }

  /**
   * @param {"order" | "photo" | "perplexity" | "max"} key
   * @param {number} sign
   * @param {Intl.Collator} collator
   */
  sort(key, sign, collator) {
    const { lines } = this;
    const place = { order: 0, photo: 2, perplexity: 7, max: 9 }[key];
    this.order.sort((one, other) => {
      const [a, b] = [lines[one][place], lines[other][place]];
      const way = key === "photo" ? collator.compare(String(a), String(b)) * sign : compareNumbers(/** @type {number} */ (a), /** @type {number} */ (b), sign);
      return way || one - other;
    });
  }

  /**
   * @param {string[]} words
   * @returns {number} how many have all of them
   */
  filter(words) {
    this.shown = words.length ? this.order.filter((number) => words.every((word) => this.texts[number].includes(word))) : this.order;
    this.show();
    return this.shown.length;
  }

  show() {
    this.count = 0;
    this.body.replaceChildren();
    this.add();
  }

  add() {
    const next = this.shown.slice(this.count, this.count + STEP);
    this.body.append(...next.map((number) => this.row(this.lines[number])));
    this.count += next.length;
    const left = this.shown.length - this.count;
    this.more.hidden = left === 0;
    this.more.textContent = `${Math.min(left, STEP)} more of ${left}`;
    this.observer.unobserve(this.more); // a window so high that the button is still in it gets more at once
    if (left) this.observer.observe(this.more);
  }

  /** @param {LineData} line */
  row([, group, photo, query, label, scaling, address, perplexity, patches, max, badges]) {
    const row = document.createElement("tr");
    const asked = label && label !== query ? `${query} ${label}` : query;
    const heading = document.createElement("th");
    heading.scope = "row";
    if (address) {
      const link = document.createElement("a");
      link.href = address;
      Object.assign(link.dataset, { group: String(group), title: photo });
      link.dataset.caption = `${asked}: spread over ${format(perplexity)} of ${format(patches)} patches, hottest ${format(max)}× uniform`;
      link.textContent = photo;
      heading.append(link);
    } else heading.textContent = photo;
    const question = cell(asked);
    for (const badge of badges) {
      const mark = document.createElement("span");
      mark.className = `badge ${badge.replaceAll(" ", "-")}`;
      mark.textContent = badge;
      question.append(" ", mark);
    }
    row.append(heading, question, cell(scaling), cell(format(perplexity), "n"), cell(format(max), "n"));
    return row;
  }
}

/**
 * @param {string} text
 * @param {string} [kind]
 */
function cell(text, kind = "") {
  const element = document.createElement("td");
  element.textContent = text;
  element.className = kind;
  return element;
}

/** The lines of this page, where it has some. */
export function readLines() {
  const data = document.getElementById("line-data");
  const [body, more] = [document.getElementById("lines"), document.getElementById("more")];
  if (!data || !body || !more) return null;
  const lines = new Lines(body, more, JSON.parse(data.textContent ?? "[]").slice(0, -1)); // the last ends the list
  lines.wire();
  return lines;
}
