// Renders what was measured into docs/benchmarks.md.
//
//   node tables.mjs [--check]
//
// Each folder of benches/runs/ is one machine's section, each JSON file in it one table: a suite, kernels or a single
// sequence as `benben bench --json=FILE` writes them, or a peer's report. The tables replace what stands between the
// two comments in the document; with --check nothing is written, and a document that lags behind is an error.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dirname, "..");
const RUNS = join(REPOSITORY, "benches/runs");
const DOCUMENT = join(REPOSITORY, "docs/benchmarks.md");
const [BEGIN, END] = ["<!-- tables: benches/tables.mjs writes what follows -->", "<!-- end of tables -->"];

const rate = (value) => (value == null ? "-" : value.toFixed(value < 100 ? 1 : 0));
const seconds = (value) => value.toFixed(2);
const percent = (share) => (share == null ? "-" : `${(100 * share).toFixed(0)} %`);
const date = (time) => new Date(1000 * time).toISOString().slice(0, 10);

function bytes(count) {
  if (count == null) return "-";
  const [unit, name] = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([unit]) => count >= unit) ?? [1, "B"];
  return `${(count / unit).toFixed(unit === 1 ? 0 : 2)} ${name}`;
}

function table(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), `|${head.map((_, i) => (i ? "--:|" : "---|")).join("")}`, ...rows.map(line)].join("\n");
}

const ceilings = (run) =>
  [
    run.read_gb_per_second && `read ${rate(run.read_gb_per_second)} GB/s`,
    `copy ${rate(run.copy_gb_per_second)} GB/s`,
    `multiply ${rate(run.multiply_gflop_per_second)} GFLOP/s`,
    run.matrix_gflop_per_second && `matrix units ${rate(run.matrix_gflop_per_second)} GFLOP/s`,
  ]
    .filter(Boolean)
    .join(", ");

/** A suite's cells, or those of a peer, which has no plan and no comparison. */
function suite(run) {
  const head = ["cache", "batch", "prompt + new", "prefill/s", "decode/s", "new/s", "ms/token", "first token", "KV cache", "peak", "same tokens"];
  const rows = run.cells.map((cell) => {
    const at = [cell.cache, cell.batch, `${cell.prompt_tokens} + ${cell.new_tokens}`];
    if (cell.outcome !== "measured") return [...at, cell.reason, ...Array(7).fill("-")];
    const same = cell.agreement;
    return [
      ...at,
      rate(cell.prefill_tokens_per_second),
      rate(cell.decode_tokens_per_second),
      rate(cell.new_tokens_per_second),
      rate(cell.ms_per_token),
      `${seconds(cell.time_to_first_token_seconds)} s`,
      bytes(cell.kv_bytes),
      bytes(cell.peak_bytes),
      same?.sequences ? `${same.identical}/${same.sequences}, ${percent(same.share_before_difference)}${same.wrong ? `, ${same.wrong} WRONG` : ""}` : "-",
    ];
  });
  const packs = (run.packs ?? []).map(
    (pack) =>
      `\n\n${pack.batch} sequences of ${pack.prompt_tokens} tokens under ${pack.cache} fit into the ` +
      `${bytes(pack.bytes)} of ${pack.full_batch} under the first cache, ${pack.most_at_once == null ? "but they were not run" : `and ${pack.most_at_once} ran at once`}.`,
  );
  return table(head, rows) + packs.join("");
}

function kernels(run) {
  const row = (k) => [k.name, k.ms.toFixed(3), rate(k.gb_per_second), rate(k.gflop_per_second), `${percent(k.share_of_ceiling)} of ${k.ceiling}`];
  return table(["kernel", "ms", "GB/s", "GFLOP/s", "of the nearer ceiling"], run.kernels.map(row));
}

function one(run) {
  const row = [
    `${run.kv}, K in ${run.k_bits} bits, V in ${run.v_bits}`,
    `${run.prompt_tokens} + ${run.max_tokens}`,
    rate(run.prefill_tokens_per_second),
    rate(run.decode_tokens_per_second),
    `${seconds(run.time_to_first_token_seconds)} s`,
    percent(run.weight_share_of_memory),
    bytes(run.kv_bytes),
    bytes(run.peak_bytes),
  ];
  return table(["cache", "prompt + new", "prefill/s", "decode/s", "first token", "weights read / ceiling", "KV cache", "peak"], [row]);
}

function llamaCpp(run) {
  const row = (name, figures, digits) => [name, ...["prefill", "decode", "first"].map((figure) => figures[figure].toFixed(digits))];
  const sides = [run.benben, run.peer].filter(Boolean).map((side) => row(side.name, side.median, 2));
  const rows = run.ratio ? [...sides, row("times better", run.ratio, 1)] : sides;
  return table(["", "prefill/s", "decode/s", "first token, s"], rows);
}

/** What a file holds: its title, the sentence below it, and its table. */
function section(name, run) {
  const what = (...parts) => parts.filter(Boolean).join("; ") + `. \`${name}\`, ${date(run.time)}`;
  if (run.peer) {
    const work = `${run.promptTokens} prompt tokens, ${run.maxTokens} new, median of ${run.runs} alternating rounds`;
    return [`benben and ${run.peer.name}`, what(run.adapter, work), llamaCpp(run)];
  }
  if (run.kernels) return [`Kernels of ${run.model}`, what(run.adapter, ceilings(run)), kernels(run)];
  if (!run.cells) return [`${run.model}, one sequence`, what(run.adapter, ceilings(run), `median of ${run.runs}`), one(run)];
  const weights = `weights ${run.weights} (${bytes(run.weight_bytes)})`;
  if (!run.suite) return [`${run.model} in ${run.program}`, what(run.adapter, weights), suite(run)];
  return [`${run.model}, suite ${run.suite}`, what(run.adapter, weights, ceilings(run)), suite(run)];
}

function render() {
  const machines = readdirSync(RUNS, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const parts = machines.map(({ name: machine }) => {
    const files = readdirSync(join(RUNS, machine)).filter((file) => file.endsWith(".json")).sort();
    const tables = files.map((file) => {
      const name = `benches/runs/${machine}/${file}`;
      const [title, note, body] = section(name, JSON.parse(readFileSync(join(REPOSITORY, name), "utf8")));
      return `### ${title}\n\n${note}\n\n${body}`;
    });
    return [`## ${machine}`, ...tables].join("\n\n");
  });
  return parts.join("\n\n");
}

const before = readFileSync(DOCUMENT, "utf8");
const [from, to] = [before.indexOf(BEGIN), before.indexOf(END)];
if (from < 0 || to < from) throw new Error(`${DOCUMENT} has no place for tables`);
const after = `${before.slice(0, from)}${BEGIN}\n\n${render()}\n\n${before.slice(to)}`;
if (process.argv.includes("--check")) {
  if (after !== before) {
    console.error("docs/benchmarks.md lags behind benches/runs; run: node benches/tables.mjs");
    process.exit(1);
  }
} else if (after !== before) {
  writeFileSync(DOCUMENT, after);
}
