// Loading a model inside a page, with all that the tests want to know of it.

import { native } from "./harness.mjs";

/** Bytes at the end of fat.gguf that are looked at before the rest: a norm of 512 weights, which tells models apart. */
export const GLANCE = 4 * 512;

/** Loads `source` (or `globalThis.files`) and disposes of it; no shader is compiled, which takes the longest. */
export function load(page, source) {
  return answer(page, source, 0);
}

/** Like `load`, and answers the common prompt in between. */
export function answer(page, source, maxTokens = native.maxTokens) {
  return page.evaluate(async ({ source, prompt, maxTokens }) => {
    const { Benben } = await import("./benben.js");
    const events = [];
    let planned;
    const model = await Benben.load(source ?? globalThis.files, {
      kv: { policy: "full" },
      warmUp: false,
      onPlan: (plan) => (planned = plan),
      onProgress: (event) => events.push(event),
    });
    const ids = [];
    if (maxTokens) for await (const { id } of model.generate(prompt, { maxTokens })) if (id !== undefined) ids.push(id);
    const { heapBytes: heap } = await model.stats();
    model.dispose();
    return { ids, heap, events, plan: planned, persisted: model.info.persisted };
  }, { source, maxTokens, prompt: native.prompt });
}

/** The code and the sentence with which a source is refused. */
export function refusal(page, source, options = {}) {
  return page.evaluate(async ({ source, options }) => {
    const { Benben } = await import("./benben.js");
    const accepted = () => ({ code: "none", message: "accepted" });
    return Benben.load(source, options).then(accepted, ({ code, message }) => ({ code, message }));
  }, { source, options });
}
