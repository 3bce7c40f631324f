//! Which kernels a device runs on its matrix units. wgpu calls them experimental, so nothing is taken on trust.

use super::check::Check;
use super::{attention_prefill_matrix, matmul_few, matmul_matrix};
use crate::gpu::{Family, Gpu, Tuning, TuningSource};
use crate::{Error, Result};

/// The same device, tuned to its matrix units if it has any, for products and for attention where those kernels compute on
/// them what their twins do. What goes wrong with that leaves the tuning as it is, and so does a tuning that the caller made.
pub async fn prove(gpu: &Gpu) -> Gpu {
    prove_aloud(gpu).await.0
}

/// [`prove`], and why some kernels do not use the units that the device has.
pub async fn prove_aloud(gpu: &Gpu) -> (Gpu, Vec<Error>) {
    let tuning = gpu.tuning();
    let proven = tuning.matrix_units || tuning.matrix_attention;
    let chosen = gpu.tuning_source() == TuningSource::Caller || tuning.family != Family::Groups;
    if chosen || proven || !gpu.has_matrix_units() {
        return (gpu.clone(), Vec::new());
    }
    let products = gpu.retuned(Tuning { matrix_units: true, ..tuning });
    let few = gpu.retuned(Tuning { matrix_units: true, matrix_few: true, ..tuning });
    let products = matmul_matrix::computes_rightly(&products).await;
    let few = matmul_few::computes_rightly(&few).await;
    let attention = gpu.retuned(Tuning { matrix_attention: true, ..tuning });
    let attention = attention_prefill_matrix::computes_rightly(&attention).await;
    let (matrix_units, matrix_attention) = (products.is_ok(), attention.is_ok());
    let matrix_few = matrix_units && few.is_ok();
    let refused = [products, few, attention].into_iter().filter_map(Result::err).collect();
    (gpu.retuned(Tuning { matrix_units, matrix_few, matrix_attention, ..tuning }), refused)
}

/// Fails with what the first check says that did not pass.
pub(super) fn demand(checks: &[Check]) -> Result<()> {
    match checks.iter().find(|check| !check.passed()) {
        None => Ok(()),
        Some(Check { label, error, tolerance, .. }) => Err(Error::Unsupported {
            need: format!("{label} within {tolerance:e} on its matrix units"),
            have: format!("an error of {error:e}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::gpu;
    use super::*;

    #[test]
    fn a_device_without_units_keeps_its_tuning() {
        let gpu = gpu();
        if gpu.has_matrix_units() {
            return;
        }
        let groups = Tuning { family: Family::Groups, ..gpu.tuning() };
        for gpu in [gpu.with_tuning(groups), gpu.retuned(groups), gpu] {
            assert_eq!(pollster::block_on(prove(&gpu)).tuning(), gpu.tuning());
        }
    }
}
