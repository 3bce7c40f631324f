//! `benben bench --kernels`: each hot kernel alone, on the model's own matrices and heads, beside the ceiling that is
//! nearer to it.
//!
//! Products of a decode step run over all layers in turn, as the step does: a single small matrix would stay in the
//! device's caches. Those of a prompt reuse what they read anyway.

use std::fmt;

use benben::gpu::{Class, Recorder, Tensor};
use benben::kernels::activations::Activations;
use benben::kernels::attention_decode::{Attended, attention_decode};
use benben::kernels::attention_parts::{Attend, Room};
use benben::kernels::attention_prefill::{Block, attention_prefill, halves_len, keys_and_values};
use benben::kernels::check::Noise;
use benben::kernels::kv_row::{Basis, KvRows};
use benben::kernels::matmul::{Rows, matmul, reads_halves, slices_len};
use benben::kernels::matrix::{Epilogue, Matrix, Norm};
use benben::kernels::matvec::matvec;
use benben::kernels::matvec_dots::{self, To, matvec_dots};
use benben::kernels::operand::{Code, Operand};
use benben::kernels::quantise::quantise;
use benben::kv::Format;
use benben::{Gpu, KvBits, KvOptions, Model, Result};
use serde::Serialize;

use super::{BenchArgs, Reports, now};
use crate::cli::Outcome;
use crate::cli::measure::{Ceilings, seconds};
use crate::cli::report::Table;

/// Rows of a chunk of a prompt.
const CHUNK: usize = 512;
/// Sequences of a batch that is decoded.
const MANY: usize = 16;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Seconds since 1970 when it began.
    time: u64,
    model: String,
    adapter: String,
    #[serde(flatten)]
    ceilings: Ceilings,
    kernels: Vec<Timed>,
}

/// One kernel's work, all its dispatches together, and how long it took.
#[derive(Debug, Serialize)]
struct Timed {
    name: String,
    ms: f64,
    /// Bytes that must be read or written at least once.
    gb_per_second: f64,
    gflop_per_second: f64,
    /// The time that the nearer ceiling would allow over the time that it took.
    share_of_ceiling: f64,
    ceiling: &'static str,
}

/// Bytes to move and operations to carry out.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    bytes: u64,
    flop: u64,
    /// By the matrix units.
    matrix_units: bool,
}

/// What times kernels.
struct Bench<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    report: Report,
}

pub async fn run(args: &BenchArgs, mut reports: Reports) -> Outcome {
    let model = args.open(&KvOptions::default()).await?;
    let gpu = model.gpu();
    let report = Report {
        time: now(),
        model: model.config().name.clone(),
        adapter: gpu.describe(),
        ceilings: Ceilings::measure(gpu).await?,
        kernels: Vec::new(),
    };
    let mut bench = Bench { gpu, model: &model, report };
    for sequences in [1, 2, MANY] {
        bench.decode_products(sequences).await?;
    }
    for format in [Format::F16, Format::both(KvBits::Four)] {
        if format == Format::F16 || model.config().heads.dim.is_multiple_of(32) {
            bench.decode_attention(args.prompt_tokens, format).await?;
        }
    }
    bench.prefill_products().await?;
    bench.prefill_attention(args.prompt_tokens).await?;
    reports.save(&bench.report, || Ok(String::new()))?;
    args.print(&bench.report)
}

impl Bench<'_> {
    async fn time(
        &mut self,
        name: String,
        work: Work,
        record: impl Fn(&mut Recorder) -> Result<()>,
    ) -> Result<()> {
        let seconds = seconds(self.gpu, record).await?;
        self.report.kernels.push(Timed::new(name, work, seconds, &self.report.ceilings));
        Ok(())
    }

    /// Values that are not zeros: those would take less power, and a GPU would clock higher.
    fn tensor(&self, len: usize) -> Tensor<f32> {
        self.gpu.tensor_with(Class::Scratch, "activations", &Noise::new(1).values(len))
    }

    /// The same as a product reads them.
    fn activations(&self, len: usize, rows: Rows) -> Activations {
        Activations::with(self.gpu, "activations", &Noise::new(1).values(len), rows)
    }

    /// Room for what a product gives, which only a product reads if it is gated.
    fn outputs(&self, len: usize, rows: Rows, epilogue: Epilogue) -> Activations {
        match epilogue {
            Epilogue::SwiGlu => self.activations(len, rows),
            _ => Activations::Single(self.tensor(len)),
        }
    }

    /// A decode step's products for `count` sequences, in all layers.
    async fn decode_products(&mut self, count: usize) -> Result<()> {
        let (model, layers) = (self.model, self.model.config().layers);
        let of = |i: usize| (0..layers).map(|layer| model.matrices(layer)[i]).collect();
        let products: [(&str, Vec<&Matrix>, bool, Epilogue); 5] = [
            ("qkv", of(0), true, Epilogue::Store),
            ("output", of(1), false, Epilogue::Add),
            ("gate and up", of(2), true, Epilogue::SwiGlu),
            ("down", of(3), false, Epilogue::Add),
            ("head", vec![model.head()], true, Epilogue::Store),
        ];
        for (name, matrices, normed, epilogue) in products {
            let (rows, cols) = (matrices[0].rows(), matrices[0].cols());
            let kind = Rows::Batch { most: count };
            let (x, weight) = (self.activations(count * cols, kind), self.tensor(cols));
            let out = self.outputs(count * epilogue.outputs(rows), kind, epilogue);
            let slices = self.tensor(slices_len(self.gpu.tuning(), count, kind));
            let norm = normed.then_some(Norm { weight: &weight, epsilon: 1e-5 });
            let flop = matrices.iter().map(|m| 2 * (count * m.rows() * m.cols()) as u64).sum();
            let bytes = matrices.iter().map(|m| m.bytes()).sum();
            let matrix_units = reads_halves(self.gpu.tuning(), kind);
            let work = Work { bytes, flop, matrix_units };
            let name = format!("decode {name}, {} x {count} x {rows} x {cols}", matrices.len());
            let [from, next] =
                [cols, epilogue.outputs(rows)].map(|width| Operand::new(self.gpu, count, width));
            let (tuning, stream) = (self.gpu.tuning(), self.tensor(count * epilogue.outputs(rows)));
            let dots = matvec_dots::serves(tuning, count);
            let code = Code::of(tuning, matrices[0].format());
            let ones = self.tensor(epilogue.outputs(rows));
            let to = match epilogue {
                Epilogue::Store => To::Store(&stream),
                Epilogue::Add => To::Add { stream: &stream, weight: &ones, next: &next, code },
                Epilogue::SwiGlu => To::SwiGlu { next: &next, code },
            };
            if dots {
                let mut rec = Recorder::new(self.gpu);
                quantise(&mut rec, self.tensor(count * cols).bind(), None, count, &from, code)?;
                rec.submit();
            }
            self.time(name, work, |rec| {
                matrices.iter().try_for_each(|matrix| match count {
                    _ if dots => matvec_dots(rec, matrix, &from, count, normed.then_some(1e-5), to),
                    1 => matvec(rec, matrix, &x, norm, epilogue, &out),
                    _ => matmul(rec, matrix, &x, count, kind, epilogue, &out, &slices),
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Attention of one token over `count` rows of every layer.
    async fn decode_attention(&mut self, count: usize, format: Format) -> Result<()> {
        let config = self.model.config();
        let (heads, layers) = (config.heads, config.kv_layers());
        let basis = Basis::new(self.gpu, heads, &[format]);
        let pool = |_| KvRows::new(self.gpu, heads, format, &basis, count, 1);
        let pools = (0..layers).map(pool).collect::<Result<Vec<_>>>()?;
        let splits = self.gpu.tuning().attention_splits as usize;
        let (q, out) = (self.tensor(heads.q_width()), self.tensor(heads.q_width()));
        let rooms = self.tensor(Room::new(heads, splits, 0).values());
        let arrived = self.gpu.tensor(Class::Scratch, "arrived", heads.query);
        let rows = (layers * count) as u64;
        let bytes = rows * format.bytes_per_token(heads);
        let work = Work { bytes, flop: rows * 4 * heads.q_width() as u64, matrix_units: false };
        let name = format!("decode attention, {layers} x {count} rows of {} bits", format.k.bits());
        self.time(name, work, |rec| {
            pools.iter().try_for_each(|rows| {
                let to = Attended { rooms: &rooms, out: &out, operand: None, arrived: &arrived };
                attention_decode(rec, &q, 1.0, &[Attend::alone(rows, count)], to)
            })
        })
        .await
    }

    /// Products of a chunk of a prompt, in the first layer.
    async fn prefill_products(&mut self) -> Result<()> {
        let [qkv, output, gate_up, down] = self.model.matrices(0);
        for (name, matrix, epilogue) in [
            ("qkv", qkv, Epilogue::Store),
            ("output", output, Epilogue::Add),
            ("gate and up", gate_up, Epilogue::SwiGlu),
            ("down", down, Epilogue::Add),
        ] {
            let (rows, cols) = (matrix.rows(), matrix.cols());
            let x = self.activations(CHUNK * cols, Rows::Block);
            let out = self.outputs(CHUNK * epilogue.outputs(rows), Rows::Block, epilogue);
            let slices = self.tensor(slices_len(self.gpu.tuning(), CHUNK, Rows::Block));
            let bytes = matrix.bytes() + x.bytes() + out.bytes();
            let matrix_units = reads_halves(self.gpu.tuning(), Rows::Block);
            let work = Work { bytes, flop: 2 * (CHUNK * rows * cols) as u64, matrix_units };
            let name = format!("prefill {name}, {CHUNK} x {rows} x {cols}");
            self.time(name, work, |rec| matmul(rec, matrix, &x, CHUNK, Rows::Block, epilogue, &out, &slices))
                .await?;
        }
        Ok(())
    }

    /// Attention of a chunk of a prompt that follows `prefix` rows, in one layer.
    async fn prefill_attention(&mut self, prefix: usize) -> Result<()> {
        let heads = self.model.config().heads;
        let [q, out] = [(); 2].map(|()| self.tensor(CHUNK * heads.q_width()));
        let [k, v] = [(); 2].map(|()| self.tensor((prefix + CHUNK) * heads.kv_width()));
        let lse = self.tensor(CHUNK * heads.query);
        let seen = (CHUNK * prefix + CHUNK * (CHUNK + 1) / 2) as u64;
        let bytes = q.bytes() + out.bytes() + k.bytes() + v.bytes() + lse.bytes();
        let work = Work { bytes, flop: seen * 4 * heads.q_width() as u64, matrix_units: false };
        let name = format!("prefill attention, {CHUNK} queries after {prefix} rows");
        let words = halves_len(self.gpu.tuning(), heads, prefix + CHUNK);
        let halves = [(); 2].map(|()| self.gpu.tensor(Class::Scratch, "bench", words));
        self.time(name, work, |rec| {
            let kv = keys_and_values(rec, [&k, &v], heads, 0..prefix + CHUNK, &halves)?;
            let (q, out, lse, count, scale) = (&q, (&out).into(), &lse, CHUNK, 1.0);
            attention_prefill(rec, &Block { heads, prefix, count, q, kv, bias: None, scale, out, lse })
        })
        .await
    }
}

impl Timed {
    fn new(name: String, work: Work, seconds: f64, ceilings: &Ceilings) -> Self {
        let [moved, computed] = [work.bytes, work.flop].map(|amount| amount as f64 / 1e9);
        let (rate, moving) = ceilings.memory();
        let memory = moved / rate;
        let units = ceilings.matrix_gflop_per_second.filter(|_| work.matrix_units);
        let arithmetic = computed / units.unwrap_or(ceilings.multiply_gflop_per_second);
        Self {
            name,
            ms: 1e3 * seconds,
            gb_per_second: moved / seconds,
            gflop_per_second: computed / seconds,
            share_of_ceiling: memory.max(arithmetic) / seconds,
            ceiling: match units {
                _ if memory > arithmetic => moving,
                Some(_) => "matrix units",
                None => "multiply",
            },
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}\n{}", self.model, self.adapter, self.ceilings)?;
        let mut table = Table::new(["kernel", "ms", "GB/s", "GFLOP/s", "of the nearer ceiling"]);
        for timed in &self.kernels {
            table.row([
                timed.name.clone(),
                format!("{:.3}", timed.ms),
                format!("{:.1}", timed.gb_per_second),
                format!("{:.1}", timed.gflop_per_second),
                format!("{:.0} % of {}", 100.0 * timed.share_of_ceiling, timed.ceiling),
            ]);
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_ceiling_is_the_one_that_takes_longer() {
        let ceilings = Ceilings {
            read_gb_per_second: 10.0,
            copy_gb_per_second: 8.0,
            multiply_gflop_per_second: 100.0,
            matrix_gflop_per_second: Some(1000.0),
        };
        let by = |bytes, flop, matrix_units| {
            Timed::new(String::new(), Work { bytes, flop, matrix_units }, 0.5, &ceilings)
        };
        let of = |bytes, flop| by(bytes, flop, false);
        let moves = of(4_000_000_000, 10_000_000_000);
        assert_eq!((moves.ceiling, moves.gb_per_second, moves.gflop_per_second), ("reading", 8.0, 20.0));
        assert!((moves.share_of_ceiling - 0.8).abs() < 1e-9);
        let computes = of(1_000_000_000, 20_000_000_000);
        assert_eq!(computes.ceiling, "multiply");
        assert!((computes.share_of_ceiling - 0.4).abs() < 1e-9);
        let fast = by(1_000_000_000, 200_000_000_000, true);
        assert_eq!(fast.ceiling, "matrix units");
        assert!((fast.share_of_ceiling - 0.4).abs() < 1e-9);
        assert_eq!(by(1_000_000_000, 20_000_000_000, true).ceiling, "reading");
    }
}
