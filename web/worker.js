// The engine, away from the page: fetches a model, holds its session, answers the calls of benben.js.

import init, { Model } from "./wasm/benben.js";

let model, session;
/** Where the model came from and how its session was opened: what it takes to do so again. */
let loaded;
/** What has the session to itself, which the next such call waits for. */
let last = Promise.resolve();
/** Answers that were asked for and have not ended. */
let answers = 0;
/** Who asked for the positions amid an answer; its next token brings them. */
let looks = [];
/** Whether the answer under way is to end, also while it has no device. */
let cancelled = false;

const methods = {
  load(source, options, progress) {
    loaded = { source, options };
    return open(progress);
  },

  configure: (options, progress) =>
    alone(() => {
      loaded.options = options;
      return begin(progress).catch((error) => recover(error, [], 0, progress));
    }),

  async generate(prompt, options, event) {
    answers++;
    try {
      return await alone(() => answer(prompt, options, event));
    } finally {
      answers--;
    }
  },

  cancel() {
    cancelled = true;
    session.cancel();
  },

  stats: () => session.stats(),
  positions: () => (answers ? new Promise((resolve) => looks.push(resolve)) : alone(() => session.positions())),
  tokens: (first) => session.words(first),
};

/** Runs what needs the session to itself, after what had it before. */
function alone(work) {
  return (last = last.then(work, work));
}

/** Answers, if need be on more than one device. */
async function answer(prompt, options, event) {
  cancelled = false;
  if (typeof prompt === "string") session.text(prompt);
  else session.chat(prompt);
  const prefill = (done, total) => event({ phase: "prefill", done, total, rate: null });
  let said = 0;
  const piece = (text, id) => {
    if (id !== undefined) said++;
    event({ text, id });
    return looks.length ? show : undefined;
  };
  try {
    for (let before = -1; ; before = said) {
      try {
        return await session.generate(options, prefill, piece);
      } catch (error) {
        // A device that is lost again before it gave a token will not give one.
        if (before === said) throw error;
        await recover(error, session.ids(), said, event);
        if (cancelled) return "cancel";
      }
    }
  } finally {
    if (looks.length) show(await session.positions().catch(() => []));
  }
}

function show(positions) {
  for (const look of looks.splice(0)) look(positions);
}

/** Opens the device, the model and its session. */
async function open(progress) {
  const { source, options } = loaded;
  const adapter = await findAdapter();
  const [bytes] = await Promise.all([read(source, progress), init()]);
  const report = throttled(progress);
  model = await Model.load(bytes, options, (done, total) => report({ phase: "upload", done, total }));
  await begin(progress);
  return { ...model.info(), adapter };
}

/** Begins a conversation. */
async function begin(progress) {
  const next = model.session(loaded.options);
  session?.free();
  session = next;
  progress({ phase: "compile", done: 0, total: null, rate: null });
  await session.warmUp();
}

/** After the loss of the device: a new one, the model on it, and a session that holds the same conversation. */
async function recover(error, ids, said, progress) {
  if (error?.code !== "device-lost") throw error;
  progress({ phase: "restore", done: 0, total: null, rate: null });
  const lost = model;
  try {
    await open(progress);
    session.restore(ids, said);
  } finally {
    // Where no new model came, the next call finds the lost one and tries again.
    if (model !== lost) lost.free();
  }
}

onmessage = async ({ data: { id, method, args } }) => {
  try {
    const result = await methods[method](...args, (event) => postMessage({ id, event }));
    postMessage({ id, result });
  } catch (error) {
    const { message = String(error), code = "unknown", need, limit } = error ?? {};
    postMessage({ id, error: { message, code, need, limit } });
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
