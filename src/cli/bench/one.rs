//! One sequence: prefill and decode speed, beside the bandwidth that the adapter reaches at best.
//!
//! A short answer comes first, so that no shader is compiled while the clock runs. Each number is the median of
//! the runs. Of a long answer, its quarters tell whether tokens become slower and memory fuller as it goes on.

use std::time::Instant;

use benben::gpu::Counters;
use benben::{GenerateOptions, Result, Session};
use serde::Serialize;

use super::{BenchArgs, Reports, now, prompt};
use crate::cli::Outcome;
use crate::cli::kv_args::KvLabel;
use crate::cli::measure::{Ceilings, median};
use crate::cli::report::{Table, bytes};

/// Tokens of the warm-up: enough that every policy drops some, so that its kernels run too.
const WARM_UP: usize = 128;

/// Tokens of an answer from which on its quarters are told.
const LONG: usize = 256;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Seconds since 1970 when it ended.
    time: u64,
    model: String,
    adapter: String,
    #[serde(flatten)]
    kv: KvLabel,
    prompt_tokens: usize,
    max_tokens: usize,
    runs: usize,
    prefill_tokens_per_second: Option<f64>,
    decode_tokens_per_second: Option<f64>,
    time_to_first_token_seconds: Option<f64>,
    #[serde(flatten)]
    ceilings: Ceilings,
    weight_gb_per_second: Option<f64>,
    weight_share_of_memory: Option<f64>,
    dispatches_per_token: Option<f64>,
    /// Those of wgpu between the dispatches.
    barriers_per_token: Option<f64>,
    /// Of the last run, if it was long.
    quarters: Vec<Quarter>,
    kv_bytes: u64,
    kv_bytes_full_f16: u64,
    peak_bytes: u64,
}

/// A quarter of an answer.
#[derive(Debug, Clone, Copy, Serialize)]
struct Quarter {
    /// The median over its tokens.
    ms_per_token: f64,
    /// When it ended.
    kv_bytes: u64,
    device_bytes: u64,
}

pub async fn run(args: &BenchArgs, mut reports: Reports) -> Outcome {
    let kv = args.kv.measured()?;
    let model = args.open(&kv).await?;
    let gpu = model.gpu();
    let ceilings = Ceilings::measure(gpu).await?;
    let mut session = args.load.session(&model, &kv, args.prompt_tokens + args.max_tokens)?;
    measure(&mut session, args.prompt_tokens.min(WARM_UP), 2).await?;
    gpu.reset_peak();

    let mut runs = Vec::new();
    for _ in 0..args.runs {
        runs.push(measure(&mut session, args.prompt_tokens, args.max_tokens).await?);
    }
    let over = |value: fn(&Run) -> Option<f64>| median(runs.iter().filter_map(value).collect());
    let decode = over(|run| run.decode);
    let weights = decode.map(|rate| rate * model.bytes_per_step() as f64 / 1e9);
    let rows = session.kv();
    let report = Report {
        time: now(),
        model: model.config().name.clone(),
        adapter: gpu.describe(),
        kv: KvLabel::of(&kv.suited(model.config().heads, None)),
        prompt_tokens: args.prompt_tokens,
        max_tokens: args.max_tokens,
        runs: args.runs,
        prefill_tokens_per_second: over(|run| Some(run.prefill)),
        decode_tokens_per_second: decode,
        time_to_first_token_seconds: over(|run| Some(run.first_token)),
        ceilings,
        weight_gb_per_second: weights,
        weight_share_of_memory: weights.map(|rate| rate / ceilings.memory().0),
        dispatches_per_token: over(|run| run.dispatches),
        barriers_per_token: over(|run| run.barriers),
        quarters: runs.last().map_or(Vec::new(), |run| run.quarters.clone()),
        kv_bytes: rows.bytes,
        kv_bytes_full_f16: rows.bytes_full_f16,
        peak_bytes: gpu.bytes().peak,
    };
    reports.save(&report, || Ok(String::new()))?;
    args.print(&report)
}

/// One run's numbers; `None` for a rate that takes more tokens than there were.
struct Run {
    prefill: f64,
    first_token: f64,
    decode: Option<f64>,
    dispatches: Option<f64>,
    barriers: Option<f64>,
    quarters: Vec<Quarter>,
}

/// Answers a prompt of `tokens` arbitrary tokens with exactly `answer` tokens.
async fn measure(session: &mut Session, tokens: usize, answer: usize) -> Result<Run> {
    let gpu = session.model().gpu().clone();
    let vocab = session.model().config().vocab;
    session.clear();
    session.append(&prompt(0, tokens, vocab))?;
    let options =
        GenerateOptions { max_tokens: answer, stop: Some(Vec::new()), ..GenerateOptions::default() };
    let mut generation = session.generate(&options)?;
    let (mut counters, mut times, mut quarters) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = Instant::now();
    while let Some(id) = generation.next().await {
        id?;
        counters.push(gpu.counters());
        times.push(1e3 * before.elapsed().as_secs_f64());
        before = Instant::now();
        if answer >= LONG && counters.len() == (quarters.len() + 1) * answer / 4 {
            let (kv, held) = (generation.session().kv(), gpu.bytes());
            quarters.push(Quarter {
                ms_per_token: median(std::mem::take(&mut times)).unwrap_or(0.0),
                kv_bytes: kv.bytes,
                device_bytes: held.weights + held.kv + held.scratch,
            });
        }
    }
    drop(generation);
    // Steps are submitted ahead: between two tokens one step is recorded, and none near the end.
    let steps = counters.windows(2).filter(|pair| pair[1].dispatches > pair[0].dispatches);
    let each = |of: fn(&Counters) -> u64| {
        median(steps.clone().map(|pair| (of(&pair[1]) - of(&pair[0])) as f64).collect())
    };
    let timing = session.timing();
    Ok(Run {
        prefill: timing.prefill_rate(),
        first_token: timing.prefill.as_secs_f64(),
        decode: (timing.answer_tokens > 1).then(|| timing.decode_rate()),
        dispatches: each(|made| made.dispatches),
        barriers: each(|made| made.barriers),
        quarters,
    })
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number =
            |value: Option<f64>, unit: &str| value.map_or("-".to_owned(), |x| format!("{x:.2} {unit}"));
        let mut table = Table::default();
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("prefill", number(self.prefill_tokens_per_second, "tokens/s"));
        row("decode", number(self.decode_tokens_per_second, "tokens/s"));
        row("time to first token", number(self.time_to_first_token_seconds, "s"));
        row("weights read", number(self.weight_gb_per_second, "GB/s"));
        let (memory, moving) = self.ceilings.memory();
        row(&format!("{moving}, for comparison"), number(Some(memory), "GB/s"));
        row(&format!("weights read / {moving}"), number(self.weight_share_of_memory.map(|x| 100.0 * x), "%"));
        row("multiply, for comparison", number(Some(self.ceilings.multiply_gflop_per_second), "GFLOP/s"));
        row("matrix units, for comparison", number(self.ceilings.matrix_gflop_per_second, "GFLOP/s"));
        let count = |count: Option<f64>| count.map_or("-".to_owned(), |n| n.to_string());
        row("dispatches per token", count(self.dispatches_per_token));
        row("barriers between them", count(self.barriers_per_token));
        if !self.quarters.is_empty() {
            let each = |value: &dyn Fn(&Quarter) -> String| -> String {
                self.quarters.iter().map(value).collect::<Vec<_>>().join(", ")
            };
            row("ms per token, by quarter", each(&|q| format!("{:.2}", q.ms_per_token)));
            row("KV cache, by quarter", each(&|q| bytes(q.kv_bytes)));
            row("on the device, by quarter", each(&|q| bytes(q.device_bytes)));
        }
        row("KV cache", bytes(self.kv_bytes));
        row("full f16 cache", bytes(self.kv_bytes_full_f16));
        row("peak on the device", bytes(self.peak_bytes));
        write!(
            f,
            "{} on {}\nKV cache {}; {} prompt tokens, {} new; median of {}\n\n{table}",
            self.model, self.adapter, self.kv, self.prompt_tokens, self.max_tokens, self.runs
        )
    }
}
