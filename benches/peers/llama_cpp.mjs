// Measures llama.cpp's Vulkan back end beside benben: same model file, same adapter, one run.
//
//   node llama_cpp.mjs MODEL [--prompt-tokens 512] [--max-tokens 16] [--runs 3] [--json] [--peer-only]
//
// prefill  prompt tokens / time from submitting the prompt to having the first new token
// decode   new tokens after that first one / the time they took
// first    that time itself, in seconds
//
// Rounds alternate (peer, benben, peer, benben, ...) so that a machine that slows down meanwhile slows
// both; medians are compared. The peer first runs one whole round unmeasured, since its pipelines are
// chosen by shape and compiled at first use.

import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { parseArgs, promisify } from "node:util";

const REPOSITORY = resolve(import.meta.dirname, "../..");
const FIGURES = ["prefill", "decode", "first"];

// llama.cpp passes over Vulkan devices of type CPU, such as lavapipe, and then computes without Vulkan
// and without a word; naming the device overrules that. Read when the library loads, hence before it.
process.env.GGML_VK_VISIBLE_DEVICES ??= "0";
const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");

/** Loads the model wholly onto the Vulkan device, or throws: llama.cpp alone would fall back to the CPU. */
async function openPeer(modelPath, contextSize, batchSize) {
  const log = [];
  const llama = await getLlama({
    gpu: "vulkan",
    build: "never",
    skipDownload: true,
    logLevel: LlamaLogLevel.info,
    logger: (_level, message) => log.push(message),
  });
  const devices = await llama.getGpuDeviceNames();
  if (llama.gpu !== "vulkan" || devices.length !== 1) {
    throw new Error(`expected one Vulkan device, found ${devices.length}; see GGML_VK_VISIBLE_DEVICES`);
  }

  const model = await llama.loadModel({ modelPath, gpuLayers: "max" });
  // llama.cpp's own log: what it did, rather than what it was asked to do.
  const text = log.join("\n");
  const [, offloaded, total] = text.match(/offloaded (\d+)\/(\d+) layers to GPU/) ?? [];
  const onDevice = text.match(/using device (Vulkan\d+)/);
  if (!onDevice || offloaded === undefined || offloaded !== total) {
    throw new Error(`llama.cpp put ${offloaded ?? 0} of ${total ?? "?"} layers on the Vulkan device`);
  }

  const context = await model.createContext({ contextSize, batchSize, sequences: 1 });
  return {
    sequence: context.getSequence(),
    dispose: () => llama.dispose(),
    name: `llama.cpp ${llama.llamaCppRelease.release}`,
    adapter: devices[0],
    layers: `${offloaded}/${total}`,
  };
}

/** One prefill and `maxTokens` decode steps from an empty cache. */
async function runPeer({ sequence }, prompt, maxTokens) {
  await sequence.clearHistory();
  const start = performance.now();
  let first;
  let count = 0;
  // An end-of-text token does not end the measurement: every round does the same work.
  for await (const _token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    first ??= performance.now();
    if (count++ === maxTokens) break;
  }
  return {
    prefill: (1000 * prompt.length) / (first - start),
    decode: (1000 * maxTokens) / (performance.now() - first),
    first: (first - start) / 1000,
  };
}

async function runBenben(modelPath, promptTokens, maxTokens) {
  const options = ["--prompt-tokens", promptTokens, "--max-tokens", maxTokens, "--runs", 1, "--json"];
  const command = ["run", "--release", "-q", "--bin", "benben", "--", "bench", modelPath, ...options];
  const { stdout } = await promisify(execFile)("cargo", command.map(String), { cwd: REPOSITORY });
  const result = JSON.parse(stdout);
  return {
    prefill: result.prefill_tokens_per_second,
    decode: result.decode_tokens_per_second,
    first: result.time_to_first_token_seconds,
    adapter: result.adapter,
  };
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** An object of a function of each figure's name. */
const perFigure = (value) => Object.fromEntries(FIGURES.map((figure) => [figure, value(figure)]));

/** How much better benben's figure is: of rates more is better, of times less. */
const better = (figure, ours, theirs) => (figure === "first" ? theirs / ours : ours / theirs);

function summarise(name, rounds) {
  return { name, median: perFigure((figure) => median(rounds.map((round) => round[figure]))), rounds };
}

function printTable(report) {
  const row = (name, cells) => console.log(name.padEnd(24) + cells.map((c) => c.padStart(12)).join(""));
  console.log(`adapter ${report.adapter}, ${report.layers} layers of llama.cpp's on it`);
  console.log(`${report.promptTokens} prompt tokens, ${report.maxTokens} new, median of ${report.runs}\n`);
  row("", ["prefill/s", "decode/s", "first s"]);
  for (const side of [report.benben, report.peer]) {
    if (side) row(side.name, FIGURES.map((figure) => side.median[figure].toFixed(2)));
  }
  if (report.ratio) row("times better", FIGURES.map((figure) => report.ratio[figure].toFixed(2)));
}

function parseCommandLine() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      "prompt-tokens": { type: "string", default: "512" },
      "max-tokens": { type: "string", default: "16" },
      runs: { type: "string", default: "3" },
      json: { type: "boolean", default: false },
      "peer-only": { type: "boolean", default: false },
    },
  });
  const count = (name) => {
    const value = Number(values[name]);
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} takes a whole number from 1`);
    return value;
  };
  if (positionals.length !== 1) throw new Error("which model? node llama_cpp.mjs MODEL [options]");
  return {
    modelPath: resolve(positionals[0]),
    promptTokens: count("prompt-tokens"),
    maxTokens: count("max-tokens"),
    runs: count("runs"),
    json: values.json,
    peerOnly: values["peer-only"],
  };
}

async function main() {
  const { modelPath, promptTokens, maxTokens, runs, json, peerOnly } = parseCommandLine();
  const peer = await openPeer(modelPath, promptTokens + maxTokens + 1, promptTokens);
  console.error(`${peer.name} on ${peer.adapter}, ${peer.layers} layers there; warming up`);
  // Neither side's speed depends on which tokens these are.
  const prompt = Array.from({ length: promptTokens }, (_, i) => 1000 + ((7 * i) % 4096));
  await runPeer(peer, prompt, 1);

  const peerRounds = [];
  const benbenRounds = [];
  for (let round = 1; round <= runs; round++) {
    console.error(`round ${round} of ${runs}`);
    peerRounds.push(await runPeer(peer, prompt, maxTokens));
    if (peerOnly) continue;
    const measured = await runBenben(modelPath, promptTokens, maxTokens);
    if (!String(measured.adapter).includes(peer.adapter)) {
      throw new Error(`benben ran on ${measured.adapter}; choose the same with GGML_VK_VISIBLE_DEVICES`);
    }
    benbenRounds.push(measured);
  }
  await peer.dispose();

  const time = Math.floor(Date.now() / 1000);
  const report = { time, adapter: peer.adapter, layers: peer.layers, promptTokens, maxTokens, runs };
  report.peer = summarise(peer.name, peerRounds);
  if (!peerOnly) {
    report.benben = summarise("benben", benbenRounds);
    report.ratio = perFigure((figure) =>
      better(figure, report.benben.median[figure], report.peer.median[figure]),
    );
  }
  if (json) console.log(JSON.stringify(report, null, 2));
  else printTable(report);
}

try {
  await main();
} catch (error) {
  console.error(`llama_cpp.mjs: ${error.message}`);
  process.exit(1);
}
