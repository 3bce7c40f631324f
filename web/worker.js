// The engine, away from the page: holds a model and its conversations, answers the calls of benben.js.

import { Conversation } from "./conversation.js";
import { Load } from "./load.js";

/** Conversations by number; the first is 0, forks count on from there. */
const chats = new Map();
let forks = 0;

/** What all conversations share. */
const engine = {
  loading: null,
  model: null,
  /** The replacement of a device, while it is under way. */
  returning: null,

  /** A new device with the model on it, for all conversations whose own is of no more use. */
  async replace(lost, options, progress) {
    if (this.model !== lost) return;
    this.returning ??= this.reload(options, progress).finally(() => (this.returning = null));
    await this.returning;
  },

  async reload(options, progress) {
    const load = new Load(this.loading.parts, { ...this.loading.options, ...options });
    // A device that is out of memory still holds what it has, and the new one needs that.
    this.model.destroy();
    await load.open(progress);
    const [model, lost] = [await load.finish(progress), this.model];
    Object.assign(this, { loading: load, model });
    lost.free();
  },
};

const methods = {
  /** Opens a model as far as its header, and says what it would take. */
  open(parts, options, progress) {
    engine.loading = new Load(parts, options);
    return engine.loading.open(progress);
  },

  /** Fetches what is missing of it, moves it to the GPU and begins its first conversation. */
  async load({ warmUp }, progress) {
    engine.model = await engine.loading.finish(progress);
    const { kv, context } = engine.loading.options;
    const chat = new Conversation(engine, { kv, context });
    await chat.begin(progress, warmUp);
    chats.set(0, chat);
    return { ...engine.model.info(), adapter: engine.loading.adapter };
  },

  /** Ends a load so that what was fetched is not lost. */
  stop: () => engine.loading?.stop(),
};

const chatMethods = {
  async fork(chat) {
    chats.set(++forks, await chats.get(chat).fork());
    return forks;
  },

  dispose(chat) {
    const disposed = chats.get(chat);
    chats.delete(chat);
    return disposed.dispose();
  },
};

function run(chat, method, args, event) {
  if (chat === null) return methods[method](...args, event);
  if (method in chatMethods) return chatMethods[method](chat);
  return chats.get(chat)[method](...args, event);
}

onmessage = async ({ data: { id, chat, method, args } }) => {
  try {
    const result = await run(chat, method, args, (event) => postMessage({ id, event }));
    postMessage({ id, result });
  } catch (error) {
    const { message = String(error), need, limit, advice } = error ?? {};
    // Exceptions of the browser have numbers for codes, which say nothing.
    const code = typeof error?.code === "string" ? error.code : "unknown";
    postMessage({ id, error: { message, code, need, limit, advice } });
  }
};
