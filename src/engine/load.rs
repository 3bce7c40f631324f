//! Opening a model: its file, its text, the plan, the upload.

use std::sync::Arc;

use super::session::{Session, SessionOptions};
use crate::gpu::Gpu;
use crate::kernels::matrix::RowFormat;
use crate::kernels::sample::Sampling;
use crate::kernels::units;
use crate::kv::KvOptions;
use crate::model::{Config, Loader, Model, Progress};
use crate::plan::{Limits, Plan};
use crate::text::{Text, TextFiles, Vocabulary};
use crate::weights::{FileKind, ModelFile, Value};
use crate::{Error, Result};

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Quantise every matrix to this format; absent, each keeps the one nearest to the file's.
    pub weights: Option<RowFormat>,
    /// Bytes that model and session may take; absent, what the adapter and the machine allow.
    pub memory: Option<u64>,
    /// The cache that the first session will use, for the plan.
    pub kv: KvOptions,
    /// The context of the first session, for the plan; absent, a small one.
    pub context: Option<usize>,
    /// Tokens of the first prompt, about: what it and its answer run is compiled while the weights go to the device.
    /// Absent, everything is compiled when it first runs.
    pub prompt: Option<usize>,
}

/// The context that is planned for when the caller names none.
const SMALL_CONTEXT: usize = 1024;

impl LoadOptions {
    /// What loading a file of this shape and opening the first session will take.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if that is more than there is; [`Error::Invalid`] for a context that cannot be.
    pub fn plan(&self, gpu: &Gpu, file: &ModelFile, config: &Config) -> Result<Plan> {
        let context = self.context(config);
        let plan = Plan::new(file, config, self.weights, &self.kv, context)?;
        plan.check(&Limits::of(gpu, self.memory))?;
        Ok(plan)
    }

    fn context(&self, config: &Config) -> usize {
        self.context.unwrap_or(SMALL_CONTEXT.min(config.context))
    }
}

impl Model {
    /// Loads the model at `path`: a GGUF file, or safetensors with their `config.json` and `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with the file; [`Error::DoesNotFit`] before anything is uploaded; [`Error::DeviceLost`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn load(
        gpu: &Gpu,
        path: impl AsRef<std::path::Path>,
        options: &LoadOptions,
        progress: impl FnMut(Progress),
    ) -> Result<Arc<Self>> {
        Self::from_file(gpu, &ModelFile::open(path.as_ref())?, options, progress).await
    }

    /// Loads a model from a file that is already open.
    ///
    /// # Errors
    /// What is wrong with the file; [`Error::DoesNotFit`] before anything is uploaded; [`Error::DeviceLost`].
    pub async fn from_file(
        gpu: &Gpu,
        file: &ModelFile,
        options: &LoadOptions,
        progress: impl FnMut(Progress),
    ) -> Result<Arc<Self>> {
        let config = Config::read(file).await?;
        options.plan(gpu, file, &config)?;
        let text = read_text(file)?;
        let gpu = &units::prove(gpu).await;
        if let Some(prompt) = options.prompt {
            let stand_in = Self::stand_in(gpu, file, &config, options.weights).await?;
            compile_for(&stand_in, options, prompt)?;
        }
        let model = Loader::new(gpu, file, &config, options.weights, progress).load(text).await?;
        crate::gpu::Recorder::new(gpu).submit_timed().done().await?;
        gpu.check()?;
        Ok(Arc::new(model))
    }
}

/// Prompt tokens beyond which no policy runs other kernels.
const LONG_PROMPT: usize = 128;

/// Tokens of the recorded answer: the prompt's own and one step's.
const STEPS: usize = 2;

/// Has everything compiled that a first prompt of `prompt` tokens and the steps after it run: they are recorded on a
/// stand-in of the model, so that no list of kernels can be out of date, and then dropped.
fn compile_for(stand_in: &Arc<Model>, options: &LoadOptions, prompt: usize) -> Result<()> {
    let context = options.context(stand_in.config());
    let prompt = prompt.min(LONG_PROMPT).min(context.saturating_sub(STEPS)).max(1);
    let options = SessionOptions { kv: options.kv.clone(), context: Some(context) };
    let mut session = Session::new(stand_in, &options)?;
    session.append(&vec![0; prompt])?;
    let mut course = session.seq.begin(&mut session.desk, STEPS)?;
    for _ in 0..STEPS {
        while session.advance(&mut course, &Sampling::default())?.is_none() {}
    }
    Ok(())
}

/// The tokenizer and chat template of a model file, without loading it.
///
/// # Errors
/// [`Error::Format`] when a part is missing or damaged, [`Error::Text`] when it is one that benben does not know.
pub fn read_text(file: &ModelFile) -> Result<Text> {
    if file.kind() == FileKind::Safetensors {
        let tokenizer = file
            .sidecar("tokenizer.json")
            .ok_or_else(|| Error::format(file.label(), "there is no tokenizer.json beside it".to_owned()))?;
        let config = file.config().map(|config| config.to_string().into_bytes());
        return Text::from_files(&TextFiles {
            tokenizer,
            tokenizer_config: file.sidecar("tokenizer_config.json"),
            special_tokens_map: file.sidecar("special_tokens_map.json"),
            config: config.as_deref(),
            generation_config: file.sidecar("generation_config.json"),
            chat_template: file.sidecar("chat_template.jinja"),
        });
    }
    let meta = file.meta();
    let key = |name: &str| format!("{TOKENIZER}{name}");
    // -1, also as an unsigned number, says that there is none.
    let id = |name: &str| match meta.get(&key(&format!("{name}_token_id"))).and_then(Value::number) {
        Some(id) if id < 0.0 || id >= f64::from(u32::MAX) => Ok(None),
        Some(id) => Ok(Some(id as u32)),
        None => Ok::<_, Error>(meta.opt_u64(&key(&format!("{name}_token_id")))?.map(|id| id as u32)),
    };
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    let ends = ENDS.iter().map(|name| id(name)).collect::<Result<Vec<_>>>()?;
    let mut text = Text::from_vocabulary(Vocabulary {
        model: meta.str(&key("model"))?.to_owned(),
        pre: meta.opt_str(&key("pre"))?.map(str::to_owned),
        tokens: owned(meta.strings(&key("tokens"))?),
        types: meta.opt_i32s(&key("token_type"))?.unwrap_or_default(),
        scores: meta.opt_f32s(&key("scores"))?.unwrap_or_default(),
        merges: owned(meta.opt_strings(&key("merges"))?.unwrap_or_default()),
        bos: id("bos")?,
        eos: id("eos")?,
        ends: ends.into_iter().flatten().collect(),
        unk: id("unknown")?,
        pad: id("padding")?,
        add_bos: meta.opt_bool(&key("add_bos_token"))?,
        add_space_prefix: meta.opt_bool(&key("add_space_prefix"))?,
        chat_template: meta.opt_str("tokenizer.chat_template")?.map(str::to_owned),
    })?;
    for (name, value) in meta.iter().filter_map(|(name, value)| Some((name.strip_prefix(TOKENIZER)?, value)))
    {
        if let Some(note) = note(name, value) {
            text.note(note);
        }
    }
    Ok(text)
}

/// How the keys of a GGUF file's tokenizer begin.
const TOKENIZER: &str = "tokenizer.ggml.";

/// Ids of tokens that end an answer, besides the end of the sequence.
const ENDS: [&str; 5] = ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"];

/// The keys of the tokenizer that are read, and those that change nothing for its two kinds.
const KNOWN: &str = "model pre tokens token_type scores merges bos_token_id eos_token_id eot_token_id eom_token_id \
                     fim_pad_token_id fim_rep_token_id fim_sep_token_id unknown_token_id padding_token_id \
                     add_bos_token add_space_prefix \
                     token_type_count seperator_token_id separator_token_id cls_token_id mask_token_id \
                     fim_pre_token_id fim_suf_token_id fim_mid_token_id prefix_token_id suffix_token_id \
                     middle_token_id remove_extra_whitespaces precompiled_charsmap normalizer.lowercase \
                     normalizer.strip_accents";

/// What there is to say of a key that is not known, or asks for what a prompt does not want.
fn note(name: &str, value: &Value) -> Option<String> {
    let known = KNOWN.split_whitespace().any(|known| known == name);
    match name {
        _ if known => None,
        "add_eos_token" | "add_sep_token" if value == &Value::Bool(false) => None,
        "add_eos_token" | "add_sep_token" => Some(format!(
            "'{TOKENIZER}{name}' would end each text with a token of its own; prompts are there to be continued, so it \
             is left out"
        )),
        _ => Some(format!(
            "'{TOKENIZER}{name}' is {}, of which nothing is known; it is left out",
            value.show()
        )),
    }
}
