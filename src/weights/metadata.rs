//! GGUF's metadata: keys and typed values, and getters that say what they found instead.
//!
//! Every getter comes twice: `u64(key)` for a key that must be there, `opt_u64(key)` for one that may be
//! absent. A key of the wrong type is an error in both. Integers of any width answer to `u64` if they
//! are not negative.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// One metadata value, as wide as the file stores it.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are GGUF's value types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
}

impl Value {
    /// What this is, for messages.
    fn describe(&self) -> String {
        let name = match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(items) => {
                let of = items.first().map_or("nothing".into(), Self::describe);
                return format!("array of {} x {of}", items.len());
            }
        };
        name.to_owned()
    }

    /// The value as people read it, long ones cut short.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::F32(v) => v.to_string(),
            Self::F64(v) => v.to_string(),
            Self::Bool(v) => v.to_string(),
            Self::String(v) => format!("'{}'", v.chars().take(40).collect::<String>()),
            Self::Array(_) => self.describe(),
            number => number.integer().map_or_else(String::new, |n| n.to_string()),
        }
    }

    fn integer(&self) -> Option<i128> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::U64(v) => Some(v.into()),
            Self::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// The value as a number, a boolean as 0 or 1.
    pub(crate) fn number(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            Self::Bool(v) => Some(u8::from(v).into()),
            _ => self.integer().map(|n| n as f64),
        }
    }

    fn u64(&self) -> Option<u64> {
        u64::try_from(self.integer()?).ok()
    }

    fn i32(&self) -> Option<i32> {
        i32::try_from(self.integer()?).ok()
    }

    fn f32(&self) -> Option<f32> {
        match *self {
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => self.integer().map(|n| n as f32),
        }
    }

    fn bool(&self) -> Option<bool> {
        if let Self::Bool(v) = *self { Some(v) } else { None }
    }

    fn str(&self) -> Option<&str> {
        if let Self::String(v) = self { Some(v) } else { None }
    }

    fn items<'a, T>(&'a self, item: impl Fn(&'a Self) -> Option<T>) -> Option<Vec<T>> {
        if let Self::Array(items) = self { items.iter().map(item).collect() } else { None }
    }
}

/// The key/value part of a GGUF file, ordered by key; empty for other kinds of file.
#[derive(Debug, Clone)]
pub struct Metadata {
    file: String,
    values: BTreeMap<String, Value>,
}

/// Defines each getter in its two flavours.
macro_rules! getters {
    ($($what:literal, $name:ident, $opt:ident -> $type:ty, $read:expr;)*) => {$(
        #[doc = concat!("Reads `key` as ", $what, ".\n\n# Errors\n[`Error::Format`] if it is absent or something else.")]
        pub fn $name(&self, key: &str) -> Result<$type> {
            self.$opt(key)?.ok_or_else(|| {
                Error::format(&self.file, format!("its metadata has no key '{key}' ({})", $what))
            })
        }

        #[doc = concat!("Reads `key`, if it is there, as ", $what, ".\n\n# Errors\n[`Error::Format`] if it is something else.")]
        pub fn $opt(&self, key: &str) -> Result<Option<$type>> {
            let Some(value) = self.values.get(key) else { return Ok(None) };
            let read: fn(&Value) -> Option<$type> = $read;
            read(value).map(Some).ok_or_else(|| {
                let found = value.describe();
                Error::format(&self.file, format!("metadata key '{key}' should be {}, but is: {found}", $what))
            })
        }
    )*};
}

impl Metadata {
    /// Metadata without keys; `file` is for messages.
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), values: BTreeMap::new() }
    }

    /// Adds a key, which must be new.
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<()> {
        if self.values.contains_key(&key) {
            return Err(Error::format(&self.file, format!("metadata key '{key}' appears twice")));
        }
        self.values.insert(key, value);
        Ok(())
    }

    /// The value under `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys and values, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Reads `key`, if it is there, as a number of all of `layers` layers: one for all, or an array with one of each.
    ///
    /// # Errors
    /// [`Error::Format`] if it is something else, or the layers differ.
    pub fn opt_per_layer(&self, key: &str, layers: usize) -> Result<Option<u64>> {
        let Some(Value::Array(items)) = self.values.get(key) else { return self.opt_u64(key) };
        let Some(numbers) = items.iter().map(Value::u64).collect::<Option<Vec<_>>>() else {
            return self.opt_u64(key);
        };
        let differs = |reason: String| {
            Err(Error::format(
                &self.file,
                format!("metadata key '{key}' {reason}; benben's layers are all alike"),
            ))
        };
        match numbers.split_first() {
            Some((first, _)) if numbers.len() != layers => {
                differs(format!("has {} numbers ({first}, ...) for {layers} layers", numbers.len()))
            }
            Some((first, rest)) => match rest.iter().find(|n| *n != first) {
                Some(other) => differs(format!("is {first} in one layer and {other} in another")),
                None => Ok(Some(*first)),
            },
            None => differs("has no number".to_owned()),
        }
    }

    getters! {
        "a non-negative integer", u64, opt_u64 -> u64, Value::u64;
        "a float", f32, opt_f32 -> f32, Value::f32;
        "a boolean", bool, opt_bool -> bool, Value::bool;
        "a string", str, opt_str -> &str, Value::str;
        "an array of strings", strings, opt_strings -> Vec<&str>, |value| value.items(Value::str);
        "an array of integers", i32s, opt_i32s -> Vec<i32>, |value| value.items(Value::i32);
        "an array of floats", f32s, opt_f32s -> Vec<f32>, |value| value.items(Value::f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut meta = Metadata::new("test.gguf");
        let values = [
            ("blocks", Value::U16(30)),
            ("negative", Value::I32(-1)),
            ("eps", Value::F64(0.5)),
            ("name", Value::String("tiny".into())),
            ("tokens", Value::Array(vec![Value::String("a".into()), Value::String("b".into())])),
            ("types", Value::Array(vec![Value::I32(1), Value::I32(3)])),
        ];
        values.into_iter().for_each(|(key, value)| meta.insert(key.into(), value).unwrap());
        meta
    }

    #[test]
    fn getters_convert_what_loses_nothing() {
        let meta = sample();
        assert_eq!(meta.u64("blocks").unwrap(), 30);
        assert_eq!(meta.f32("eps").unwrap(), 0.5);
        assert_eq!(meta.str("name").unwrap(), "tiny");
        assert_eq!(meta.strings("tokens").unwrap(), ["a", "b"]);
        assert_eq!(meta.i32s("types").unwrap(), [1, 3]);
        assert_eq!(meta.opt_bool("absent").unwrap(), None);
    }

    #[test]
    fn errors_name_the_key_and_the_type_found() {
        let meta = sample();
        let message = meta.u64("name").unwrap_err().to_string();
        assert!(message.contains("'name' should be a non-negative integer, but is: string"), "{message}");
        let message = meta.opt_f32s("tokens").unwrap_err().to_string();
        assert!(message.contains("array of 2 x string"), "{message}");
        assert!(meta.u64("negative").is_err());
        assert!(meta.str("absent").unwrap_err().to_string().contains("no key 'absent'"));
    }

    #[test]
    fn keys_are_unique() {
        assert!(sample().insert("name".into(), Value::Bool(true)).is_err());
    }
}
