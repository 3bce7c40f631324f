//! Shader assembly: a pure function from a stem and a set of defines to WGSL.
//!
//! Four directives, each alone on its line but the last:
//! `#import name` pastes `shaders/shared/name.wgsl` (once), `#ifdef NAME` / `#else` / `#endif` choose by the
//! presence of a define, `#repeat i COUNT` / `#end` paste what is between them for `i` = 0, 1, ..., and `#{NAME}`
//! anywhere becomes the value of a define or of such an `i`. What is repeated so may be a name as well: `sum_#{i}`, or
//! the end of a define's: `#{COUNT_#{i}}`.
//! Some values, cooperative matrices above all, stay in registers only if each is a variable of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

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
///
/// A key is made and looked up for every dispatch, so that its defines are one allocation, and its text, which is
/// kilobytes, is neither hashed nor, where it is the same one, compared.
#[derive(Debug, Clone)]
pub struct ShaderKey {
    stem: &'static str,
    text: &'static str,
    /// By name.
    defines: Vec<(&'static str, u32)>,
}

/// More defines than most variants have.
const DEFINES: usize = 24;

impl PartialEq for ShaderKey {
    fn eq(&self, other: &Self) -> bool {
        let same_text = std::ptr::eq(self.text, other.text) || self.text == other.text;
        self.stem == other.stem && self.defines == other.defines && same_text
    }
}

impl Eq for ShaderKey {}

impl Hash for ShaderKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.stem.hash(state);
        // Names are nearly always the same for a stem.
        self.defines.iter().for_each(|(_, value)| value.hash(state));
    }
}

impl ShaderKey {
    /// The variant of `shader` without any define.
    pub fn new(shader: Shader) -> Self {
        Self { stem: shader.stem, text: shader.text, defines: Vec::with_capacity(DEFINES) }
    }

    /// Adds a constant.
    pub fn with(mut self, name: &'static str, value: u32) -> Self {
        match self.defines.binary_search_by_key(&name, |&(name, _)| name) {
            Ok(at) => self.defines[at].1 = value,
            Err(at) => self.defines.insert(at, (name, value)),
        }
        self
    }

    /// Adds a switch when `on`.
    pub fn flag(self, name: &'static str, on: bool) -> Self {
        if on { self.with(name, 1) } else { self }
    }

    fn define(&self, name: &str) -> Option<u32> {
        let at = self.defines.binary_search_by_key(&name, |&(name, _)| name).ok()?;
        Some(self.defines[at].1)
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
    ("dot_add", include_str!("../../shaders/shared/dot_add.wgsl")),
    ("eight", include_str!("../../shaders/shared/eight.wgsl")),
    ("jobs", include_str!("../../shaders/shared/jobs.wgsl")),
    ("kv_block", include_str!("../../shaders/shared/kv_block.wgsl")),
    ("kv_codes", include_str!("../../shaders/shared/kv_codes.wgsl")),
    ("kv_eight", include_str!("../../shaders/shared/kv_eight.wgsl")),
    ("kv_raw", include_str!("../../shaders/shared/kv_raw.wgsl")),
    ("kv_row", include_str!("../../shaders/shared/kv_row.wgsl")),
    ("kv_steps", include_str!("../../shaders/shared/kv_steps.wgsl")),
    ("operand", include_str!("../../shaders/shared/operand.wgsl")),
    ("paid", include_str!("../../shaders/shared/paid.wgsl")),
    ("product", include_str!("../../shaders/shared/product.wgsl")),
    ("radix", include_str!("../../shaders/shared/radix.wgsl")),
    ("rope", include_str!("../../shaders/shared/rope.wgsl")),
    ("row_of_eight", include_str!("../../shaders/shared/row_of_eight.wgsl")),
    ("score", include_str!("../../shaders/shared/score.wgsl")),
    ("stored", include_str!("../../shaders/shared/stored.wgsl")),
    ("weight_pack", include_str!("../../shaders/shared/weight_pack.wgsl")),
    ("weight_chunk", include_str!("../../shaders/shared/weight_chunk.wgsl")),
    ("weight_dots", include_str!("../../shaders/shared/weight_dots.wgsl")),
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
    let lines: Vec<&str> = text.lines().collect();
    Paste { key, imported, out }.lines(&lines, &mut BTreeMap::new())
}

/// Values of the counters of the `#repeat`s around a line.
type Counters<'a> = BTreeMap<&'a str, u32>;

struct Paste<'a> {
    key: &'a ShaderKey,
    imported: &'a mut Vec<String>,
    out: &'a mut String,
}

impl Paste<'_> {
    fn fail(&self, line: &str, why: &str) -> Error {
        Error::format(format!("shader {}", self.key), format!("{why}: `{line}`"))
    }

    fn lines<'t>(&mut self, lines: &[&'t str], counters: &mut Counters<'t>) -> Result<()> {
        // One entry per open #ifdef: are its lines taken?
        let mut taken: Vec<bool> = Vec::new();
        let mut rest = lines;
        while let Some((&line, after)) = rest.split_first() {
            rest = after;
            let word = line.trim();
            if let Some(name) = word.strip_prefix("#ifdef ") {
                taken.push(self.key.define(name.trim()).is_some());
            } else if word == "#else" {
                let last = taken.last_mut().ok_or_else(|| self.fail(line, "#else without #ifdef"))?;
                *last = !*last;
            } else if word == "#endif" {
                taken.pop().ok_or_else(|| self.fail(line, "#endif without #ifdef"))?;
            } else if let Some(header) = word.strip_prefix("#repeat ") {
                let end = end_of_repeat(rest).ok_or_else(|| self.fail(line, "#repeat without #end"))?;
                let (body, after) = rest.split_at(end);
                rest = &after[1..];
                if taken.iter().all(|&t| t) {
                    self.repeat(line, header, body, counters)?;
                }
            } else if word == "#end" {
                return Err(self.fail(line, "#end without #repeat"));
            } else if taken.iter().all(|&t| t) {
                self.line(line, counters)?;
            }
        }
        if taken.is_empty() { Ok(()) } else { Err(self.fail("", "#ifdef without #endif")) }
    }

    fn repeat<'t>(
        &mut self,
        line: &str,
        header: &'t str,
        body: &[&'t str],
        counters: &mut Counters<'t>,
    ) -> Result<()> {
        let (name, count) =
            header.split_once(' ').ok_or_else(|| self.fail(line, "#repeat without a count"))?;
        let count = self.substitute(count.trim(), counters).and_then(|count| count.parse().ok());
        for i in 0..count.ok_or_else(|| self.fail(line, "not a count"))? {
            counters.insert(name, i);
            self.lines(body, counters)?;
        }
        counters.remove(name);
        Ok(())
    }

    fn line(&mut self, line: &str, counters: &Counters<'_>) -> Result<()> {
        let Some(name) = line.trim().strip_prefix("#import ") else {
            let text =
                self.substitute(line, counters).ok_or_else(|| self.fail(line, "undefined constant"))?;
            self.out.push_str(&text);
            self.out.push('\n');
            return Ok(());
        };
        let shared = SHARED.iter().find(|(n, _)| *n == name.trim());
        let (name, text) = shared.ok_or_else(|| self.fail(line, "unknown import"))?;
        if self.imported.iter().any(|i| i == name) {
            return Ok(());
        }
        self.imported.push((*name).to_owned());
        paste(self.key, text, self.imported, self.out)
    }

    fn substitute(&self, line: &str, counters: &Counters<'_>) -> Option<String> {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("#{") {
            let (name, tail) = after.split_once('}')?;
            // A name may end with a counter: `#{LEFT_#{i}}`.
            let (name, tail) = match name.split_once("#{") {
                Some((stem, counter)) => {
                    (format!("{stem}{}", counters.get(counter)?), tail.strip_prefix('}')?)
                }
                None => (name.to_owned(), tail),
            };
            let name = name.as_str();
            let value = counters.get(name).copied().or_else(|| self.key.define(name))?;
            out.push_str(before);
            out.push_str(&value.to_string());
            rest = tail;
        }
        out.push_str(rest);
        Some(out)
    }
}

/// Where the `#end` of a `#repeat` is in the lines behind it.
fn end_of_repeat(lines: &[&str]) -> Option<usize> {
    let mut open = 1;
    lines.iter().position(|line| {
        match line.trim() {
            "#end" => open -= 1,
            word if word.starts_with("#repeat ") => open += 1,
            _ => {}
        }
        open == 0
    })
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

    /// True if the kernel may write what is bound.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::WriteTexels(_))
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
    fn what_repeats_counts() {
        let text = "#repeat i #{N}\n#repeat j 2\nx_#{i}#{j}\n#ifdef X\ny\n#endif\n#end\n#end\nz";
        let twice = assemble(&key(text).with("N", 2)).unwrap();
        assert_eq!(twice, "x_00\nx_01\nx_10\nx_11\nz\n");
        assert_eq!(assemble(&key(text).with("N", 1).with("X", 1)).unwrap(), "x_00\ny\nx_01\ny\nz\n");
        assert_eq!(assemble(&key("#ifdef X\n#repeat i 2\nx\n#end\n#endif\nz")).unwrap(), "z\n");
        let counted = "#repeat i 2\n#repeat j #{N_#{i}}\nx_#{i}#{j}\n#end\n#end";
        let counted = assemble(&key(counted).with("N_0", 2).with("N_1", 1)).unwrap();
        assert_eq!(counted, "x_00\nx_01\nx_10\n");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("#ifdef A\nx", "without #endif"),
            ("#endif", "without #ifdef"),
            ("#import nothing", "unknown import"),
            ("x #{N}", "undefined constant"),
            ("#repeat i 2\nx", "without #end"),
            ("#end", "without #repeat"),
            ("#repeat i\n#end", "without a count"),
            ("#repeat i N\n#end", "not a count"),
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
