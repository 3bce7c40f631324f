//! Model files in the browser: read by ranges through a JavaScript callback, planned, and moved to the GPU.
//!
//! What is in WebAssembly's memory at a time is bounded, whatever the size of the file: the header with the
//! vocabulary, and 4 MiB of a tensor (or one row, if that is longer) as the file stores them and repacked.

use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use serde_json::json;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::WebModel;
use super::js::{error, read, value};
use super::options::LoadChoice;
use crate::model::Config;
use crate::weights::{ByteSource, ModelFile, Reading};
use crate::{AdapterChoice, Error, Gpu, Result};

/// A model whose headers were read, and the GPU that it is meant for.
#[wasm_bindgen(js_name = ModelFile)]
pub struct WebFile {
    gpu: Gpu,
    file: ModelFile,
    config: Config,
}

#[wasm_bindgen(js_class = ModelFile)]
impl WebFile {
    /// Opens the GPU and the files of one model, `[{name, size, seeks, read}, ...]`, where `read(offset, length)`
    /// resolves to that range as a `Uint8Array`, and `seeks` says whether that is as quick at the end as at the start.
    /// Reads headers and files beside safetensors, and where files seek the one small tensor that tells models apart;
    /// without it `plan` knows no layer profile.
    ///
    /// # Errors
    /// An `Error` with a `code`: no adapter, a damaged file, one that is not supported, a failed `read`.
    pub async fn open(files: Array) -> Result<WebFile, JsValue> {
        let open = async {
            let gpu = Gpu::open(&AdapterChoice::Best).await?;
            let files = files.iter().map(|file| JsFile::new(&file)).collect::<Result<Vec<_>>>()?;
            let seek = files.iter().all(|file| file.seeks);
            let files = files.into_iter().map(|file| (file.name.clone(), file.boxed()));
            let file = ModelFile::fetch(files.collect()).await?;
            let config = if seek { Config::read(&file).await? } else { Config::header(&file).await? };
            Ok(WebFile { gpu, file, config })
        };
        open.await.map_err(error)
    }

    /// Bytes that the model takes with a first session of these options (`{kv, context, memory}`, all optional):
    /// `{name, layers, context, weights, kv, kvFullF16, scratch, total}`.
    ///
    /// # Errors
    /// An `Error` with a `code`: it does not fit, or there is no such session.
    pub fn plan(&self, options: JsValue) -> Result<JsValue, JsValue> {
        let plan = || {
            let options: LoadChoice = read(&options)?;
            options.options()?.plan(&self.gpu, &self.file, &self.config)
        };
        let plan = plan().map_err(error)?;
        Ok(value(&json!({
            "name": self.config.name,
            "layers": self.config.layers,
            "context": self.config.context,
            "weights": plan.weights,
            "kv": plan.kv,
            "kvFullF16": plan.kv_full_f16,
            "scratch": plan.scratch,
            "total": plan.total(),
        })))
    }

    /// Moves the model to the GPU, tensor by tensor; options as for `plan`. `progress(done, total)` is called with
    /// bytes moved.
    ///
    /// # Errors
    /// An `Error` with a `code`: it does not fit, a damaged tensor, a failed `read`, a lost device.
    pub async fn load(self, options: JsValue, progress: Function) -> Result<WebModel, JsValue> {
        let load = async {
            let options: LoadChoice = read(&options)?;
            crate::Model::from_file(&self.gpu, &self.file, &options.options()?, |p| {
                // A listener that throws has no say in whether the model loads.
                let _ = progress.call2(&JsValue::NULL, &(p.done as f64).into(), &(p.total as f64).into());
            })
            .await
        };
        load.await.map(WebModel).map_err(error)
    }
}

/// A file behind a JavaScript object.
struct JsFile {
    name: String,
    size: u64,
    seeks: bool,
    object: JsValue,
    read: Function,
}

impl JsFile {
    fn new(object: &JsValue) -> Result<Self> {
        let entry = |name: &str| Reflect::get(object, &name.into()).unwrap_or_default();
        let name = entry("name").as_string();
        // Browsers count bytes in f64, exactly up to 2^53.
        let size = entry("size").as_f64().filter(|size| *size >= 0.0);
        let seeks = entry("seeks").is_truthy();
        let read = entry("read").dyn_into::<Function>().ok();
        match (name, size, read) {
            (Some(name), Some(size), Some(read)) => {
                Ok(Self { name, size: size as u64, seeks, object: object.clone(), read })
            }
            _ => Err(Error::Invalid("a file without a name, a size or a read function".to_owned())),
        }
    }

    fn boxed(self) -> Box<dyn ByteSource> {
        Box::new(self)
    }

    fn failure(&self, thrown: &JsValue) -> Error {
        let reason = Reflect::get(thrown, &"message".into()).ok().and_then(|message| message.as_string());
        let reason = reason.unwrap_or_else(|| format!("{thrown:?}"));
        Error::File { path: self.name.clone(), reason }
    }
}

impl ByteSource for JsFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, len: usize) -> Reading<'_> {
        Box::pin(async move {
            let promise = self.read.call2(&self.object, &(offset as f64).into(), &(len as f64).into());
            let promise = promise.map_err(|thrown| self.failure(&thrown))?;
            let bytes =
                JsFuture::from(Promise::resolve(&promise)).await.map_err(|thrown| self.failure(&thrown))?;
            let bytes = bytes.dyn_into::<Uint8Array>().map_err(|other| self.failure(&other))?;
            Ok(bytes.to_vec())
        })
    }
}
