//! Opening a model: its file, its text, the plan, the upload.

use std::sync::Arc;

use crate::gpu::Gpu;
use crate::kernels::matrix::RowFormat;
use crate::kv::KvOptions;
use crate::model::{Config, Loader, Model, Progress};
use crate::plan::{Limits, Plan};
use crate::text::{Text, Vocabulary};
use crate::weights::{FileKind, ModelFile};
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
}

/// The context that is planned for when the caller names none.
const SMALL_CONTEXT: usize = 1024;

impl LoadOptions {
    /// What loading a file of this shape and opening the first session will take.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if that is more than there is; [`Error::Invalid`] for a context that cannot be.
    pub fn plan(&self, gpu: &Gpu, file: &ModelFile, config: &Config) -> Result<Plan> {
        let context = self.context.unwrap_or(SMALL_CONTEXT.min(config.context));
        let plan = Plan::new(file, config, self.weights, &self.kv, context)?;
        plan.check(&Limits::of(gpu, self.memory))?;
        Ok(plan)
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
        let model = Loader::new(gpu, file, &config, options.weights, progress).load(text).await?;
        crate::gpu::Recorder::new(gpu).submit_timed().done().await?;
        gpu.check()?;
        Ok(Arc::new(model))
    }
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
        let side = |name: &str| file.sidecar(name);
        let (config, generation) = (side("tokenizer_config.json"), side("generation_config.json"));
        return Text::from_files(tokenizer, config, generation, side("chat_template.jinja"));
    }
    let meta = file.meta();
    let id = |name: &str| {
        let id = meta.opt_u64(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok::<_, Error>(id.and_then(|id| u32::try_from(id).ok()))
    };
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    Text::from_vocabulary(Vocabulary {
        model: meta.str("tokenizer.ggml.model")?.to_owned(),
        pre: meta.opt_str("tokenizer.ggml.pre")?.map(str::to_owned),
        tokens: owned(meta.strings("tokenizer.ggml.tokens")?),
        types: meta.opt_i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
        scores: meta.opt_f32s("tokenizer.ggml.scores")?.unwrap_or_default(),
        merges: owned(meta.opt_strings("tokenizer.ggml.merges")?.unwrap_or_default()),
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        unk: id("unknown")?,
        pad: id("padding")?,
        add_bos: meta.opt_bool("tokenizer.ggml.add_bos_token")?,
        add_space_prefix: meta.opt_bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: meta.opt_str("tokenizer.chat_template")?.map(str::to_owned),
    })
}
