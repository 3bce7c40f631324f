// The engine, away from the page: fetches a model, holds its session, answers the calls of benben.js.

import init, { Model } from "./pkg/benben.js";

let model, session;

const methods = {
  async load(source, options, progress) {
    const adapter = await findAdapter();
    const [bytes] = await Promise.all([read(source, progress), init()]);
    const report = throttled(progress);
    model = await Model.load(bytes, options, (done, total) => report({ phase: "upload", done, total }));
    await methods.configure(options, progress);
    return { ...model.info(), adapter };
  },

  async configure(options, progress) {
    const next = model.session(options);
    session?.free();
    session = next;
    progress({ phase: "compile", done: 0, total: null, rate: null });
    await session.warmUp();
  },

  generate(prompt, options, event) {
    if (typeof prompt === "string") session.text(prompt);
    else session.chat(prompt);
    return session.generate(options, (text, id) => event({ text, id }));
  },

  cancel: () => session.cancel(),
  stats: () => session.stats(),
  positions: (layer) => session.positions(layer),
};

onmessage = async ({ data: { id, method, args } }) => {
  try {
    const result = await methods[method](...args, (event) => postMessage({ id, event }));
    postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: { message: error?.message ?? String(error), code: error?.code ?? "unknown" } });
  }
};

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

/** The bytes of a URL, a Blob or an ArrayBuffer. */
async function read(source, progress) {
  if (typeof source !== "string") {
    progress({ phase: "read", done: 0, total: source.size ?? source.byteLength, rate: null });
    return new Uint8Array(source instanceof Blob ? await source.arrayBuffer() : source);
  }
  const response = await fetch(source);
  if (!response.ok) {
    const message = `The server has no such model: ${response.status} for ${source}`;
    throw Object.assign(new Error(message), { code: "download" });
  }
  // A compressed response is longer than its Content-Length says, which then bounds nothing.
  const encoded = response.headers.get("content-encoding");
  const total = encoded ? null : Number(response.headers.get("content-length")) || null;
  const report = throttled(progress);
  const chunks = [];
  const started = performance.now();
  let done = 0;
  for await (const chunk of stream(response.body)) {
    chunks.push(chunk);
    done += chunk.length;
    report({ phase: "download", done, total, rate: (1000 * done) / (performance.now() - started + 1) });
  }
  const bytes = new Uint8Array(done);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** Not every browser's streams can be iterated. */
async function* stream(body) {
  const reader = body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

/** Passes on at most ten reports a second, and the last of all. */
function throttled(progress) {
  let last = 0;
  return (report) => {
    const now = performance.now();
    if (now - last < 100 && report.done !== report.total) return;
    last = now;
    progress({ rate: null, ...report });
  };
}
