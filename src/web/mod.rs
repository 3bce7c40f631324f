//! The browser: the library's models and sessions as JavaScript classes, options and reports as plain objects.
//!
//! ```text
//! page ── web/benben.js ── messages ── web/worker.js ── ModelFile, Model, Session (here) ── the library
//! ```

mod file;
mod js;
mod options;
mod report;
mod session;

use std::sync::Arc;

use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::gpu::Family;
use crate::kernels::check::Check;
use crate::{AdapterChoice, Gpu, Result};
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

/// A model on the browser's GPU; [`WebFile::load`](file::WebFile::load) makes one.
#[wasm_bindgen(js_name = Model)]
#[derive(Debug)]
pub struct WebModel(Arc<crate::Model>);

#[wasm_bindgen(js_class = Model)]
impl WebModel {
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

    /// Gives the device back, and all memory on it: whoever still uses it finds it lost.
    pub fn destroy(&self) {
        self.0.gpu().destroy();
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
