//! Kernels against their twins, on the device at hand.

use crate::Result;
use crate::gpu::{Class, Gpu, Tensor};

/// The outcome of one comparison.
#[derive(Debug, Clone)]
pub struct Check {
    /// The kernel's stem and the shape or variant that was run.
    pub label: String,
    /// The largest difference, relative to the largest expected magnitude (at least 1); infinite for a NaN that
    /// only one side has.
    pub error: f32,
    /// The largest error that still passes.
    pub tolerance: f32,
    /// Values compared; a comparison of nothing does not pass.
    pub values: usize,
}

impl Check {
    /// Compares what the device computed with what the twin did.
    pub fn compare(label: impl Into<String>, got: &[f32], want: &[f32], tolerance: f32) -> Self {
        let scale = want.iter().filter(|w| w.is_finite()).fold(1.0_f32, |m, w| m.max(w.abs()));
        let error = |(g, w): (&f32, &f32)| match (g.is_nan(), w.is_nan()) {
            (true, true) => 0.0,
            (false, false) if g == w => 0.0,
            (false, false) => (g - w).abs() / scale,
            _ => f32::INFINITY,
        };
        let worst = got.iter().zip(want).map(error).fold(0.0, f32::max);
        let error = if got.len() == want.len() { worst } else { f32::INFINITY };
        Self { label: label.into(), error, tolerance, values: want.len() }
    }

    /// Compares indices or bits, which must be equal.
    pub fn equal(label: impl Into<String>, got: &[u32], want: &[u32]) -> Self {
        let wrong = got.iter().zip(want).filter(|(g, w)| g != w).count() + got.len().abs_diff(want.len());
        Self { label: label.into(), error: wrong as f32, tolerance: 0.0, values: want.len() }
    }

    /// True when something was compared and agreed.
    pub fn passed(&self) -> bool {
        self.values > 0 && self.error <= self.tolerance
    }
}

/// Seeded values for checks and synthetic weights: the splitmix64 generator.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// A generator that always gives the same values for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// A value between 0 and `end`, without `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(end)) >> 32) as u32
    }

    /// A value in -1..1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// `len` values in -1..1.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

/// An output that no kernel has written yet: every value is NaN, so that one left out is seen.
pub fn poisoned(gpu: &Gpu, len: usize) -> Tensor<f32> {
    gpu.tensor_with(Class::Scratch, "poisoned", &vec![f32::NAN; len])
}

/// Runs every kernel that this device's tuning chooses, at a few small shapes.
///
/// # Errors
/// What the device refuses; a kernel that computes wrongly is no error but a [`Check`] that did not pass.
pub async fn all(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    checks.extend(super::centre::checks(gpu).await?);
    checks.extend(super::copy::checks(gpu).await?);
    checks.extend(super::read::checks(gpu).await?);
    checks.extend(super::multiply::checks(gpu).await?);
    checks.extend(super::multiply_matrix::checks(gpu).await?);
    checks.extend(super::embed::checks(gpu).await?);
    checks.extend(super::fill::checks(gpu).await?);
    checks.extend(super::gather::checks(gpu).await?);
    checks.extend(super::tile::checks(gpu).await?);
    checks.extend(super::score::checks(gpu).await?);
    checks.extend(super::rope_ahead::checks(gpu).await?);
    checks.extend(super::moments::checks(gpu).await?);
    checks.extend(super::expected_logits::checks(gpu).await?);
    checks.extend(super::expected_score::checks(gpu).await?);
    checks.extend(super::pool::checks(gpu).await?);
    checks.extend(super::combine::checks(gpu).await?);
    checks.extend(super::select::checks(gpu).await?);
    checks.extend(super::nearest::checks(gpu).await?);
    checks.extend(super::fold::checks(gpu).await?);
    checks.extend(super::accumulate::checks(gpu).await?);
    checks.extend(super::observe::checks(gpu).await?);
    checks.extend(super::seed::checks(gpu).await?);
    checks.extend(super::thin::checks(gpu).await?);
    checks.extend(super::sample::checks(gpu).await?);
    checks.extend(super::nll::checks(gpu).await?);
    checks.extend(super::matmul_check::checks(gpu).await?);
    checks.extend(super::matvec::checks(gpu).await?);
    checks.extend(super::quantise::checks(gpu).await?);
    checks.extend(super::matvec_dots::checks(gpu).await?);
    checks.extend(super::rms_norm::checks(gpu).await?);
    checks.extend(super::rope_split::checks(gpu).await?);
    checks.extend(super::rope_write::checks(gpu).await?);
    checks.extend(super::kv_write::checks(gpu).await?);
    checks.extend(super::kv_read::checks(gpu).await?);
    checks.extend(super::kv_copy::checks(gpu).await?);
    checks.extend(super::page_bounds::checks(gpu).await?);
    checks.extend(super::page_score::checks(gpu).await?);
    checks.extend(super::to_halves::checks(gpu).await?);
    checks.extend(super::attention_prefill::checks(gpu).await?);
    checks.extend(super::attention_decode::checks(gpu).await?);
    checks.extend(super::attention_merge::checks(gpu).await?);
    Ok(checks)
}

#[cfg(test)]
pub(super) mod testing {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::super::kv_code::KvBits;
    use super::super::kv_row::Format;
    use super::{Check, Gpu, Result};
    use crate::gpu::{AdapterChoice, Family, Tuning};

    /// The device that the tests run on, opened once and never closed.
    pub fn gpu() -> Gpu {
        static GPU: OnceLock<Gpu> = OnceLock::new();
        GPU.get_or_init(|| pollster::block_on(Gpu::open(&AdapterChoice::Best)).expect("a GPU adapter"))
            .clone()
    }

    /// The same device, once for each kernel family that it can run.
    pub fn families() -> Vec<Gpu> {
        let gpu = gpu();
        let base = Tuning { subgroups: false, subgroup_lanes: 0, textures: false, planes: 0, ..gpu.tuning() };
        let mut tunings = vec![
            Tuning { family: Family::Lanes, ..base },
            Tuning { family: Family::Lanes, textures: true, ..base },
            Tuning { family: Family::Groups, ..base },
        ];
        if gpu.tuning().subgroups {
            let with = Tuning { subgroups: true, subgroup_lanes: gpu.tuning().subgroup_lanes, ..base };
            tunings.extend([(true, 2), (false, 1)].map(|(wide_barriers, planes)| Tuning {
                family: Family::Groups,
                wide_barriers,
                planes,
                ..with
            }));
            tunings.extend([false, true].map(|textures| Tuning { family: Family::Lanes, textures, ..with }));
        }
        if gpu.has_matrix_units() {
            let units =
                Tuning { matrix_units: true, matrix_few: true, matrix_attention: true, ..gpu.tuning() };
            tunings.push(Tuning { family: Family::Groups, ..units });
        }
        tunings.into_iter().map(|t| gpu.with_tuning(t)).collect()
    }

    /// Any pair of widths of K and V.
    pub fn formats() -> impl Strategy<Value = Format> {
        let bits = || prop::sample::select(KvBits::ALL.to_vec());
        (bits(), bits()).prop_map(|(k, v)| Format { k, v })
    }

    /// Fails with the numbers of every check that did not pass.
    pub fn assert_passed(checks: Result<Vec<Check>>) {
        let checks = checks.expect("the device runs the kernel");
        assert!(!checks.is_empty(), "nothing was checked");
        let failed: Vec<&Check> = checks.iter().filter(|c| !c.passed()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
