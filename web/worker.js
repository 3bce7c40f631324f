// The engine, away from the page: holds a model and its session, answers the calls of benben.js.

import { Load } from "./load.js";

let loading, model, session;

const methods = {
  /** Opens a model as far as its header, and says what it would take. */
  open(parts, options, progress) {
    loading = new Load(parts, options);
    return loading.open(progress);
  },

  /** Fetches what is missing of it and moves it to the GPU. */
  async load({ warmUp }, progress) {
    model = await loading.finish(progress);
    const { kv, context } = loading.options;
    await methods.configure({ kv, context, warmUp }, progress);
    return { ...model.info(), adapter: loading.adapter };
  },

  async configure({ warmUp = true, ...options }, progress) {
    const next = model.session(options);
    session?.free();
    session = next;
    if (!warmUp) return;
    progress({ phase: "compile", done: 0, total: null });
    await session.warmUp();
  },

  generate(prompt, options, event) {
    if (typeof prompt === "string") session.text(prompt);
    else session.chat(prompt);
    return session.generate(options, (text, id) => event({ text, id }));
  },

  cancel: () => session.cancel(),
  stats: () => ({ ...session.stats(), heapBytes: loading.memory.buffer.byteLength }),
  positions: (layer) => session.positions(layer),

  /** Ends a load so that what was fetched is not lost. */
  stop: () => loading?.stop(),
};

/** Exceptions of the browser have numbers for codes, which say nothing. */
const codeOf = (error) => (typeof error?.code === "string" ? error.code : "unknown");

onmessage = async ({ data: { id, method, args } }) => {
  try {
    const result = await methods[method](...args, (event) => postMessage({ id, event }));
    postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: { message: error?.message ?? String(error), code: codeOf(error) } });
  }
};
