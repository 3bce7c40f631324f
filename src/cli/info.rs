//! `benben info`: what is in a model file, and the memory that it would take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use benben::engine::read_text;
use benben::kv::policy::{Budget, Full, KvOnly, Policy, Preset, Pyramid, Tsp};
use benben::kv::{Format, Profile};
use benben::model::Config;
use benben::plan::Plan;
use benben::text::Text;
use benben::weights::{ModelFile, natural_format};
use benben::{KvBits, KvOptions, Result};
use serde::Serialize;

use super::Outcome;
use super::args::{Weights, count};
use super::report::{self, Table, bytes};

#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// A GGUF file, or a directory with safetensors
    model: PathBuf,
    /// Tokens to plan for [default: what the model was trained for]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    context: Option<usize>,
    /// The format of the weights on the device
    #[arg(long, value_enum, default_value = "auto")]
    weights: Weights,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    architecture: String,
    parameters: u64,
    layers: usize,
    width: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    vocab: usize,
    trained_context: usize,
    file_bytes: u64,
    formats: Vec<TensorFormat>,
    tokens: usize,
    stop_tokens: Vec<u32>,
    chat_template: bool,
    /// How layers share the budget of `auto` and `joint`; absent, equally.
    layer_profile: Option<Profile>,
    /// What the plans below are made for.
    context: usize,
    weight_bytes: u64,
    plans: Vec<PolicyPlan>,
}

/// All tensors of one type in the file, and what they become on the device.
#[derive(Debug, Default, Serialize)]
struct TensorFormat {
    file: String,
    gpu: String,
    tensors: usize,
    bytes: u64,
}

/// Bytes of a session under one policy.
#[derive(Debug, Serialize)]
struct PolicyPlan {
    policy: String,
    /// Absent where the head dimension is no multiple of 32.
    kv_bytes: BTreeMap<u32, u64>,
    activation_bytes: u64,
}

pub async fn run(args: &InfoArgs) -> Outcome {
    let file = ModelFile::open(&args.model)?;
    let config = Config::read(&file).await?;
    let text = read_text(&file)?;
    let report = Report::new(args, &file, &config, &text)?;
    text.notes().iter().for_each(|note| report::note(&format!("benben: {note}")));
    if args.json { report::json(&report) } else { Ok(report::say(&report.to_string())?) }
}

impl Report {
    fn new(args: &InfoArgs, file: &ModelFile, config: &Config, text: &Text) -> Result<Self> {
        let context = args.context.unwrap_or(config.context);
        let weights = args.weights.format();
        Ok(Self {
            model: config.name.clone(),
            architecture: config.architecture.clone(),
            parameters: config.parameters(file.tensor("output.weight").is_none()),
            layers: config.layers,
            width: config.width,
            query_heads: config.heads.query,
            kv_heads: config.heads.kv,
            head_dim: config.heads.dim,
            ffn: config.ffn,
            vocab: config.vocab,
            trained_context: config.context,
            file_bytes: file.total_bytes(),
            formats: formats(file, args.weights),
            tokens: text.vocab_size(),
            stop_tokens: text.stop_tokens().to_vec(),
            chat_template: text.has_template(),
            layer_profile: config.profile.clone(),
            context,
            weight_bytes: Plan::new(file, config, weights, &KvOptions::full(), context)?.weights,
            plans: plans(config, context)?,
        })
    }
}

fn formats(file: &ModelFile, weights: Weights) -> Vec<TensorFormat> {
    let mut formats = BTreeMap::<_, TensorFormat>::new();
    for tensor in file.tensors() {
        let cols = tensor.cols();
        let matrix =
            weights.format().map_or(natural_format(tensor.dtype, cols), |format| format.for_cols(cols));
        let gpu =
            if tensor.shape.len() < 2 { "f32".to_owned() } else { format!("{matrix:?}").to_lowercase() };
        let format = formats.entry((tensor.dtype.name(), gpu.clone())).or_default();
        (format.file, format.gpu) = (tensor.dtype.to_string(), gpu);
        format.tensors += 1;
        format.bytes += tensor.byte_len() as u64;
    }
    formats.into_values().collect()
}

fn plans(config: &Config, context: usize) -> Result<Vec<PolicyPlan>> {
    let share = Budget::Share(0.6);
    let policies: [(&str, Arc<dyn Policy>); 5] = [
        ("full", Arc::new(Full)),
        ("pyramid, preset 7b", Arc::new(Pyramid::preset(Preset::B7))),
        ("pyramid, keep 0.6", Arc::new(Pyramid::with_budget(share.clone()))),
        ("tsp, keep 0.6", Arc::new(Tsp::new(share.clone()))),
        ("kv-only, keep 0.6", Arc::new(KvOnly::shared(share))),
    ];
    let widths =
        KvBits::ALL.into_iter().filter(|bits| bits.bits() == 16 || config.heads.dim.is_multiple_of(32));
    let plan = |(name, policy): (&str, Arc<dyn Policy>)| {
        let (mut kv_bytes, mut activation_bytes) = (BTreeMap::new(), 0);
        for bits in widths.clone() {
            let format = Format::both(bits);
            let kv = KvOptions { policy: policy.clone(), format, ..KvOptions::full() };
            let plan = Plan::session(config, &kv, context)?;
            kv_bytes.insert(bits.bits(), plan.kv);
            activation_bytes = plan.scratch;
        }
        Ok(PolicyPlan { policy: name.to_owned(), kv_bytes, activation_bytes })
    };
    policies.into_iter().map(plan).collect()
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millions = self.parameters as f64 / 1e6;
        writeln!(f, "{} ({}), {millions:.1} M parameters", self.model, self.architecture)?;
        writeln!(
            f,
            "  {} layers, width {}, feed-forward {}, {} query heads and {} KV heads of {}",
            self.layers, self.width, self.ffn, self.query_heads, self.kv_heads, self.head_dim
        )?;
        let template = if self.chat_template { "a chat template" } else { "no chat template" };
        writeln!(
            f,
            "  {} tokens in the vocabulary, stops at {:?}, {template}, trained for {} tokens",
            self.tokens, self.stop_tokens, self.trained_context
        )?;
        match &self.layer_profile {
            Some(profile) => writeln!(f, "  a layer profile, measured on {}\n", profile.measured())?,
            None => writeln!(f, "  no layer profile; `benben calibrate` measures one\n")?,
        }
        let mut table = Table::new(["in the file", "on the device", "tensors", "bytes"]);
        for format in &self.formats {
            table.row([
                format.file.clone(),
                format.gpu.clone(),
                format.tensors.to_string(),
                bytes(format.bytes),
            ]);
        }
        writeln!(f, "tensors, {}\n{table}", bytes(self.file_bytes))?;
        let mut table = Table::new(["KV cache", "16 bits", "8 bits", "4 bits", "activations"]);
        for plan in &self.plans {
            let kv = |bits: u32| plan.kv_bytes.get(&bits).map_or("-".to_owned(), |&n| bytes(n));
            table.row([plan.policy.clone(), kv(16), kv(8), kv(4), bytes(plan.activation_bytes)]);
        }
        let weights = bytes(self.weight_bytes);
        write!(f, "memory for {} tokens, beside {weights} of weights\n{table}", self.context)
    }
}
