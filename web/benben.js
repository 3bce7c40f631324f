// benben in a page: one worker, one model, one conversation.
//
//   const model = await Benben.load("model.gguf", { kv: { policy: "pyramid" }, onProgress: console.log });
//   for await (const { text } of model.generate([{ role: "user", content: "Hello!" }])) show(text);
//   model.dispose();
//
// A model is fetched once: it stays in the browser's private storage, opens from there without a network, and an
// interrupted download goes on where it ended. `Benben.stored()` lists what is kept, `Benben.remove(name)` deletes it.
//
// Everything that can be stopped takes an AbortSignal; what is stopped throws its reason, as `fetch` does.
// Errors carry a `code`, such as "no-webgpu", "format", "download" or "does-not-fit".

import { remove, stored } from "./store.js";

/**
 * @typedef {{policy?: "full"|"pyramid"|"tsp"|"kv-only", preset?: "7b"|"13b"|"70b", keep?: number, rows?: number,
 *   perHead?: boolean, kBits?: 16|8|4, vBits?: 16|8|4}} Kv
 * @typedef {string|URL|Blob|ArrayBuffer} Part a URL, a file, or its bytes
 * @typedef {{phase: "read"|"download"|"upload"|"compile", done: number, total: number?, rate: number?, left: number?}}
 *   Progress `done` and `total` in bytes, `rate` in bytes per second, `left` in seconds
 * @typedef {{name: string, layers: number, context: number, weights: number, kv: number, kvFullF16: number,
 *   scratch: number, total: number, download: number, stored: number, storage: string, adapter: string}} Plan
 *   bytes on the GPU: `total` = `weights` + `kv` + `scratch`; bytes to fetch, and those stored already; `storage` is
 *   "opfs" or why the model will not be stored; `context` is what it was trained for
 * @typedef {{role: "system"|"user"|"assistant", content: string}} Message
 */

export class Benben {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  /** Calls under way: what resolves each, and who hears of its progress. */
  #calls = new Map();
  #next = 0;
  /** What was loaded: name, layers, context, weightBytes, adapter, software, plan; and `persisted`, what the browser
   * said when asked to keep the model also when it runs short of room, or null if it was not asked. */
  info;

  constructor() {
    this.#worker.onmessage = ({ data: { id, event, result, error } }) => {
      const call = this.#calls.get(id);
      if (event) return call?.onEvent(event);
      this.#calls.delete(id);
      if (error) call?.reject(Object.assign(new Error(error.message), { code: error.code }));
      else call?.resolve(result);
    };
    this.#worker.onerror = (event) => this.#end(event.message ?? "the worker did not start", "worker");
  }

  /**
   * Loads a model: a GGUF file or safetensors, by the URL of one of its files (shards and what lies beside are found
   * by their names), or a list of all its files.
   *
   * Shaders are compiled before this resolves, unless `warmUp` is false: then the first answer waits for them.
   *
   * Before the first weight is fetched, `onPlan` is told what the model takes; it may return a promise, and what it
   * throws ends the load. A plan that cannot fit is refused before that, with `memory` as the bytes that may be used.
   * @param {Part|Part[]} source
   * @param {{kv?: Kv, context?: number, memory?: number, warmUp?: boolean, onPlan?: (plan: Plan) => void,
   *   onProgress?: (p: Progress) => void, signal?: AbortSignal}} options
   */
  static async load(source, { kv, context, memory, warmUp, onPlan, onProgress = () => {}, signal } = {}) {
    signal?.throwIfAborted();
    const model = new Benben();
    const stop = () => model.#abandon(signal.reason);
    signal?.addEventListener("abort", stop);
    try {
      const plan = await model.#call("open", [parts(source), { kv, context, memory }], onProgress);
      await onPlan?.(plan);
      signal?.throwIfAborted();
      const ask = plan.storage === "opfs" && plan.download > 0;
      const persisted = ask ? await navigator.storage.persist() : null;
      model.info = { ...(await model.#call("load", [{ warmUp }], onProgress)), plan, persisted };
      return model;
    } catch (error) {
      if (!signal?.aborted) model.dispose();
      throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  /** What a model would take, from its header alone; arguments as for `load`. */
  static async plan(source, { kv, context, memory, signal } = {}) {
    signal?.throwIfAborted();
    const model = new Benben();
    const stop = () => model.dispose(signal.reason);
    signal?.addEventListener("abort", stop);
    try {
      return await model.#call("open", [parts(source), { kv, context, memory }]);
    } finally {
      signal?.removeEventListener("abort", stop);
      model.dispose();
    }
  }

  /** What is stored: [{name, url, date, size, have, complete}], the last one used first. */
  static stored = stored;

  /** Deletes what is stored under a name or a URL; resolves to the number of models deleted. */
  static remove = remove;

  /**
   * Answers a conversation, or goes on with a text. Yields one `{text, id}` for each token; text may be empty
   * while a character is incomplete. The generator returns "stop" or "length".
   * @param {Message[]|string} prompt
   * @param {{maxTokens?: number, temperature?: number, topK?: number, topP?: number, minP?: number,
   *   repetitionPenalty?: number, seed?: number, signal?: AbortSignal}} options
   */
  async *generate(prompt, { signal, ...options } = {}) {
    signal?.throwIfAborted();
    const pieces = [];
    let wake, end, failure;
    const stop = () => this.#call("cancel");
    const answer = this.#call("generate", [prompt, options], (piece) => (pieces.push(piece), wake?.()));
    const ended = answer.then((why) => (end = why), (error) => (failure = error)).then(() => wake?.());
    signal?.addEventListener("abort", stop);
    try {
      for (;;) {
        while (pieces.length) yield pieces.shift();
        if (signal?.aborted) throw signal.reason;
        if (failure) throw failure;
        if (end) return end;
        await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      // A caller who leaves the loop early ends the answer, and finds the conversation ready for the next one.
      if (!end && !failure) stop();
      await ended;
    }
  }

  /** Rates, KV bytes and rows of each layer: of the last answer, or of the one under way. */
  stats() {
    return this.#call("stats");
  }

  /** The positions whose rows live in a layer, once an answer has ended. */
  positions(layer) {
    return this.#call("positions", [layer]);
  }

  /** Begins a new conversation with other KV options; the weights stay. */
  configure({ kv, context } = {}) {
    return this.#call("configure", [{ kv, context }]);
  }

  /** Frees everything; calls under way are rejected with `reason`. */
  dispose(reason = new DOMException("the model was disposed of", "AbortError")) {
    this.#worker.terminate();
    for (const { reject } of this.#calls.values()) reject(reason);
    this.#calls.clear();
  }

  /** Ends a load: at once for the caller, and in good order for what was fetched. */
  #abandon(reason) {
    for (const { reject } of this.#calls.values()) reject(reason);
    this.#calls.clear();
    const patience = new Promise((resolve) => setTimeout(resolve, 2000));
    Promise.race([this.#call("stop"), patience]).catch(() => {}).then(() => this.dispose());
  }

  #end(message, code) {
    this.dispose(Object.assign(new Error(message), { code }));
  }

  #call(method, args = [], onEvent = () => {}) {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#calls.set(id, { resolve, reject, onEvent });
      this.#worker.postMessage({ id, method, args });
    });
  }
}

/** A source as the worker takes it: a list of absolute URLs, Blobs and buffers. */
function parts(source) {
  const absolute = (part) => (typeof part === "string" || part instanceof URL ? new URL(part, location).href : part);
  return [source].flat().map(absolute);
}
