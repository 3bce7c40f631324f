// Measures wllama (llama.cpp as WebAssembly) and transformers.js beside benben in one browser: same weights, same
// prompt, one run.
//
//   node browser.mjs MODEL [--onnx FOLDER] [--peers wllama,tjs-cpu-q4] [--threads 1]
//                          [--words 40] [--max-tokens 8] [--runs 1] [--json]
//
// FOLDER has the weights for transformers.js, as onnx_model.py writes them; without it there is no such peer. Threads
// are for what computes on the CPU. More than one need a page that is isolated from other sites, which this one then is.
//
// load     from the call to a model that can answer, the file coming from this machine
// first    from submitting the prompt to the first new token
// prefill  prompt tokens / that time
// decode   new tokens after the first one / the time they took
// bytes    all that the server sent: page, engine and model
// memory   the most that all processes of the browser held at once, shared pages counted once (PSS); Linux only
//
// Rounds alternate, each in a browser of its own. Greedy on both sides, caches of prompts off. `make web-build` first.

import { readdir, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { send, serve } from "../../web/serve.mjs";

const packages = join(import.meta.dirname, "node_modules");
/** What the peers' pages ask for, by the beginning of its path. */
const folders = {
  "/wllama/": join(packages, "@wllama/wllama/esm"),
  "/transformers/": join(packages, "@huggingface/transformers/dist"),
  "/onnxruntime/": join(packages, "onnxruntime-web/dist"),
};
const FLAGS = ["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const FIGURES = ["load s", "first s", "prefill", "decode", "MB fetched", "MB memory"];

/** What runs in the page: each opens the model, warms up, answers once, and says when its tokens came. */
const methods = {
  async benben({ prompt, warmUp, maxTokens }) {
    const started = performance.now();
    const { Benben } = await import("/benben.js");
    const model = await Benben.load("/model.gguf", { kv: { policy: "full" }, context: 2048 });
    const loaded = performance.now();
    for await (const _ of model.generate(warmUp, { maxTokens: 2 }));
    const asked = performance.now();
    const times = [];
    let text = "";
    for await (const piece of model.generate(prompt, { maxTokens })) {
      times.push(performance.now());
      text += piece.text;
    }
    const { adapter, kernels } = model.info;
    const { promptTokens } = await model.stats();
    return { load: loaded - started, asked, times, text, promptTokens, path: `WebGPU, ${adapter}, kernels ${kernels}` };
  },

  async wllama({ prompt, warmUp, maxTokens, threads }) {
    const adapter = await navigator.gpu?.requestAdapter();
    const started = performance.now();
    const { Wllama } = await import("/wllama/index.js");
    const wllama = new Wllama({ default: "/wllama/wasm/wllama.wasm" }, { suppressNativeLog: true });
    await wllama.loadModelFromUrl(new URL("/model.gguf", location).href, { n_ctx: 2048, n_threads: threads, useCache: false });
    const loaded = performance.now();
    const run = async (prompt, most) => {
      const [asked, times] = [performance.now(), []];
      let text = "";
      const options = { prompt, max_tokens: most, temperature: 0, cache_prompt: false, stream: true };
      for await (const chunk of await wllama.createCompletion(options)) {
        const said = chunk.choices[0]?.text ?? "";
        if (said) times.push(performance.now());
        text += said;
      }
      return { asked, times, text };
    };
    await run(warmUp, 2);
    const answer = await run(prompt, maxTokens);
    const path = adapter?.features.has("shader-f16")
      ? "WebGPU"
      : `CPU, ${wllama.getNumThreads()} threads: without shader-f16 its WebGPU path does not start`;
    return { load: loaded - started, ...answer, path };
  },

  async transformers({ prompt, warmUp, maxTokens, threads, device, dtype }) {
    const started = performance.now();
    const { AutoModelForCausalLM, AutoTokenizer, env } = await import("/transformers/transformers.min.js");
    Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: "/onnx/", useBrowserCache: false });
    Object.assign(env.backends.onnx.wasm, { wasmPaths: new URL("/onnxruntime/", location).href, numThreads: threads });
    const tokenizer = await AutoTokenizer.from_pretrained("model");
    const model = await AutoModelForCausalLM.from_pretrained("model", { device, dtype });
    const loaded = performance.now();
    const run = async (prompt, most) => {
      const times = [];
      const ids = [];
      // It is given the prompt first.
      const streamer = { put: ([some]) => (times.push(performance.now()), ids.push(some)), end() {} };
      const inputs = tokenizer(prompt, { add_special_tokens: false });
      const asked = performance.now();
      await model.generate({ ...inputs, max_new_tokens: most, min_new_tokens: most, do_sample: false, streamer });
      return { asked, times: times.slice(1), text: tokenizer.decode(ids.slice(1).flat()) };
    };
    await run(warmUp, 2);
    const answer = await run(prompt, maxTokens);
    return { load: loaded - started, ...answer, path: device === "webgpu" ? "WebGPU" : `CPU, ${threads} threads` };
  },
};

const transformers = (device, dtype) => ({ method: "transformers", device, dtype });
const peers = {
  benben: { method: "benben" },
  wllama: { method: "wllama" },
  // The dequantised weights exactly; in 4 bits rounded a second time.
  "tjs-cpu-f32": transformers("wasm", "fp32"),
  "tjs-cpu-q4": transformers("wasm", "q4"),
  "tjs-gpu-q4": transformers("webgpu", "q4"),
};

/** Bytes of bodies that the server sent since this was last set to none. */
let sent = 0;

async function intercept(request, response) {
  const { write } = response;
  response.write = (chunk, ...rest) => ((sent += chunk.length), write.call(response, chunk, ...rest));
  if (work.threads > 1) {
    response.setHeader("cross-origin-opener-policy", "same-origin");
    response.setHeader("cross-origin-embedder-policy", "require-corp");
  }
  const { pathname } = new URL(request.url, "http://localhost");
  const start = Object.keys(folders).find((start) => pathname.startsWith(start));
  if (start) await send(join(folders[start], pathname.slice(start.length)), request, response);
  return Boolean(start);
}

/** Proportional set size of a process and all below it, in bytes. */
async function memory(root) {
  const processes = await Promise.all((await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(async (pid) => {
    const read = (file) => readFile(`/proc/${pid}/${file}`, "utf8").catch(() => "");
    const parent = Number((await read("stat")).replace(/.*\) \S /s, "").split(" ")[0]);
    return { pid: Number(pid), parent, read };
  }));
  const family = new Set([root]);
  for (let size = 0; size < family.size; ) {
    size = family.size;
    for (const { pid, parent } of processes) if (family.has(parent)) family.add(pid);
  }
  const mine = processes.filter(({ pid }) => family.has(pid));
  const sizes = await Promise.all(mine.map(async ({ read }) => /^Pss:\s+(\d+)/m.exec(await read("smaps_rollup"))?.[1] ?? 0));
  return sizes.reduce((sum, kib) => sum + 1024 * kib, 0);
}

async function round(name, server, work) {
  const host = await chromium.launchServer({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  const browser = await chromium.connect(host.wsEndpoint());
  let peak = 0;
  const watch = setInterval(async () => (peak = Math.max(peak, await memory(host.process().pid))), 500);
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(0);
    sent = 0;
    // A page of the same origin without the demo's own work.
    await page.goto(`${server.url}icon.svg`);
    const { method, ...options } = peers[name];
    const { load, asked, times, text, promptTokens, path } = await page.evaluate(
      ({ source, method, work }) => new Function(`return { ${source} }`)()[method](work),
      { source: String(methods[method]), method, work: { ...work, ...options } },
    );
    const first = (times[0] - asked) / 1000;
    const rate = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
    return { name, path, text, promptTokens, load: load / 1000, first, decode: rate, fetched: sent, peak };
  } finally {
    clearInterval(watch);
    await browser.close();
    await host.close();
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    onnx: { type: "string" },
    peers: { type: "string" },
    threads: { type: "string", default: "1" },
    words: { type: "string", default: "40" },
    "max-tokens": { type: "string", default: "8" },
    runs: { type: "string", default: "1" },
    json: { type: "boolean", default: false },
  },
});
if (positionals.length !== 1) {
  console.error("which model? node browser.mjs MODEL [options]");
  process.exit(1);
}
const words = Array.from({ length: Number(values.words) }, (_, i) => ["river", "stone", "lamp", "road"][i % 4]);
const work = {
  prompt: `Here is a list of words: ${words.join(", ")}. The next word is`,
  warmUp: "One, two, three,",
  maxTokens: Number(values["max-tokens"]),
  threads: Number(values.threads),
};
if (values.onnx) folders["/onnx/model/"] = resolve(values.onnx);
const wanted = values.peers?.split(",") ?? Object.keys(peers).filter((name) => values.onnx || !name.startsWith("tjs-"));
const measured = ["benben", ...wanted.filter((name) => name !== "benben")];
const server = await serve(resolve(positionals[0]), 0, intercept);
const rounds = [];
for (let i = 0; i < Number(values.runs); i++) {
  for (const name of measured) rounds.push(await round(name, server, work));
}
server.close();
const { promptTokens } = rounds.find((each) => each.promptTokens);
if (values.json) {
  console.log(JSON.stringify({ ...work, promptTokens, rounds }, null, 2));
} else {
  console.log(`${promptTokens} prompt tokens, ${work.maxTokens} new; rates in tokens per second\n`);
  console.log("".padEnd(12) + FIGURES.map((figure) => figure.padStart(12)).join(""));
  for (const { name, load, first, decode, fetched, peak } of rounds) {
    const cells = [load, first, promptTokens / first, decode, fetched / 1e6, peak / 1e6];
    console.log(name.padEnd(12) + cells.map((cell) => cell.toFixed(cell < 100 ? 2 : 0).padStart(12)).join(""));
  }
  for (const { name, path, text } of rounds) console.log(`\n${name}: ${path}\n  ${JSON.stringify(text)}`);
}
