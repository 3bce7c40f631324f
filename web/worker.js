// The engine, away from the page: opens a model, holds its session, answers the calls of benben.js.

import init, { Model, ModelFile } from "./pkg/benben.js";
import { openFiles } from "./files.js";

let memory, opened, model, session;
/** Ends what is being fetched. */
let control = new AbortController();
/** A download that is under way, to be ended in good order. */
let fetching = Promise.resolve();

const methods = {
  /** Opens a model as far as its header, and says what it would take. */
  open: (parts, options, progress) => mending(() => openAndPlan(parts, options, progress)),

  /** Fetches what is missing and moves it to the GPU. */
  async load({ warmUp }, progress) {
    await mending(async () => {
      if (!opened.file) await openAndPlan(opened.parts, opened.options, progress);
      await fetchAndUpload(progress);
    });
    const { options, adapter } = opened;
    opened = null;
    await methods.configure({ kv: options.kv, context: options.context, warmUp }, progress);
    return { ...model.info(), adapter };
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
  stats: () => ({ ...session.stats(), heapBytes: memory.buffer.byteLength }),
  positions: (layer) => session.positions(layer),

  /** Ends a load so that what was fetched is not lost. */
  async stop() {
    control.abort(new DOMException("cancelled", "AbortError"));
    await fetching.catch(() => {});
  },
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

/** What is damaged in the store is forgotten when it is found, and comes from the server the second time. */
async function mending(work) {
  try {
    return await work();
  } catch (error) {
    if (error.code !== "damaged-copy") throw error;
    return await work();
  }
}

async function openAndPlan(parts, options, progress) {
  progress({ phase: "read", done: 0, total: null });
  const adapter = await findAdapter();
  const [wasm, files] = await Promise.all([init(), openFiles(parts, control.signal)]);
  memory = wasm.memory;
  const { sources, storage } = files;
  // A server that does not say how long a file is: it has to be fetched to be planned.
  const unknown = sources.filter(({ size }) => size === null);
  if (unknown.length) await (fetching = download(unknown, progress));
  const file = await honest(sources, () => ModelFile.open(sources));
  opened = { parts, options, sources, file, adapter };
  const sum = (key) => sources.reduce((total, source) => total + source[key], 0);
  return { ...file.plan(options), download: sum("missing"), stored: sum("stored"), storage, adapter };
}

async function fetchAndUpload(progress) {
  const { sources, file, options } = opened;
  await (fetching = download(sources.filter(({ missing }) => missing !== 0), progress));
  control.signal.throwIfAborted();
  const report = meter(progress, "upload");
  // Loading consumes the file, and frees the metadata that only it needs.
  opened.file = null;
  model = await honest(sources, () => file.load(options, report));
}

/** Brings files into the store, one after the other, as one download. */
async function download(sources, progress) {
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
