//! The shape of a model, from GGUF metadata or from `config.json`.

use super::rope::RopeConfig;
use super::{from_gguf, from_json, leftovers};
use crate::kernels::kv_row::Heads;
use crate::kv::Profile;
use crate::weights::{FileKind, ModelFile, PROFILE};
use crate::{Error, Result};

/// Everything the decoder needs to know about a model of the Llama family besides its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The model's own name, or its file's.
    pub name: String,
    /// The family as the file names it.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Width of a hidden row.
    pub width: usize,
    /// Attention heads and their dimension.
    pub heads: Heads,
    /// Consecutive layers that share the keys and values of their first one (cross-layer attention,
    /// arXiv:2405.12981); 1 where each layer has its own.
    pub kv_sharing: usize,
    /// Width of the feed-forward layer's inner row.
    pub ffn: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Tokens that the model was trained to see at once.
    pub context: usize,
    /// RMSNorm's epsilon.
    pub epsilon: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// What tells this model from others of its kind, however its matrices are quantised: 16 hexadecimal digits.
    pub fingerprint: String,
    /// How the layers share a KV budget, where that was measured.
    pub profile: Option<Profile>,
}

/// Sizes beyond these are a damaged file, not a model.
const MOST_LAYERS: usize = 1024;
const MOST_WIDTH: usize = 1 << 20;
/// No published model has wider heads, and attention kernels, unrolled over a head, take minutes to compile then.
const MOST_DIM: usize = 256;
/// Tokens that positions can count; beyond it byte counts of a plan could overflow.
pub(crate) const MOST_CONTEXT: usize = 1 << 30;

impl Config {
    /// Reads the shape of the model in `file`.
    ///
    /// # Errors
    /// [`Error::Format`] when a key is missing, contradicts another one, or asks for what benben does not do, and for a
    /// tensor that no part of the model reads;
    /// [`Error::File`] when the file's source fails.
    pub async fn read(file: &ModelFile) -> Result<Self> {
        Self::header(file).await?.with_profile(file).await
    }

    /// What can be said before the file's last tensor is there: without fingerprint and layer profile.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub async fn header(file: &ModelFile) -> Result<Self> {
        leftovers::check_adapter(file)?;
        let config = match (file.kind(), file.config()) {
            (FileKind::Gguf, _) => from_gguf::config(file).await?,
            (FileKind::Safetensors, Some(json)) => from_json::config(file, json)?,
            (FileKind::Safetensors, None) => {
                return Err(Error::format(file.label(), "it has no config.json beside it".to_owned()));
            }
        };
        config.check().map_err(|reason| Error::format(file.label(), reason))?;
        leftovers::check(file, &config)?;
        Ok(config)
    }

    /// The same with its fingerprint, and with the profile beside `file` or the one that this crate has.
    async fn with_profile(self, file: &ModelFile) -> Result<Self> {
        let norm = match file.tensor("output_norm.weight").filter(|tensor| tensor.shape == [self.width]) {
            Some(tensor) => file.dequantize(tensor).await?,
            None => Vec::new(),
        };
        let fingerprint = self.fingerprint_of(&norm);
        let label = format!("the layer profile beside {}", file.label());
        let profile = Profile::find(&fingerprint, self.kv_layers(), &label, file.sidecar(PROFILE))?;
        Ok(Self { fingerprint, profile, ..self })
    }

    /// Checks that the numbers can be a model at all, before anything is sized by them.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let Heads { query, kv, dim } = self.heads;
        if self.layers == 0 || self.layers > MOST_LAYERS {
            return Err(format!("it says {} layers; 1 to {MOST_LAYERS} make sense", self.layers));
        }
        if self.kv_sharing == 0 || !self.layers.is_multiple_of(self.kv_sharing) {
            let (layers, sharing) = (self.layers, self.kv_sharing);
            return Err(format!("{layers} layers are not groups of {sharing} that share keys and values"));
        }
        if query == 0 || kv == 0 || !query.is_multiple_of(kv) || query > MOST_WIDTH {
            return Err(format!("{query} query heads cannot share {kv} KV heads evenly"));
        }
        if dim == 0 || dim > MOST_DIM || !dim.is_multiple_of(8) {
            return Err(format!("a head dimension of {dim} is not a multiple of 8 up to {MOST_DIM}"));
        }
        let widths =
            [("width", self.width), ("feed-forward width", self.ffn), ("attention width", query * dim)];
        if let Some((what, n)) =
            widths.into_iter().find(|(_, n)| *n == 0 || *n > MOST_WIDTH || !n.is_multiple_of(8))
        {
            return Err(format!("a {what} of {n} is not a multiple of 8 up to {MOST_WIDTH}"));
        }
        if self.vocab == 0 {
            return Err("it has no tensor 'token_embd.weight'".to_owned());
        }
        if self.rope.dims > dim || !self.rope.dims.is_multiple_of(2) || self.rope.dims == 0 {
            return Err(format!("{} rotated dimensions do not fit a head of {dim}", self.rope.dims));
        }
        let finite = self.rope.base.is_finite() && self.rope.frequencies().iter().all(|f| f.is_finite());
        if self.rope.base < 1.0 || !finite || !self.rope.magnitude.is_finite() {
            return Err(format!("a RoPE base of {} gives no finite frequencies", self.rope.base));
        }
        if !(0.0..1.0).contains(&self.epsilon) || !(1..=MOST_CONTEXT).contains(&self.context) {
            return Err(format!("epsilon {} or context {} makes no sense", self.epsilon, self.context));
        }
        Ok(())
    }

    /// Sets of keys and values: one for each group of layers that share them.
    pub fn kv_layers(&self) -> usize {
        self.layers / self.kv_sharing
    }

    /// True for a layer that makes keys and values, for itself and for those after it that share them.
    pub fn makes_kv(&self, layer: usize) -> bool {
        layer.is_multiple_of(self.kv_sharing)
    }

    /// Weights of all layers and the embedding, the head counted once when it is tied.
    pub fn parameters(&self, tied: bool) -> u64 {
        let Heads { query, kv, dim } = self.heads;
        let (w, attention) = (self.width as u64, (query * dim) as u64);
        let layer = w * 2 * attention + 3 * w * self.ffn as u64 + 2 * w;
        let kv = w * 2 * (kv * dim * self.kv_layers()) as u64;
        let vocab = self.vocab as u64 * w;
        layer * self.layers as u64 + kv + vocab * if tied { 1 } else { 2 } + w
    }
}
