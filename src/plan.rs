//! The memory plan, made before a byte is uploaded: weights, KV cache and scratch against what there is.

use crate::gpu::Gpu;
use crate::kernels::matrix::RowFormat;
use crate::kv::policy::Rank;
use crate::kv::{KvOptions, Tiers};
use crate::model::{Config, MOST_CONTEXT, PrefillScratch, most_tallies, stacks};
use crate::weights::ModelFile;
use crate::{Advice, Error, Result};

/// Rows that a block of a policy without one-shot prompts has at most.
pub(crate) const BLOCK_ROWS: usize = 512;

/// Rows of a prompt of `rows` tokens that run together: all of them where the policy ranks them by what the last
/// ones attend to, and where age decides, as many as the model was trained to see at once.
pub(crate) fn block_rows(kv: &KvOptions, config: &Config, rows: usize) -> usize {
    match (kv.policy.one_shot(), kv.policy.rank()) {
        (false, _) => rows.min(BLOCK_ROWS),
        (true, Some(Rank::Age)) => rows.min(config.context.max(BLOCK_ROWS)),
        (true, _) => rows,
    }
}

/// What a device can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest range that one binding covers, in bytes.
    pub binding: u64,
    /// Bytes that may be used altogether, where that is known.
    pub memory: Option<u64>,
}

impl Limits {
    /// The limits of a device, with `memory` in place of what it says of itself.
    pub fn of(gpu: &Gpu, memory: Option<u64>) -> Self {
        // WebGPU does not tell a GPU's memory; a software adapter's is the host's.
        let host = if gpu.is_software() { available_host_bytes() } else { None };
        Self { binding: gpu.max_binding_bytes(), memory: memory.or(host) }
    }
}

/// Bytes that the operating system could still hand out, where it says so.
fn available_host_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes that a model and one session on it take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// All matrices and vectors.
    pub weights: u64,
    /// The cache, once the context is full.
    pub kv: u64,
    /// A full f16 cache of the same context, to compare with.
    pub kv_full_f16: u64,
    /// Activations of prefill and decode.
    pub scratch: u64,
    /// The largest buffer of the cache, and of the activations.
    largest: [u64; 2],
    context: usize,
}

impl Plan {
    /// The plan for a model in `file` and a session over `context` tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there can be no such context, or the policy cannot be applied to it.
    pub fn new(
        file: &ModelFile,
        config: &Config,
        weights: Option<RowFormat>,
        kv: &KvOptions,
        context: usize,
    ) -> Result<Self> {
        let vectors = (2 * config.layers + 1) * config.width * 4;
        let matrices: u64 = stacks(config).iter().map(|stack| stack.bytes(file, weights)).sum();
        Ok(Self { weights: matrices + vectors as u64, ..Self::session(config, kv, context)? })
    }

    /// The plan for one more session on a model that is loaded.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn session(config: &Config, kv: &KvOptions, context: usize) -> Result<Self> {
        if !(2..=MOST_CONTEXT).contains(&context) {
            let reason = format!(
                "a context of {context} tokens is not one of 2 (a prompt and an answer) to {MOST_CONTEXT}"
            );
            return Err(Error::Invalid(reason));
        }
        let f16 = crate::kv::Format::F16.bytes_per_token(config.heads);
        let kv = kv.suited(config.heads, config.profile.as_ref());
        let block = kv.policy.plan(context, config.kv_layers())?;
        kv.check_offload(&block)?;
        let tiers = Tiers::new(&kv);
        let rows = block.gains(&tiers, true).into_iter().zip(&block.layers);
        let layers: Vec<u64> = rows
            .map(|(gain, layer)| {
                tiers.bytes(gain, config.heads) + kv.offload_bytes(layer.enter - layer.retain, config.heads)
            })
            .collect();
        let in_block = block_rows(&kv, config, context);
        let kept = block.layers.iter().map(|layer| layer.retain).max().unwrap_or(0);
        let before = if kv.policy.one_shot() && in_block == context { 0 } else { kept };
        let tallies = most_tallies(&block, kv.policy.per_head());
        let (scratch, largest) = PrefillScratch::bytes(config, in_block, before, tallies);
        Ok(Self {
            weights: 0,
            kv: layers.iter().sum(),
            kv_full_f16: (context * config.kv_layers()) as u64 * f16,
            scratch: scratch + 4 * config.vocab as u64,
            largest: [layers.into_iter().max().unwrap_or(0), largest],
            context,
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.scratch
    }

    /// Compares the plan with what there is.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] with the numbers and what would help most.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        let too_large = |what: &str, need: u64, limit_name: &str, limit: u64, advice: Vec<Advice>| {
            let (what, limit_name) = (what.to_owned(), limit_name.to_owned());
            Err(Error::DoesNotFit { what, need, limit_name, limit, advice })
        };
        let shorter = |need: u64, limit: u64| {
            let context = (self.context as u128 * u128::from(limit) / u128::from(need.max(1))).max(2);
            vec![Advice::Context(context as usize), Advice::KvBits(4)]
        };
        let [kv, scratch] = self.largest;
        for (what, need) in [("the KV cache of one layer", kv), ("one buffer of activations", scratch)] {
            if need > limits.binding {
                let advice = shorter(need, limits.binding);
                return too_large(what, need, "the adapter's largest binding", limits.binding, advice);
            }
        }
        let Some(memory) = limits.memory else { return Ok(()) };
        if self.total() <= memory {
            return Ok(());
        }
        let rest = memory.saturating_sub(self.weights);
        let lighter = || vec![Advice::Weights(RowFormat::Q4)];
        let advice = if rest > 0 { shorter(self.kv + self.scratch, rest) } else { lighter() };
        too_large(
            "the plan (weights, KV cache and activations)",
            self.total(),
            "the memory left",
            memory,
            advice,
        )
    }
}
