// The panel beside the chat: the live pyramid, its bytes against a full cache, rates, the settings, and what computes.

import { describePyramid, Pyramid } from "./pyramid.js";
import { bytes, percent, rate, seconds } from "./words.js";

/** Milliseconds between two looks at the cache while an answer is under way. */
const PERIOD = 400;

export class Side {
  #$;
  #model;
  #pyramid;
  #timer;
  #looking = false;
  #summary = describePyramid([], 0);
  /** The tokens of the conversation, for people to read. */
  #words = [];

  constructor($) {
    this.#$ = $;
    this.#pyramid = new Pyramid($("pyramid"));
    this.#pyramid.onPoint = (column) => this.#name(column);
    for (const view of ["tokens", "shape"]) $(`view-${view}`).onclick = () => this.#choose(view);
    const { policy, share, keep } = $("settings").elements;
    const fit = () => {
      // Auto chooses rows and bits itself, from a share of the bytes.
      const auto = policy.value === "auto";
      share.closest("label").hidden = !auto;
      for (const own of [keep.closest("label"), ...$("settings").querySelectorAll(".bits")]) own.hidden = auto;
      // A full cache has nothing to keep a share of.
      keep.disabled = policy.value === "full";
      $("share-value").textContent = percent(share.value);
      $("keep-value").textContent = keep.disabled ? "all" : percent(keep.value);
    };
    for (const control of [policy, share, keep]) control.addEventListener("input", fit);
    fit();
  }

  /** The KV options that the settings ask for. */
  options() {
    const { policy, share, keep, kBits, vBits } = this.#$("settings").elements;
    if (policy.value === "auto") return { kv: { policy: "auto", share: Number(share.value) } };
    const kv = { policy: policy.value, kBits: Number(kBits.value), vBits: Number(vBits.value) };
    if (policy.value !== "full") kv.keep = Number(keep.value);
    return { kv };
  }

  sampling() {
    const { temperature, maxTokens } = this.#$("settings").elements;
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    return { temperature: Number(temperature.value), maxTokens: Number(maxTokens.value), seed };
  }

  attach(model) {
    this.#model = model;
    const { adapter, software, kernels, subgroups } = model.info;
    const path = software
      ? [`${adapter}. The browser offers no GPU, so a program on the CPU stands in, which is slow;`]
      : [`${adapter}. The browser offers this GPU;`];
    path.push(`the kernels for ${kernels === "lanes" ? "software adapters" : "GPUs"} run on it`);
    path.push(subgroups ? "with subgroups." : "without subgroups, which this build does not use on the web.");
    this.#$("path").textContent = path.join(" ");
    return this.settle();
  }

  detach() {
    clearInterval(this.#timer);
    this.#model = null;
  }

  /** Looks at the cache again and again while an answer is under way. */
  follow() {
    clearInterval(this.#timer);
    this.#words = [];
    this.#pyramid.read(0, 0);
    this.#timer = setInterval(() => (this.#count(), this.#look()), PERIOD);
  }

  /** The prompt runs: so many of so many tokens. */
  read(done, total) {
    this.#pyramid.read(done / total, total);
  }

  /** One more token of the answer. */
  grow() {
    this.#pyramid.grow();
  }

  /** Shows what an answer left. */
  async settle() {
    clearInterval(this.#timer);
    this.#words = [];
    await this.#count();
    await this.#look();
  }

  async #count() {
    const model = this.#model;
    const known = this.#words.length;
    const [stats, words] = await Promise.all([model?.stats(), model?.tokens(known)]).catch(() => []);
    if (!stats || model !== this.#model) return;
    if (known === this.#words.length) this.#words.push(...words);
    const { kvBytes, kvBytesFullF16: full, rowsPerLayer, tokens, answerTokens } = stats;
    this.#pyramid.update(rowsPerLayer, tokens);
    this.#summary = describePyramid(rowsPerLayer, tokens);
    const $ = this.#$;
    $("rate").textContent = answerTokens > 1 ? rate(stats.decodeRate) : "–";
    $("first").textContent = answerTokens ? seconds(stats.prefillSeconds) : "–";
    $("prefill").textContent = answerTokens ? rate(stats.prefillRate) : "–";
    $("bytes").textContent = bytes(kvBytes);
    $("share").textContent = full ? `${Math.round((100 * kvBytes) / full)} % of ${bytes(full)}, a full f16 cache` : "";
    $("meter").style.width = `${full ? (100 * kvBytes) / full : 0}%`;
    this.#name(this.#pyramid.column);
  }

  async #look() {
    const model = this.#model;
    if (!model || this.#looking) return;
    this.#looking = true;
    const positions = await model.positions().catch(() => []);
    this.#looking = false;
    if (model === this.#model && positions.length) this.#pyramid.hold(positions);
  }

  /** Says which token is pointed at, or what the whole picture shows. */
  #name(column) {
    const $ = this.#$;
    if (column === null) {
      $("caption").textContent = this.#summary;
      $("pyramid").ariaValueText = this.#summary;
      return;
    }
    const [lives, layers] = this.#pyramid.layersOf(column);
    const word = document.createElement("q");
    word.textContent = (this.#words[column] ?? "…").replaceAll("\n", "↵").replace(/^ | $/g, "␣");
    $("caption").replaceChildren(word, ` token ${column + 1}, lives in ${lives} of ${layers} layers`);
    $("pyramid").ariaValueText = $("caption").textContent;
  }

  #choose(view) {
    for (const each of ["tokens", "shape"]) this.#$(`view-${each}`).ariaPressed = String(each === view);
    this.#pyramid.view = view;
  }
}
