// Calls from a page into the worker, and what comes back of each: events, then a result or an error.

import { BenbenError } from "./errors.js";

export class Calls {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  /** Calls under way: the conversation that each is for, what settles it, and who hears of its events. */
  #calls = new Map();
  #next = 0;
  #end;

  constructor() {
    this.#worker.onmessage = ({ data: { id, event, result, error } }) => {
      const call = this.#calls.get(id);
      if (event) return call?.onEvent(event);
      this.#calls.delete(id);
      if (error) call?.reject(BenbenError.from(error));
      else call?.resolve(result);
    };
    this.#worker.onerror = (event) => this.close(new BenbenError("worker", event.message ?? "the worker did not start"));
  }

  /** Calls a method of a conversation, or of the worker where `chat` is null. */
  call(chat, method, args = [], onEvent = () => {}) {
    return new Promise((resolve, reject) => {
      if (this.#end) return reject(this.#end);
      const id = this.#next++;
      this.#calls.set(id, { chat, resolve, reject, onEvent });
      this.#worker.postMessage({ id, chat, method, args });
    });
  }

  /** Rejects the calls under way, of one conversation or of all. */
  reject(error, chat) {
    for (const [id, call] of this.#calls) {
      if (chat !== undefined && call.chat !== chat) continue;
      this.#calls.delete(id);
      call.reject(error);
    }
  }

  /** Ends the worker, and with it everything that it holds. */
  close(error) {
    this.#end ??= error;
    this.#worker.terminate();
    this.reject(this.#end);
  }

  /** Ends a load: at once for the caller, and in good order for what was fetched. */
  async abandon(error) {
    this.reject(error);
    const patience = new Promise((resolve) => setTimeout(resolve, 2000));
    await Promise.race([this.call(null, "stop").catch(() => {}), patience]);
    this.close(error);
  }
}
