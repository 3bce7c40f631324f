//! Model files and their numbers: dequantising and packing against golden data from gguf-py.
//!
//! Needs `shared/golden` beside the repository (or `BENBEN_SHARED`), and for one test the GGUF file of
//! SmolLM2-135M-Instruct (`BENBEN_MODEL`, or the cache directory); says so and passes without them.
//! Hostile files have a test of their own, `weights_hostile.rs`.

use crate::common::files::{golden, model_file};
use benben::weights::{Dtype, ModelFile, RowFormat, dequantize_row, natural_format, pack, unpack};
use pollster::block_on;
use safetensors::SafeTensors;

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Equal, both NaN, or neighbours among the f32.
fn within_one_ulp(a: f32, b: f32) -> bool {
    a == b
        || (a.is_nan() && b.is_nan())
        || (a.is_sign_negative() == b.is_sign_negative() && a.to_bits().abs_diff(b.to_bits()) <= 1)
}

/// The quantised types with their random blocks and the values that gguf-py reads in them.
fn synthetic() -> Vec<(Dtype, Vec<u8>, Vec<f32>)> {
    let Some(bytes) = golden("quant_blocks_synthetic.safetensors") else { return Vec::new() };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let quantised = Dtype::ALL.into_iter().filter(|dtype| dtype.block_len() > 1);
    quantised
        .map(|dtype| {
            let part = |kind| file.tensor(&format!("{dtype}.{kind}")).unwrap().data().to_vec();
            (dtype, part("raw"), f32s(&part("f32")))
        })
        .collect()
}

#[test]
fn every_block_format_dequantises_like_the_reference() {
    for (dtype, raw, expected) in synthetic() {
        let mut values = vec![f32::NAN; expected.len()];
        dequantize_row(dtype, &raw, &mut values).unwrap();
        for (i, (value, expected)) in values.iter().zip(&expected).enumerate() {
            assert!(within_one_ulp(*value, *expected), "{dtype} value {i}: {value} is not {expected}");
        }
    }
}

#[test]
fn repacking_moves_the_codes() {
    for (dtype, raw, expected) in synthetic() {
        let format = natural_format(dtype, expected.len());
        let packed = pack(dtype, &raw, 1, expected.len(), format).unwrap();
        assert_eq!(packed.format, format);
        assert_eq!(packed.words.len(), format.words_per_row(packed.cols));
        assert_eq!(packed.scales.len(), format.scales_per_row(packed.cols));
        for (i, (value, expected)) in unpack(&packed).iter().zip(&expected).enumerate() {
            let group = packed.scales[i / 32];
            let [scale, min] =
                [group, group >> 16].map(|bits| half::f16::from_bits(bits as u16).to_f32().abs());
            let tolerance = match dtype {
                // Only scale and minimum were rounded, each by half an ulp of f16.
                Dtype::Q4K | Dtype::Q5K => (31.0 * scale + min) / 2048.0,
                Dtype::Q6K => 0.5 * scale + (255.0 * scale + min) / 2048.0,
                _ => 0.0,
            };
            assert!((value - expected).abs() <= tolerance, "{dtype} value {i}: {value} is not {expected}");
        }
    }
}

#[test]
fn narrower_formats_stay_within_half_a_scale() {
    for (dtype, raw, expected) in synthetic() {
        for format in [RowFormat::Q8, RowFormat::Q4] {
            let packed = pack(dtype, &raw, 1, expected.len(), format).unwrap();
            for (i, (value, expected)) in unpack(&packed).iter().zip(&expected).enumerate() {
                let group = packed.scales[i / 32];
                let [scale, min] =
                    [group, group >> 16].map(|bits| half::f16::from_bits(bits as u16).to_f32().abs());
                let tolerance = 0.5 * scale + (255.0 * scale + min) / 2048.0;
                assert!(
                    (value - expected).abs() <= tolerance,
                    "{dtype} as {format:?}, {i}: {value} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_whole_model_reads_like_the_reference() {
    let (Some(path), Some(checks)) = (model_file(), golden("dequant_checks.json")) else { return };
    let checks: serde_json::Value = serde_json::from_slice(&checks).unwrap();
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.tensors().count(), 272);
    assert_eq!(file.meta().u64("llama.block_count").unwrap(), 30);
    assert_eq!(file.meta().strings("tokenizer.ggml.tokens").unwrap().len(), 49152);

    let ours = checks["tensors"].as_array().unwrap().iter().filter(|check| check["model"] == "smollm2");
    let mut compared = 0;
    for check in ours {
        let name = check["name"].as_str().unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype.name(), check["type"]);
        assert_eq!(serde_json::json!(tensor.shape), check["shape_rows_cols"]);
        let values = block_on(file.dequantize(tensor)).unwrap();
        let expected = |key: &str| check[key].as_f64().unwrap();
        let ends = |key: &str| -> Vec<f32> { serde_json::from_value(check[key].clone()).unwrap() };
        assert_eq!(values[..8], ends("first8"), "{name}");
        assert_eq!(values[values.len() - 4..], ends("last4"), "{name}");
        assert_eq!(values.iter().copied().fold(f32::INFINITY, f32::min), expected("min") as f32);
        assert_eq!(values.iter().copied().fold(f32::NEG_INFINITY, f32::max), expected("max") as f32);
        let total: f64 = values.iter().map(|value| f64::from(*value)).sum();
        let magnitude: f64 = values.iter().map(|value| f64::from(value.abs())).sum();
        assert!((total - expected("sum")).abs() < 1e-9 * magnitude, "{name}: sum {total}");
        let mean = magnitude / values.len() as f64;
        assert!((mean - expected("abs_mean")).abs() < 1e-6 * mean, "{name}: mean {mean}");

        let rows = tensor.rows().min(5);
        let first = tensor.rows() - rows;
        let format = natural_format(tensor.dtype, tensor.cols());
        let packed = block_on(file.pack(tensor, first, rows, format)).unwrap();
        if tensor.dtype != Dtype::F32 {
            assert_eq!(unpack(&packed), values[first * tensor.cols()..], "{name}");
        }
        compared += 1;
    }
    assert!(compared >= 10, "only {compared} tensors compared");
}
