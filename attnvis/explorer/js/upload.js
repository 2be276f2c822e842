// The page of `attnvis serve`: photos are sent one after the other; each line says where its photo stands.

import { placeText, sizeTrouble } from "./places.js";

const POLL = 350; // milliseconds
const AGAIN = 2000; // milliseconds after which a photo for which there was no room is sent again

/** @typedef {{ status: string, before: number, reason: string }} JobState */

/** @param {string} id */
const part = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {number} milliseconds */
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** One photo's line in the list. */
class Line {
  /**
   * @param {File} file
   * @param {string} network
   */
  constructor(file, network) {
    this.file = file;
    this.network = network;
    this.root = document.createElement("li");
    this.canvas = document.createElement("canvas");
    [this.canvas.width, this.canvas.height] = [152, 114];
    const words = document.createElement("div");
    const name = document.createElement("b");
    name.textContent = file.name || "photo";
    this.text = document.createElement("p");
    this.bar = document.createElement("progress");
    this.bar.setAttribute("aria-label", `${name.textContent} is worked on`);
    words.append(name, this.text, this.bar);
    this.acts = document.createElement("div");
    this.acts.className = "acts";
    this.root.append(this.canvas, words, this.acts);
    this.say("waits to be sent");
    this.preview();
  }

  /** @param {string} text */
  say(text) {
    const shown = `${text} (${this.network})`;
    if (this.text.textContent !== shown) part("say").textContent = text.startsWith(this.file.name) ? text : `${this.file.name}: ${text}`;
    this.text.textContent = shown;
  }

  async preview() {
    try {
      const image = await createImageBitmap(this.file);
      const zoom = Math.max(this.canvas.width / image.width, this.canvas.height / image.height);
      const [width, height] = [image.width * zoom, image.height * zoom];
      const [left, top] = [(this.canvas.width - width) / 2, (this.canvas.height - height) / 2];
      this.canvas.getContext("2d")?.drawImage(image, left, top, width, height);
      image.close();
    } catch {
      this.canvas.title = "this browser shows no preview of it";
    }
  }

  /** @param {string} reason */
  fail(reason) {
    this.root.className = "failed";
    this.bar.hidden = true;
    this.say(reason);
  }

  /** @param {string} address */
  finish(address) {
    this.bar.hidden = true;
    this.say("ready");
    const save = this.link("Save", address);
    save.download = `${this.file.name.replace(/\.\w+$/, "") || "photo"}.html`;
    save.setAttribute("aria-label", `Save the explorer of ${this.file.name} as a file`);
    const open = this.link("Open", address);
    open.className = "open";
    open.setAttribute("aria-label", `Open the explorer of ${this.file.name}`);
    this.acts.replaceChildren(save, open);
  }

  /**
   * @param {string} text
   * @param {string} address
   */
  link(text, address) {
    const link = document.createElement("a");
    link.textContent = text;
    link.href = address;
    return link;
  }
}

/**
 * @param {Line} line
 * @returns {Promise<string>} the job's id; tries again while there is no room
 */
async function send(line) {
  const query = new URLSearchParams({ network: line.network, name: line.file.name });
  for (;;) {
    line.say("is sent");
    const answer = await fetch(`/photo?${query}`, { method: "POST", body: line.file });
    if (answer.ok) return (await answer.json()).job;
    const reason = (await answer.text()).trim();
    if (answer.status !== 503) throw new Error(reason);
    line.say(reason);
    await pause(AGAIN);
  }
}

/**
 * @param {Line} line
 * @param {string} job
 * @returns {Promise<string>} the address of the explorer
 */
async function follow(line, job) {
  for (;;) {
    const answer = await fetch(`/job/${job}`);
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const state = /** @type {JobState} */ (await answer.json());
    if (state.status === "done") return `/explorer/${job}`;
    if (state.status === "failed") throw new Error(state.reason);
    line.say(placeText(state));
    await pause(POLL);
  }
}

/** @type {Promise<unknown>} the photos before are sent */
let sent = Promise.resolve();

/** @param {File[]} files */
function take(files) {
  const network = /** @type {HTMLSelectElement} */ (part("network")).value;
  const most = Number(part("form").dataset.most);
  if (!files.length) return;
  part("list-box").hidden = false;
  const lines = files.map((file) => new Line(file, network));
  part("list").prepend(...lines.map(({ root }) => root));
  for (const line of lines) {
    const trouble = sizeTrouble(line.file.size, most);
    if (trouble) {
      line.fail(trouble);
      continue;
    }
    const sending = sent.then(() => send(line));
    sent = sending.catch(() => undefined);
    sending
      .then((job) => follow(line, job))
      .then((address) => {
        line.finish(address);
        if (files.length === 1) window.location.assign(address);
      })
      .catch((error) => line.fail(error instanceof TypeError ? "the server does not answer; is attnvis serve still running?" : error.message));
  }
}

const [picker, drop] = [/** @type {HTMLInputElement} */ (part("photo")), part("drop")];
picker.addEventListener("change", () => {
  take(Array.from(picker.files ?? []));
  picker.value = "";
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
document.addEventListener("drop", (event) => take(Array.from(event.dataTransfer?.files ?? [])));
document.addEventListener("paste", (event) => take(Array.from(event.clipboardData?.files ?? [])));
document.documentElement.dataset.ready = "true";
