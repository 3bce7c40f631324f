// Loading a model: its files are opened and planned, then what is missing is fetched, then all moves to the GPU.

import init, { ModelFile } from "./wasm/benben.js";
import { openFiles } from "./files.js";

export class Load {
  /** Ends what is being fetched. */
  #control = new AbortController();
  /** A download that is under way, to be ended in good order. */
  #fetching = Promise.resolve();
  #sources;
  #file;
  /** The options of the model's first session, and its adapter in a few words. */
  options;
  adapter;
  /** WebAssembly's memory. */
  memory;

  /** @param {(string|Blob|ArrayBuffer)[]} parts absolute URLs, files, bytes */
  constructor(parts, options) {
    Object.assign(this, { parts, options });
  }

  /** Opens the model as far as its header, and says what it would take. */
  open(progress) {
    return mending(() => this.#open(progress));
  }

  /** Fetches what is missing and moves it to the GPU; resolves to the `Model`. */
  finish(progress) {
    return mending(async () => {
      if (!this.#file) await this.#open(progress);
      await (this.#fetching = download(this.#sources, progress));
      this.#control.signal.throwIfAborted();
      const file = this.#file;
      // Loading consumes the file, and frees the metadata that only it needs.
      this.#file = null;
      return await honest(this.#sources, () => file.load(this.options, meter(progress, "upload")));
    });
  }

  /** Ends the load so that what was fetched is not lost. */
  async stop() {
    this.#control.abort(new DOMException("cancelled", "AbortError"));
    await this.#fetching.catch(() => {});
  }

  async #open(progress) {
    progress({ phase: "read", done: 0, total: null });
    this.adapter = await findAdapter();
    const [wasm, { sources, storage }] = await Promise.all([init(), openFiles(this.parts, this.#control.signal)]);
    this.memory = wasm.memory;
    // A server that does not say how long a file is: it has to be fetched to be planned.
    const unknown = sources.filter(({ size }) => size === null);
    if (unknown.length) await (this.#fetching = download(unknown, progress));
    this.#file = await honest(sources, () => ModelFile.open(sources));
    this.#sources = sources;
    const sum = (key) => sources.reduce((total, source) => total + source[key], 0);
    const plan = this.#file.plan(this.options);
    return { ...plan, download: sum("missing"), stored: sum("stored"), storage, adapter: this.adapter };
  }
}

/** What is damaged in the store is forgotten when it is found, and comes from the server the second time. */
async function mending(work) {
  try {
    return await work();
  } catch (error) {
    if (error.code !== "damaged-copy") throw error;
    return await work();
  }
}

/** Brings files into the store, one after the other, as one download. */
async function download(all, progress) {
  const sources = all.filter(({ missing }) => missing !== 0);
  const sizes = sources.map(({ size }) => size);
  const total = sizes.includes(null) ? null : sizes.reduce((sum, size) => sum + size, 0);
  const report = meter(progress, "download", sources.reduce((sum, { stored }) => sum + stored, 0));
  let before = 0;
  for (const source of sources) {
    await source.download((done) => report(before + done, total));
    before += source.size;
  }
}

/** WebAssembly hands on the words of a failed read, and the source its kind. */
async function honest(sources, work) {
  try {
    return await work();
  } catch (error) {
    throw sources.find(({ failure }) => failure)?.failure ?? error;
  }
}

/** The adapter in a few words; asked for first, so that nothing is fetched in vain. */
async function findAdapter() {
  const fail = (message) => {
    throw Object.assign(new Error(message), { code: "no-webgpu" });
  };
  if (!navigator.gpu) fail("This browser has no WebGPU. Chrome, Edge, Safari 26 and Firefox 141 or newer do.");
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) fail("The browser knows WebGPU, but found no GPU that it may use.");
  const { vendor, architecture, description } = adapter.info;
  return description || [vendor, architecture].filter(Boolean).join(" ") || "a GPU without a name";
}

/**
 * Reports a phase at most ten times a second, and at its end: bytes, bytes per second, seconds left. What was there
 * before the phase began counts as done, but not for the rate.
 */
function meter(progress, phase, before = 0) {
  const started = performance.now();
  let last = 0;
  return (done, total) => {
    const now = performance.now();
    if (now - last < 100 && done !== total) return;
    last = now;
    const rate = (1000 * (done - before)) / (now - started + 1);
    progress({ phase, done, total, rate, left: total && rate ? (total - done) / rate : null });
  };
}
