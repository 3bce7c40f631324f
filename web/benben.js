// benben in a page: one worker, one model, one conversation.
//
//   const model = await Benben.load("model.gguf", { kv: { policy: "pyramid" }, onProgress: console.log });
//   for await (const { text } of model.generate([{ role: "user", content: "Hello!" }])) show(text);
//   model.dispose();
//
// Everything that can be stopped takes an AbortSignal; what is stopped throws its reason, as `fetch` does.
// Errors carry a `code`, such as "no-webgpu", "format" or "does-not-fit".

/**
 * @typedef {{policy?: "full"|"pyramid"|"tsp"|"kv-only", preset?: "7b"|"13b"|"70b", keep?: number, rows?: number,
 *   perHead?: boolean, kBits?: 16|8|4, vBits?: 16|8|4}} Kv
 * @typedef {{phase: "download"|"read"|"upload"|"compile", done: number, total: number?, rate: number?}} Progress
 *   `done` and `total` in bytes, `rate` in bytes per second
 * @typedef {{role: "system"|"user"|"assistant", content: string}} Message
 */

export class Benben {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  /** Calls under way: what resolves each, and who hears of its progress. */
  #calls = new Map();
  #next = 0;
  /** What was loaded: name, layers, context, weightBytes, adapter, software. */
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
   * Loads a GGUF file.
   * @param {string|URL|Blob|ArrayBuffer} source where it is, or what it holds
   * @param {{kv?: Kv, context?: number, onProgress?: (p: Progress) => void, signal?: AbortSignal}} options
   */
  static async load(source, { kv, context, onProgress = () => {}, signal } = {}) {
    signal?.throwIfAborted();
    const model = new Benben();
    const from = typeof source === "string" || source instanceof URL ? new URL(source, location).href : source;
    const stop = () => model.dispose(signal.reason);
    signal?.addEventListener("abort", stop);
    try {
      model.info = await model.#call("load", [from, { kv, context }], onProgress);
      return model;
    } catch (error) {
      model.dispose();
      throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

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
