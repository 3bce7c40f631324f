//! Models of published shapes with random weights, made on the device: speed depends on shapes, not on values.

use std::sync::Arc;

use super::load::{Source, Stack, assemble};
use super::rope::RopeConfig;
use super::{Config, Model};
use crate::gpu::{Class, Gpu, Recorder, Tensor};
use crate::kernels::fill::{Fill, fill};
use crate::kernels::kv_row::Heads;
use crate::kernels::matrix::{Matrix, RowFormat};
use crate::kernels::part::Part;
use crate::kernels::units;
use crate::text::Text;
use crate::{Error, Result};

/// The shape of a published model.
#[derive(Debug, Clone, Copy)]
pub struct SyntheticPreset {
    /// Its name on the command line.
    pub name: &'static str,
    layers: usize,
    width: usize,
    heads: [usize; 3],
    ffn: usize,
    vocab: usize,
    context: usize,
    rope_base: f32,
    tied: bool,
}

/// Every preset, smallest first.
#[rustfmt::skip]
pub const PRESETS: [SyntheticPreset; 6] = [
    preset("tiny", 4, 128, [4, 2, 32], 256, 1000, 2048, 10_000.0, true),
    preset("smollm2-135m", 30, 576, [9, 3, 64], 1536, 49_152, 8192, 100_000.0, true),
    preset("llama3.2-1b", 16, 2048, [32, 8, 64], 8192, 128_256, 131_072, 500_000.0, true),
    preset("llama2-7b", 32, 4096, [32, 32, 128], 11_008, 32_000, 4096, 10_000.0, false),
    preset("llama3-8b", 32, 4096, [32, 8, 128], 14_336, 128_256, 8192, 500_000.0, false),
    preset("llama2-13b", 40, 5120, [40, 40, 128], 13_824, 32_000, 4096, 10_000.0, false),
];

#[expect(clippy::too_many_arguments, reason = "one column of a table each")]
const fn preset(
    name: &'static str,
    layers: usize,
    width: usize,
    heads: [usize; 3],
    ffn: usize,
    vocab: usize,
    context: usize,
    rope_base: f32,
    tied: bool,
) -> SyntheticPreset {
    SyntheticPreset { name, layers, width, heads, ffn, vocab, context, rope_base, tied }
}

impl SyntheticPreset {
    /// The preset of this name.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the names that there are.
    pub fn named(name: &str) -> Result<Self> {
        PRESETS.into_iter().find(|p| p.name == name).ok_or_else(|| {
            let names = PRESETS.map(|p| p.name).join(", ");
            Error::Invalid(format!("there is no synthetic model '{name}'; choose one of {names}"))
        })
    }

    pub(super) fn config(&self) -> Config {
        let [query, kv, dim] = self.heads;
        Config {
            name: format!("synthetic {}", self.name),
            architecture: "llama".to_owned(),
            layers: self.layers,
            width: self.width,
            heads: Heads { query, kv, dim },
            kv_sharing: 1,
            ffn: self.ffn,
            vocab: self.vocab,
            context: self.context,
            epsilon: 1e-5,
            rope: RopeConfig::plain(self.rope_base, dim),
            fingerprint: String::new(),
            profile: None,
        }
    }
}

/// Fills matrices instead of reading them.
struct Random<'a> {
    gpu: &'a Gpu,
    rec: Recorder,
    format: RowFormat,
    width: usize,
    tied: bool,
    seed: u32,
}

impl Model {
    /// A model of a published shape with random weights in `format`, the same ones on every device.
    ///
    /// # Errors
    /// What the device refuses.
    pub async fn synthetic(gpu: &Gpu, preset: &SyntheticPreset, format: RowFormat) -> Result<Arc<Self>> {
        let config = preset.config();
        let text = Text::numbered(config.vocab)?;
        let gpu = &units::prove(gpu).await;
        let rec = Recorder::new(gpu);
        let mut source = Random { gpu, rec, format, width: config.width, tied: preset.tied, seed: 0 };
        let model = assemble(gpu, &config, text, &mut source).await?;
        source.rec.submit_timed().done().await?;
        gpu.check()?;
        Ok(Arc::new(model))
    }
}

impl Source for Random<'_> {
    async fn matrix(&mut self, stack: &Stack) -> Result<Option<Matrix>> {
        if stack.is_head() && self.tied {
            return Ok(None);
        }
        let cols = stack.cols;
        // Rows of this size keep the width of a random walk through the layers at about one.
        let amplitude = (3.0 / cols as f32).sqrt();
        let mut parts: Vec<Part> = Vec::new();
        for slices in stack.slices(self.gpu, self.format) {
            let rows: usize = slices.iter().map(|s| s.rows).sum();
            let first_row = parts.iter().map(|p| p.rows).sum();
            let words = self.gpu.tensor(Class::Weights, "synthetic", rows * self.format.words_per_row(cols));
            let scales =
                self.gpu.tensor(Class::Weights, "synthetic", rows * self.format.scales_per_row(cols));
            self.seed += 1;
            if self.format == RowFormat::F16 {
                fill(&mut self.rec, &words, Fill::Halves(self.seed, amplitude))?;
            } else {
                let half = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
                let step = 2.0 * amplitude / ((1 << self.format.bits()) - 1) as f32;
                fill(&mut self.rec, &words, Fill::Bits(self.seed))?;
                fill(&mut self.rec, &scales, Fill::Constant(half(step) | half(-amplitude) << 16))?;
            }
            parts.push(Part::new(&mut self.rec, first_row, rows, self.format, words, scales)?);
        }
        Ok(Some(Matrix::new(cols, parts)))
    }

    async fn vector(&mut self, name: &str) -> Result<Tensor<f32>> {
        Ok(self.gpu.tensor_with(Class::Weights, name, &vec![1.0; self.width]))
    }
}
