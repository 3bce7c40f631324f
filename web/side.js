// The panel beside the chat: the live pyramid, its bytes against a full cache, rates, and the settings.

import { describePyramid, drawPyramid } from "./pyramid.js";
import { bytes, rate } from "./words.js";

export class Side {
  #$;
  #model;
  #timer;
  #stats = { rowsPerLayer: [], kvBytes: 0, kvBytesFullF16: 0 };
  /** Tokens of the conversation: the rows of a full cache. */
  #tokens = 0;
  #positions = null;
  #view = "shape";

  constructor($) {
    this.#$ = $;
    for (const view of ["shape", "positions"]) $(`view-${view}`).onclick = () => this.#choose(view);
    new ResizeObserver(() => this.#draw()).observe($("pyramid"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    this.#$("settings").elements.policy.addEventListener("change", () => this.#limit());
  }

  /** The KV options that the settings ask for. */
  options() {
    const { policy, keep, kBits, vBits } = this.#$("settings").elements;
    const kv = { policy: policy.value, kBits: Number(kBits.value), vBits: Number(vBits.value) };
    if (keep.value && policy.value !== "full") kv.keep = Number(keep.value);
    return { kv };
  }

  sampling() {
    const { temperature, maxTokens } = this.#$("settings").elements;
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    return { temperature: Number(temperature.value), maxTokens: Number(maxTokens.value), seed };
  }

  attach(model) {
    this.#model = model;
    this.#$("adapter").textContent = model.info.software
      ? `${model.info.adapter}: no GPU but a program on the CPU, which is slow`
      : model.info.adapter;
    this.settle();
  }

  detach() {
    clearInterval(this.#timer);
    this.#model = null;
  }

  /** Redraws once a second while an answer is under way. */
  follow() {
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#refresh(), 1000);
  }

  /** Shows what an answer left, positions included. */
  async settle() {
    clearInterval(this.#timer);
    const model = this.#model;
    await this.#refresh();
    if (model && this.#view === "positions") await this.#read();
  }

  async #refresh() {
    const model = this.#model;
    const stats = await model?.stats().catch(() => null);
    if (!stats || model !== this.#model) return;
    this.#stats = stats;
    const { kvBytes, kvBytesFullF16: full, rowsPerLayer } = stats;
    this.#tokens = stats.tokens;
    const $ = this.#$;
    $("rate").textContent = stats.answerTokens > 1 ? rate(stats.decodeRate) : "–";
    $("prefill").textContent = stats.answerTokens ? rate(stats.prefillRate) : "–";
    $("count").textContent = this.#tokens || "–";
    $("bytes").textContent = bytes(kvBytes);
    $("share").textContent = full ? `${Math.round((100 * kvBytes) / full)} % of ${bytes(full)}, full in f16` : "";
    $("meter").style.width = `${full ? (100 * kvBytes) / full : 0}%`;
    $("pyramid").ariaLabel = describePyramid(rowsPerLayer, this.#tokens);
    this.#draw();
  }

  async #read() {
    const model = this.#model;
    const layers = this.#stats.rowsPerLayer.length;
    const lists = [];
    try {
      // Where every head has rows of its own, the first stands for all.
      for (let layer = 0; layer < layers; layer++) lists.push((await model.positions(layer))[0] ?? []);
    } catch {
      return; // An answer is under way; the next one's end reads them.
    }
    this.#positions = lists;
    this.#draw();
  }

  #choose(view) {
    this.#view = view;
    for (const each of ["shape", "positions"]) this.#$(`view-${each}`).ariaPressed = String(each === view);
    this.#$("caption").textContent =
      view === "shape"
        ? "One bar for each layer, the deepest on top."
        : "One column for each token, from the first to the last; lit where the layer remembers it.";
    this.#draw();
    if (view === "positions" && this.#model) this.#read();
  }

  #draw() {
    const { rowsPerLayer } = this.#stats;
    const positions = this.#view === "positions" ? this.#positions : null;
    if (rowsPerLayer.length) drawPyramid(this.#$("pyramid"), rowsPerLayer, this.#tokens, positions);
  }

  /** A full cache has nothing to keep a share of, and only a pyramid has presets. */
  #limit() {
    const { policy, keep } = this.#$("settings").elements;
    keep.disabled = policy.value === "full";
    const preset = keep.options[0];
    preset.textContent = policy.value === "pyramid" ? "preset 7b" : "60 % (usual)";
  }
}
