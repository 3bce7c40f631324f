// Language models in the browser: the engine runs in a worker, this class speaks for it.
//
//   const model = await Benben.load("model.gguf", { kv: { policy: "pyramid" }, onProgress });
//   for await (const { text } of model.generate([{ role: "user", content: "Hello!" }])) show(text);
//   const other = await model.fork(); // goes on from here on its own
//   model.dispose();
//
// A model is fetched once: it stays in the browser's private storage, opens from there without a network, and an
// interrupted download goes on where it ended. `Benben.stored()` lists what is kept, `Benben.remove(name)` deletes it.
//
// Everything that can be stopped takes an AbortSignal. What goes wrong is a BenbenError, whose `code` tells kinds
// apart. Types and the options in full are in benben.d.ts.

import { Calls } from "./calls.js";
import { BenbenError } from "./errors.js";
import { remove, stored } from "./store.js";

export { BenbenError };

export class Benben {
  #calls;
  /** Which of the worker's conversations this is; the first is 0, which is loaded, the others are forks. */
  #chat;
  #end;
  /** What was loaded, and what computes it. */
  info;

  constructor(calls = new Calls(), chat = 0, info = undefined) {
    [this.#calls, this.#chat, this.info] = [calls, chat, info];
  }

  /** Loads a model; before the first weight is fetched, `onPlan` is told what it takes, and may refuse. */
  static async load(source, { kv, context, memory, warmUp, onPlan, onProgress = () => {}, signal } = {}) {
    throwIfAborted(signal);
    const calls = new Calls();
    const stop = () => calls.abandon(BenbenError.cancelled(signal.reason));
    signal?.addEventListener("abort", stop);
    try {
      const plan = await calls.call(null, "open", [parts(source), { kv, context, memory }], onProgress);
      await onPlan?.(plan);
      throwIfAborted(signal);
      const ask = plan.storage === "opfs" && plan.download > 0;
      const persisted = ask ? await navigator.storage.persist() : null;
      const info = await calls.call(null, "load", [{ warmUp }], onProgress);
      return new Benben(calls, 0, { ...info, plan, persisted });
    } catch (error) {
      // What a signal stopped ends in its own time.
      throwIfAborted(signal);
      calls.close(error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  /** What a model would take, from its header alone; arguments as for `load`. */
  static async plan(source, { kv, context, memory, signal } = {}) {
    throwIfAborted(signal);
    const calls = new Calls();
    const stop = () => calls.close(BenbenError.cancelled(signal.reason));
    signal?.addEventListener("abort", stop);
    try {
      return await calls.call(null, "open", [parts(source), { kv, context, memory }]);
    } finally {
      signal?.removeEventListener("abort", stop);
      calls.close(disposed());
    }
  }

  /** What is stored, the last one used first. */
  static stored = stored;

  /** Deletes what is stored under a name or a URL; resolves to the number of models deleted. */
  static remove = remove;

  /** Answers a conversation, or goes on with a text; yields a piece for each token, and returns why it ended. */
  async *generate(prompt, { signal, onProgress = () => {}, ...options } = {}) {
    throwIfAborted(signal);
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
        throwIfAborted(signal);
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

  /** Another conversation that has said the same so far; both read the rows that there are, and grow their own. */
  async fork() {
    return new Benben(this.#calls, await this.#call("fork"), this.info);
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

  /** Frees a fork, or the model and with it all its forks; calls under way are rejected. */
  dispose() {
    if (this.#chat === 0) return this.#calls.close(disposed());
    if (this.#end) return;
    this.#end = disposed();
    this.#calls.reject(this.#end, this.#chat);
    // A worker that is gone has nothing to free.
    this.#calls.call(this.#chat, "dispose").catch(() => {});
  }

  #call(method, args, onEvent) {
    return this.#end ? Promise.reject(this.#end) : this.#calls.call(this.#chat, method, args, onEvent);
  }
}

const disposed = () => BenbenError.cancelled(new Error("the model was disposed of"));

function throwIfAborted(signal) {
  if (signal?.aborted) throw BenbenError.cancelled(signal.reason);
}

/** A source as the worker takes it: a list of absolute URLs, Blobs and buffers. */
function parts(source) {
  const absolute = (part) => (typeof part === "string" || part instanceof URL ? new URL(part, location).href : part);
  return [source].flat().map(absolute);
}
