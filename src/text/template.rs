//! Chat templates: the Jinja program in a model file that turns a conversation into one text.
//!
//! Rendered as transformers renders them: blocks trimmed, Python's string methods, `raise_exception`,
//! `strftime_now` (UTC, and not in the browser, where templates fall back on a date of their own), and
//! `tojson` that leaves `<` alone. A template comes with the model and is not trusted: it has a budget of
//! instructions, so an endless one ends in an error; the memory that it takes is not bounded.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error as JinjaError, ErrorKind, context};

use super::Message;
use crate::{Error, Result};

/// Instructions per rendering. A real template takes a few dozen per message.
const FUEL: u64 = 5_000_000;

const NAME: &str = "chat template";

/// A compiled chat template.
pub(super) struct Template {
    environment: Environment<'static>,
}

impl Template {
    /// Compiles `source`; `special_tokens` are variables such as `bos_token`, empty when there is none.
    pub(super) fn new(source: &str, special_tokens: &[(&'static str, String)]) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fault)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.add_test("iterable", is_iterable);
        environment.add_test("sequence", is_sequence);
        #[cfg(not(target_arch = "wasm32"))]
        environment.add_function("strftime_now", |format: &str| {
            super::clock::now(format).map_err(|reason| JinjaError::new(ErrorKind::InvalidOperation, reason))
        });
        for (name, token) in special_tokens {
            environment.add_global(*name, Value::from(token.as_str()));
        }
        environment.add_template_owned(NAME, without_generation_blocks(source)).map_err(fault)?;
        Ok(Self { environment })
    }

    /// The conversation as text.
    pub(super) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let none = Value::from(());
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            tools => &none,
            documents => &none,
        };
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(fault)
    }
}

fn fault(error: JinjaError) -> Error {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Text(format!("the chat template failed{line}: {reason}"))
}

/// `{% generation %}` marks the model's words for training and renders as nothing; only transformers
/// knows the tag, so it becomes a condition that always holds.
fn without_generation_blocks(source: &str) -> String {
    let mut source = source.to_owned();
    for open in ["{%", "{%-", "{%+"] {
        source = source.replace(&format!("{open} generation "), &format!("{open} if true "));
        source = source.replace(&format!("{open} endgeneration "), &format!("{open} endif "));
    }
    source
}

/// As in Jinja2, where nothing can be iterated over but `none` cannot.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// As in Jinja2: whatever has a length and parts, strings and mappings included, and what is undefined.
fn is_sequence(value: &Value) -> bool {
    !value.is_none() && (value.is_undefined() || value.len().is_some())
}

fn raise_exception(message: String) -> Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// Options such as `indent` concern tools, which are never passed.
fn to_json(value: Value, _options: Kwargs) -> Result<String, JinjaError> {
    serde_json::to_string(&value)
        .map_err(|error| JinjaError::new(ErrorKind::InvalidOperation, error.to_string()))
}
