//! Safetensors: one file, or shards under an index. The header is JSON, read by the crate of that name.
//!
//! ```text
//!   n u64 | n bytes of JSON: name -> dtype, shape, [begin, end) from here on | data
//! ```
//!
//! The crate checks that shapes, types and ranges agree and that ranges follow each other without gaps;
//! that they end where the file ends is checked here.

use ::safetensors::tensor::{Dtype as FileDtype, Metadata};

use super::header::Stop;
use super::{Dtype, Location, TensorInfo, names};
use crate::Error;

/// Bytes before the JSON.
const PREFIX: u64 = 8;

/// Reads the header of a file of `size` bytes that starts with `head`: what it describes, and where the data
/// begins. Ranges are relative to that, and end where the file ends. `file` is its name for messages.
///
/// # Errors
/// [`Stop::Short`] if the header goes on beyond `head`; [`Error::Format`] if it contradicts itself or the file.
fn header(file: &str, head: &[u8], size: u64) -> Result<(Metadata, u64), Stop> {
    let fail = |reason| Err(Error::format(file, reason).into());
    if size < PREFIX {
        return fail(format!("it has {size} bytes, too few for a safetensors header"));
    }
    let (header_len, rest) = head.split_first_chunk().ok_or(Stop::Short(PREFIX))?;
    let header_len = u64::from_le_bytes(*header_len);
    let Some(data) = header_len.checked_add(PREFIX).filter(|data| *data <= size) else {
        return fail(format!("its header claims {header_len} bytes, but only {} follow", size - PREFIX));
    };
    let header = usize::try_from(header_len).ok().and_then(|len| rest.get(..len)).ok_or(Stop::Short(data))?;
    let header: Metadata = match serde_json::from_slice(header) {
        Ok(header) => header,
        Err(error) => return fail(format!("its safetensors header is not sound: {error}")),
    };
    let (said, is) = (header.data_len() as u64, size - data);
    if said != is {
        return fail(format!("its header describes {said} bytes of tensors, but {is} follow"));
    }
    Ok((header, data))
}

/// The same of a whole file.
///
/// # Errors
/// [`Error::Format`] if the header contradicts itself or the file.
pub(crate) fn whole(file: &str, bytes: &[u8]) -> Result<(Metadata, usize), Error> {
    let found = header(file, bytes, bytes.len() as u64).map_err(|stop| stop.into_error(file))?;
    Ok((found.0, found.1 as usize))
}

/// Reads the tensors of a file as [`header`] does. Names are GGUF's.
///
/// # Errors
/// As [`header`], and [`Error::Format`] if a tensor is not F32, F16 or BF16.
pub(super) fn parse(file: &str, head: &[u8], size: u64) -> Result<Vec<TensorInfo>, Stop> {
    let fail = |reason| Err(Error::format(file, reason).into());
    let (header, data) = header(file, head, size)?;
    let mut tensors = Vec::new();
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let dtype = match info.dtype {
            FileDtype::F32 => Dtype::F32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::Bf16,
            other => {
                return fail(format!(
                    "tensor '{name}' has type {other:?}, which is not among F32, F16 and BF16"
                ));
            }
        };
        if info.shape.contains(&0) {
            return fail(format!("tensor '{name}' has shape {:?}, but no dimension may be 0", info.shape));
        }
        let (begin, end) = info.data_offsets;
        let location = Location { source: 0, offset: data + begin as u64, len: end - begin };
        tensors.push(TensorInfo {
            name: names::canonical(&name),
            dtype,
            shape: info.shape.clone(),
            location,
        });
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn refusal(header: &str, data: &[u8]) -> String {
        let bytes = file(header, data);
        match parse("test", &bytes, bytes.len() as u64) {
            Err(Stop::Bad(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tensors_lie_behind_the_header() {
        let header = r#"{"lm_head.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
        let bytes = file(header, &[0; 12]);
        let short = |head: usize| match parse("test", &bytes[..head], bytes.len() as u64) {
            Err(Stop::Short(end)) => end,
            other => panic!("{other:?}"),
        };
        assert_eq!((short(7), short(8)), (8, 8 + header.len() as u64));
        let tensors = parse("test", &bytes[..8 + header.len()], bytes.len() as u64).unwrap();
        let [tensor] = tensors.as_slice() else { panic!("one tensor, not {}", tensors.len()) };
        assert_eq!((tensor.name.as_str(), tensor.dtype), ("output.weight", Dtype::Bf16));
        assert_eq!((tensor.rows(), tensor.cols()), (2, 3));
        assert_eq!(tensor.location, Location { source: 0, offset: 8 + header.len() as u64, len: 12 });
    }

    #[test]
    fn contradictions_are_refused() {
        let short = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert!(refusal(short, &[0; 7]).contains("describes 8 bytes of tensors, but 7 follow"));
        assert!(refusal(short, &[0; 9]).contains("but 9 follow"));
        let odd = r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        assert!(refusal(odd, &[0; 8]).contains("tensor 'a' has type I64"));
        let empty = r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
        assert!(refusal(empty, &[]).contains("no dimension may be 0"));
        let twice = r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},
                        "a":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}"#;
        assert!(refusal(twice, &[0; 4]).contains("not sound"));
        assert!(refusal("{", &[]).contains("not sound"));
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#;
        assert!(refusal(huge, &[0; 8]).contains("not sound"));
        // Eight tensors that each fit, and whose sum is just below the end of the address space.
        let eighth = usize::MAX / 8;
        let entry = |i: usize| {
            let (begin, end) = (i * eighth, (i + 1) * eighth);
            format!(r#""{i}":{{"dtype":"U8","shape":[{eighth}],"data_offsets":[{begin},{end}]}}"#)
        };
        let header = format!("{{{}}}", (0..8).map(entry).collect::<Vec<_>>().join(","));
        assert!(refusal(&header, &[0; 8]).contains("but 8 follow"));
    }
}
