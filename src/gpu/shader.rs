//! Shader assembly: a pure function from a stem and a set of defines to WGSL.
//!
//! Three directives, each alone on its line but the last:
//! `#import name` pastes `shaders/shared/name.wgsl` (once), `#ifdef NAME` / `#else` / `#endif` choose by the
//! presence of a define, and `#{NAME}` anywhere becomes the define's value.

use std::collections::BTreeMap;
use std::fmt;

use super::texture::Texel;
use crate::{Error, Result};

/// One file of `shaders/`, with the stem that names its kernel, its CPU twin and its pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Shader {
    /// The file's name without `.wgsl`.
    pub stem: &'static str,
    /// The file's text.
    pub text: &'static str,
}

/// What identifies one variant of a shader: it labels the pipeline, its cache entry and every message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShaderKey {
    stem: &'static str,
    text: &'static str,
    defines: BTreeMap<&'static str, u32>,
}

impl ShaderKey {
    /// The variant of `shader` without any define.
    pub fn new(shader: Shader) -> Self {
        Self { stem: shader.stem, text: shader.text, defines: BTreeMap::new() }
    }

    /// Adds a constant.
    pub fn with(mut self, name: &'static str, value: u32) -> Self {
        self.defines.insert(name, value);
        self
    }

    /// Adds a switch when `on`.
    pub fn flag(self, name: &'static str, on: bool) -> Self {
        if on { self.with(name, 1) } else { self }
    }

    /// The stem.
    pub fn stem(&self) -> &'static str {
        self.stem
    }
}

impl fmt::Display for ShaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.stem)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

const SHARED: &[(&str, &str)] = &[
    ("across", include_str!("../../shaders/shared/across.wgsl")),
    ("attention_job", include_str!("../../shaders/shared/attention_job.wgsl")),
    ("eight", include_str!("../../shaders/shared/eight.wgsl")),
    ("jobs", include_str!("../../shaders/shared/jobs.wgsl")),
    ("kv_block", include_str!("../../shaders/shared/kv_block.wgsl")),
    ("kv_codes", include_str!("../../shaders/shared/kv_codes.wgsl")),
    ("kv_eight", include_str!("../../shaders/shared/kv_eight.wgsl")),
    ("kv_row", include_str!("../../shaders/shared/kv_row.wgsl")),
    ("kv_steps", include_str!("../../shaders/shared/kv_steps.wgsl")),
    ("radix", include_str!("../../shaders/shared/radix.wgsl")),
    ("rope", include_str!("../../shaders/shared/rope.wgsl")),
    ("row_of_eight", include_str!("../../shaders/shared/row_of_eight.wgsl")),
    ("score", include_str!("../../shaders/shared/score.wgsl")),
    ("weight_pack", include_str!("../../shaders/shared/weight_pack.wgsl")),
    ("weight_chunk", include_str!("../../shaders/shared/weight_chunk.wgsl")),
    ("weight_row", include_str!("../../shaders/shared/weight_row.wgsl")),
];

/// The WGSL of one variant. Fails only on a mistake in a shader file, and says which line.
pub fn assemble(key: &ShaderKey) -> Result<String> {
    let mut out = String::new();
    let mut imported = Vec::new();
    paste(key, key.text, &mut imported, &mut out)?;
    Ok(out)
}

fn paste(key: &ShaderKey, text: &str, imported: &mut Vec<String>, out: &mut String) -> Result<()> {
    let fail = |line: &str, why: &str| Error::format(format!("shader {key}"), format!("{why}: `{line}`"));
    // One entry per open #ifdef: are its lines taken?
    let mut taken: Vec<bool> = Vec::new();
    for line in text.lines() {
        let word = line.trim();
        if let Some(name) = word.strip_prefix("#ifdef ") {
            taken.push(key.defines.contains_key(name.trim()));
        } else if word == "#else" {
            let last = taken.last_mut().ok_or_else(|| fail(line, "#else without #ifdef"))?;
            *last = !*last;
        } else if word == "#endif" {
            taken.pop().ok_or_else(|| fail(line, "#endif without #ifdef"))?;
        } else if taken.iter().all(|&t| t) {
            if let Some(name) = word.strip_prefix("#import ") {
                let (name, text) = SHARED
                    .iter()
                    .find(|(n, _)| *n == name.trim())
                    .ok_or_else(|| fail(line, "unknown import"))?;
                if !imported.iter().any(|i| i == name) {
                    imported.push((*name).to_owned());
                    paste(key, text, imported, out)?;
                }
            } else {
                out.push_str(&substitute(key, line).ok_or_else(|| fail(line, "undefined constant"))?);
                out.push('\n');
            }
        }
    }
    if taken.is_empty() { Ok(()) } else { Err(fail("", "#ifdef without #endif")) }
}

fn substitute(key: &ShaderKey, line: &str) -> Option<String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("#{") {
        let (name, tail) = after.split_once('}')?;
        out.push_str(before);
        out.push_str(&key.defines.get(name)?.to_string());
        rest = tail;
    }
    out.push_str(rest);
    Some(out)
}

/// What a storage binding of a shader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A buffer that the kernel only reads.
    Read,
    /// A buffer that it may write.
    Write,
    /// A texture that it only reads, with so many words a texel.
    ReadTexels(Texel),
    /// One that it only writes.
    WriteTexels(Texel),
}

impl Access {
    fn of(declaration: &str) -> Option<Self> {
        let kinds = [
            ("var<storage, read_write>", Self::Write),
            ("var<storage, read>", Self::Read),
            ("texture_storage_2d<rgba32uint, read>", Self::ReadTexels(Texel::Four)),
            ("texture_storage_2d<r32uint, read>", Self::ReadTexels(Texel::One)),
            ("texture_storage_2d<rgba32uint, write>", Self::WriteTexels(Texel::Four)),
            ("texture_storage_2d<r32uint, write>", Self::WriteTexels(Texel::One)),
        ];
        kinds.into_iter().find(|(text, _)| declaration.contains(text)).map(|(_, access)| access)
    }
}

/// The storage bindings of an assembled shader, in order from `@binding(1)`.
pub fn binding_access(wgsl: &str) -> Vec<Access> {
    let mut found: Vec<(u32, Access)> = wgsl
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once("@binding(")?.1.split_once(')')?;
            Some((number.parse().ok()?, Access::of(rest)?))
        })
        .collect();
    found.sort_unstable_by_key(|&(number, _)| number);
    found.into_iter().map(|(_, access)| access).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a\n#ifdef X\nb #{N}\n#ifdef Y\nc\n#else\nd\n#endif\n#else\ne\n#endif\nf";

    fn key(text: &'static str) -> ShaderKey {
        ShaderKey::new(Shader { stem: "test", text })
    }

    #[test]
    fn directives_nest_and_constants_substitute() {
        let with = assemble(&key(TEXT).with("X", 1).with("N", 7)).unwrap();
        assert_eq!(with, "a\nb 7\nd\nf\n");
        assert_eq!(assemble(&key(TEXT)).unwrap(), "a\ne\nf\n");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("#ifdef A\nx", "without #endif"),
            ("#endif", "without #ifdef"),
            ("#import nothing", "unknown import"),
            ("x #{N}", "undefined constant"),
        ] {
            let message = assemble(&key(text)).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn access_follows_binding_numbers() {
        let wgsl = "@group(0) @binding(2) var<storage, read_write> b: array<u32>;\n\
                    @group(0) @binding(1) var<storage, read> a: array<u32>;\n\
                    @group(0) @binding(3) var t: texture_storage_2d<r32uint, read>;\n\
                    @group(0) @binding(0) var<uniform> p: P;";
        assert_eq!(binding_access(wgsl), [Access::Read, Access::Write, Access::ReadTexels(Texel::One)]);
    }
}
