//! The browser: the library's models and sessions as JavaScript classes, options and reports as plain objects.
//!
//! ```text
//! page ── web/benben.js ── messages ── web/worker.js ── Model, Session (here) ── the library
//! ```
//!
//! A file arrives whole, as bytes, and is copied once into WebAssembly's memory, where the 32-bit address space
//! limits it to less than 4 GiB. Reading it range by range, tensor by tensor, is not there yet.

mod js;
mod options;
mod report;
mod session;

use std::sync::Arc;

use js_sys::Function;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::gpu::Family;
use crate::kernels::check::Check;
use crate::weights::ModelFile;
use crate::{AdapterChoice, Gpu, LoadOptions, Result};
use js::{error, read, value};
use options::SessionChoice;
use session::WebSession;

/// Runs every kernel on the browser's GPU against its CPU twin: `[{label, values, error, tolerance, passed}]`.
///
/// # Errors
/// An `Error` with a `code`: no adapter, or a kernel that the device refuses.
#[wasm_bindgen]
pub async fn doctor() -> Result<JsValue, JsValue> {
    let checks = async { crate::kernels::check::all(&Gpu::open(&AdapterChoice::Best).await?).await };
    let line = |c: &Check| {
        json!({
            "label": c.label, "values": c.values, "error": c.error, "tolerance": c.tolerance, "passed": c.passed(),
        })
    };
    checks.await.map(|checks| value(&checks.iter().map(line).collect::<Vec<_>>())).map_err(error)
}

/// A model on the browser's GPU.
#[wasm_bindgen(js_name = Model)]
#[derive(Debug)]
pub struct WebModel(Arc<crate::Model>);

#[wasm_bindgen(js_class = Model)]
impl WebModel {
    /// Opens the GPU and loads the bytes of a GGUF file. `progress(done, total)` is called with bytes uploaded;
    /// `session` is what the first session will be opened with, so that a model without room for it is refused.
    ///
    /// # Errors
    /// An `Error` with a `code`: what is wrong with the file, the adapter, or the room on it.
    pub async fn load(bytes: Vec<u8>, session: JsValue, progress: Function) -> Result<WebModel, JsValue> {
        let model = async {
            let options: SessionChoice = read(&session)?;
            let options = options.options()?;
            let file = ModelFile::from_bytes(bytes)?;
            let gpu = Gpu::open(&AdapterChoice::Best).await?;
            let load = LoadOptions { kv: options.kv, context: options.context, ..LoadOptions::default() };
            crate::Model::from_file(&gpu, &file, &load, |p| {
                // A listener that throws has no say in whether the model loads.
                let _ = progress.call2(&JsValue::NULL, &(p.done as f64).into(), &(p.total as f64).into());
            })
            .await
        };
        model.await.map(Self).map_err(error)
    }

    /// `{name, layers, context, weightBytes, software, kernels, subgroups}`; `context` is what the model was trained
    /// for, `kernels` the family that suits the adapter, `"lanes"` or `"groups"`.
    pub fn info(&self) -> JsValue {
        let (config, gpu) = (self.0.config(), self.0.gpu());
        let tuning = gpu.tuning();
        value(&json!({
            "name": config.name,
            "layers": config.layers,
            "context": config.context,
            "weightBytes": gpu.bytes().weights,
            "software": gpu.is_software(),
            "kernels": if tuning.family == Family::Lanes { "lanes" } else { "groups" },
            "subgroups": tuning.subgroups,
        }))
    }

    /// Opens a conversation: `{kv: {policy, preset | keep | rows, perHead, kBits, vBits}, context}`, all optional.
    ///
    /// # Errors
    /// An `Error` with a `code` for options that make no sense or do not fit.
    pub fn session(&self, options: JsValue) -> Result<WebSession, JsValue> {
        let open = || {
            let options: SessionChoice = read(&options)?;
            crate::Session::new(&self.0, &options.options()?)
        };
        open().map(WebSession::new).map_err(error)
    }
}
