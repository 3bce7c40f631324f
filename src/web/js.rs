//! Between the library's values and JavaScript's: option objects, reports, errors.

use js_sys::{JSON, Object, Reflect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::JsValue;

use crate::{Advice, Error, Result};

/// An option object, by way of JSON; `undefined` and `null` are one without any entry.
pub(super) fn read<T: DeserializeOwned + Default>(object: &JsValue) -> Result<T> {
    if object.is_undefined() || object.is_null() {
        return Ok(T::default());
    }
    let text = JSON::stringify(object).ok().and_then(|text| text.as_string());
    let text = text.ok_or_else(|| Error::Invalid("an option object that is no plain object".to_owned()))?;
    serde_json::from_str(&text).map_err(|e| Error::Invalid(format!("an option is not understood: {e}")))
}

/// A report as a plain object, by way of JSON.
pub(super) fn value(report: &impl Serialize) -> JsValue {
    let text = serde_json::to_string(report).unwrap_or_default();
    JSON::parse(&text).unwrap_or(JsValue::NULL)
}

/// Advice in the words of the option objects.
fn option(advice: Advice) -> Option<String> {
    match advice {
        Advice::KvBits(bits) => Some(format!("kBits and vBits of {bits}")),
        Advice::Weights(_) => Some("a file of fewer bits".to_owned()),
        other => Some(other.to_string()),
    }
}

/// A JavaScript `Error` with the sentence, a `code` to tell kinds apart, advice as `{kind, value}`, and the numbers of
/// what does not fit. The sentence has the advice in the words of the options.
pub(super) fn error(error: Error) -> JsValue {
    let thrown: Object = js_sys::Error::new(&error.worded(option)).into();
    // Only a frozen object refuses a property, and this one is new.
    let set = |name: &str, value: JsValue| Reflect::set(&thrown, &name.into(), &value).is_ok();
    set("code", error.code().into());
    set("advice", value(&error.advice()));
    if let Error::DoesNotFit { need, limit, .. } = error {
        set("need", (need as f64).into());
        set("limit", (limit as f64).into());
    }
    thrown.into()
}
