// benben in a page: one worker, one model, one conversation.
//
//   const model = await Benben.load("model.gguf", { kv: { policy: "pyramid" }, onProgress: console.log });
//   for await (const { text } of model.generate([{ role: "user", content: "Hello!" }])) show(text);
//   model.dispose();
//
// Everything that can be stopped takes an AbortSignal. What goes wrong is a BenbenError, whose `code` tells kinds
// apart. Types and the options in full are in benben.d.ts.

import { BenbenError } from "./errors.js";

export { BenbenError };

export class Benben {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  /** Calls under way: what resolves each, and who hears of its progress. */
  #calls = new Map();
  #next = 0;
  #end;
  /** What was loaded, and what computes it. */
  info;

  constructor() {
    this.#worker.onmessage = ({ data: { id, event, result, error } }) => {
      const call = this.#calls.get(id);
      if (event) return call?.onEvent(event);
      this.#calls.delete(id);
      if (error) call?.reject(BenbenError.from(error));
      else call?.resolve(result);
    };
    this.#worker.onerror = (event) => this.#close(new BenbenError("worker", event.message ?? "the worker did not start"));
  }

  /** Loads a model from where it is, or from what it holds. */
  static async load(source, { kv, context, onProgress = () => {}, signal } = {}) {
    if (signal?.aborted) throw BenbenError.cancelled(signal.reason);
    const model = new Benben();
    const from = typeof source === "string" || source instanceof URL ? new URL(source, location).href : source;
    const stop = () => model.#close(BenbenError.cancelled(signal.reason));
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

  /** Answers a conversation, or goes on with a text; yields a piece for each token, and returns why it ended. */
  async *generate(prompt, { signal, onProgress = () => {}, ...options } = {}) {
    if (signal?.aborted) throw BenbenError.cancelled(signal.reason);
    const pieces = [];
    let wake, end, failure;
    const stop = () => this.#call("cancel").then(wake, wake);
    const hear = (event) => (event.phase ? onProgress(event) : (pieces.push(event), wake?.()));
    const answer = this.#call("generate", [prompt, options], hear);
    const ended = answer.then((why) => (end = why), (error) => (failure = error)).then(() => wake?.());
    signal?.addEventListener("abort", stop);
    try {
      for (;;) {
        while (pieces.length) yield pieces.shift();
        if (signal?.aborted) throw BenbenError.cancelled(signal.reason);
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

  /** Which tokens live: for each layer the positions whose rows it holds, as they are now. */
  positions() {
    return this.#call("positions");
  }

  /** The conversation's tokens from the one at `first` on, each for people to read. */
  tokens(first = 0) {
    return this.#call("tokens", [first]);
  }

  /** Begins a new conversation with other KV options; the weights stay. */
  configure({ kv, context } = {}) {
    return this.#call("configure", [{ kv, context }]);
  }

  /** Frees everything; calls under way are rejected. */
  dispose() {
    this.#close(BenbenError.cancelled(new Error("the model was disposed of")));
  }

  #close(error) {
    if (this.#end) return;
    this.#end = error;
    this.#worker.terminate();
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }

  #call(method, args = [], onEvent = () => {}) {
    return new Promise((resolve, reject) => {
      if (this.#end) return reject(this.#end);
      const id = this.#next++;
      this.#calls.set(id, { resolve, reject, onEvent });
      this.#worker.postMessage({ id, method, args });
    });
  }
}
