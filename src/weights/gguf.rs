//! GGUF versions 2 and 3, little-endian: the header of a file, with every number in it checked.
//!
//! ```text
//!   "GGUF" | version u32 | tensors u64 | keys u64
//!   keys     x ( name | type u32 | value )              string = length u64, UTF-8 bytes
//!   tensors  x ( name | dims u32 | ne u64 x dims | type u32 | offset u64 )
//!   padding to general.alignment (32 unless it says otherwise)
//!   data     each tensor at its offset from here, aligned likewise
//! ```
//!
//! `ne` lists dimensions innermost first, the reverse of our shapes. A count is believed only as far as
//! the rest of the file could hold that many of the smallest possible entry, so memory stays within a
//! constant factor of the file's size. Source: the GGUF specification in ggml's repository.

use std::fmt::Display;

use super::header::Stop;
use super::{Dtype, Location, Metadata, TensorInfo, Value};
use crate::Error;

type Result<T> = std::result::Result<T, Stop>;

/// The first bytes of every GGUF file.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";

/// Arrays in arrays in arrays are as deep as any file has a reason to go.
const MAX_DEPTH: usize = 3;

/// Metadata values in one file: several times the largest vocabulary with its scores and merges. A value
/// takes 32 bytes in memory and may take one in the file, which this keeps in bounds.
const MAX_VALUES: u64 = 1 << 24;

/// Bytes of the smallest key (empty name, one-byte value) and the smallest tensor entry (one dimension).
const MIN_KEY: u64 = 8 + 4 + 1;
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// Types that other programs write and this crate does not read, so that messages can name them.
const OTHER_TYPES: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// Reads the header of a file of `size` bytes that starts with `head`; `file` is its name for messages.
///
/// # Errors
/// [`Stop::Short`] if the header goes on beyond `head`; [`Error::Format`] with the key or tensor and the
/// numbers that do not fit together.
pub(super) fn parse(file: &str, head: &[u8], size: u64) -> Result<(Metadata, Vec<TensorInfo>)> {
    let mut reader = Reader { file, head, size, at: 0, values: 0 };
    reader.preamble()?;
    let tensor_count = reader.u64("the number of tensors")?;
    let key_count = reader.u64("the number of metadata keys")?;
    reader.check_count("metadata keys", key_count, MIN_KEY)?;

    let mut meta = Metadata::new(file);
    for i in 0..key_count {
        let key = reader.string(format_args!("the name of metadata key {i}"))?;
        let type_id = reader.u32(format_args!("the type of '{key}'"))?;
        let value = reader.value(&key, type_id, 0)?;
        meta.insert(key, value)?;
    }
    let alignment = meta.opt_u64("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        return reader.fail(format!("general.alignment is {alignment}, which is no power of two"));
    }

    reader.check_count("tensors", tensor_count, MIN_TENSOR)?;
    let entries = (0..tensor_count).map(|i| reader.tensor(i)).collect::<Result<Vec<_>>>()?;
    let data = (reader.at as u64).checked_next_multiple_of(alignment);
    let tensors =
        entries.into_iter().map(|entry| entry.locate(&reader, data, alignment)).collect::<Result<_>>()?;
    Ok((meta, tensors))
}

/// A tensor's entry before the place of the data is known.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    len: usize,
    offset: u64,
}

impl Entry {
    /// Turns the offset from `data` into a range of the file, and checks that it is inside.
    fn locate(self, reader: &Reader<'_>, data: Option<u64>, alignment: u64) -> Result<TensorInfo> {
        let Self { name, dtype, shape, len, offset } = self;
        if !offset.is_multiple_of(alignment) {
            return reader.fail(format!("tensor '{name}' has offset {offset}, no multiple of {alignment}"));
        }
        let start = data.and_then(|data| data.checked_add(offset));
        let size = reader.size;
        let fits = |start: &u64| start.checked_add(len as u64).is_some_and(|end| end <= size);
        let Some(start) = start.filter(fits) else {
            return reader.fail(format!(
                "tensor '{name}' has {len} bytes at offset {offset} of the data, beyond the file's {size} bytes"
            ));
        };
        Ok(TensorInfo { name, dtype, shape, location: Location { source: 0, offset: start, len } })
    }
}

/// A cursor over the start of a file that refuses to run off its end.
struct Reader<'a> {
    file: &'a str,
    head: &'a [u8],
    /// Bytes of the whole file.
    size: u64,
    at: usize,
    /// Metadata values announced so far.
    values: u64,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, reason: String) -> Result<T> {
        Err(Error::format(self.file, reason).into())
    }

    fn take(&mut self, len: u64, what: impl Display) -> Result<&'a [u8]> {
        let Some(end) = (self.at as u64).checked_add(len).filter(|end| *end <= self.size) else {
            return self.fail(format!(
                "{what} takes {len} bytes at offset {}, but the file ends after {}",
                self.at, self.size
            ));
        };
        let taken = usize::try_from(end).ok().and_then(|end| self.head.get(self.at..end));
        let taken = taken.ok_or(Stop::Short(end))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: impl Display) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: impl Display) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string(&mut self, what: impl Display) -> Result<String> {
        let len = self.u64(&what)?;
        // What is not UTF-8 is a licence or an author's name; no name or token that anybody asks for has U+FFFD.
        Ok(String::from_utf8_lossy(self.take(len, &what)?).into_owned())
    }

    /// Refuses `count` entries of at least `min_len` bytes each if the rest of the file is shorter.
    fn check_count(&self, what: impl Display, count: u64, min_len: u64) -> Result<()> {
        let rest = self.size - self.at as u64;
        if count.checked_mul(min_len).is_none_or(|len| len > rest) {
            return self.fail(format!("it claims {count} {what}, but only {rest} bytes follow"));
        }
        Ok(())
    }

    fn preamble(&mut self) -> Result<()> {
        let magic: [u8; 4] = self.array("the magic number")?;
        if magic != *MAGIC {
            return self.fail(format!("it starts with {magic:02x?}, not with \"GGUF\""));
        }
        let version = self.u32("the version")?;
        match (version, version.swap_bytes()) {
            (2 | 3, _) => Ok(()),
            (_, 2 | 3) => self.fail("it is big-endian GGUF; only little-endian is supported".into()),
            _ => self.fail(format!("it is GGUF version {version}; supported are 2 and 3")),
        }
    }

    /// Reads the value of `key`; `depth` counts the arrays around it.
    fn value(&mut self, key: &str, type_id: u32, depth: usize) -> Result<Value> {
        let what = format_args!("the value of '{key}'");
        Ok(match type_id {
            0 => Value::U8(u8::from_le_bytes(self.array(what)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(what)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(what)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(what)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(what)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(what)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            7 => match self.array(what)? {
                [byte @ (0 | 1)] => Value::Bool(byte == 1),
                [byte] => return self.fail(format!("{what} is a bool, but its byte is {byte}")),
            },
            8 => Value::String(self.string(what)?),
            9 if depth < MAX_DEPTH => self.items(key, depth)?,
            9 => return self.fail(format!("{what} nests arrays deeper than {MAX_DEPTH}")),
            10 => Value::U64(u64::from_le_bytes(self.array(what)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            _ => return self.fail(format!("{what} has type {type_id}; types go from 0 to 12")),
        })
    }

    fn items(&mut self, key: &str, depth: usize) -> Result<Value> {
        let type_id = self.u32(format_args!("the element type of '{key}'"))?;
        let count = self.u64(format_args!("the length of '{key}'"))?;
        let min_len = match type_id {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            9 => 4 + 8,
            _ => 8,
        };
        self.check_count(format_args!("elements of '{key}'"), count, min_len)?;
        self.values = self.values.saturating_add(count);
        if self.values > MAX_VALUES {
            return self.fail(format!("'{key}' takes the metadata beyond {MAX_VALUES} values"));
        }
        (0..count).map(|_| self.value(key, type_id, depth + 1)).collect::<Result<_>>().map(Value::Array)
    }

    fn tensor(&mut self, i: u64) -> Result<Entry> {
        let name = self.string(format_args!("the name of tensor {i}"))?;
        let dims = self.u32(format_args!("the rank of tensor '{name}'"))?;
        if !(1..=4).contains(&dims) {
            return self.fail(format!("tensor '{name}' has {dims} dimensions; 1 to 4 are possible"));
        }
        let ne = (0..dims)
            .map(|_| self.u64(format_args!("the shape of tensor '{name}'")))
            .collect::<Result<Vec<_>>>()?;
        let type_id = self.u32(format_args!("the type of tensor '{name}'"))?;
        let offset = self.u64(format_args!("the offset of tensor '{name}'"))?;
        let Some(dtype) = Dtype::from_ggml(type_id) else {
            let other = OTHER_TYPES.iter().find(|(id, _)| *id == type_id);
            let type_name = other.map_or_else(|| format!("number {type_id}"), |(_, name)| (*name).to_owned());
            return self.fail(format!(
                "tensor '{name}' has type {type_name}, which is not among the supported {}",
                Dtype::supported()
            ));
        };
        let shape: Option<Vec<usize>> = ne.iter().rev().map(|n| usize::try_from(*n).ok()).collect();
        let sized = shape.filter(|shape| !shape.contains(&0)).and_then(|shape| {
            let (cols, outer) = shape.split_last()?;
            let len = outer.iter().try_fold(dtype.row_bytes(*cols)?, |len, n| len.checked_mul(*n))?;
            Some((shape, len))
        });
        let Some((shape, len)) = sized else {
            return self.fail(format!(
                "tensor '{name}' of type {dtype} has dimensions {ne:?}, innermost first; none may be 0, the \
                 first must be a multiple of {} and the size must fit in memory",
                dtype.block_len()
            ));
        };
        Ok(Entry { name, dtype, shape, len, offset })
    }
}
