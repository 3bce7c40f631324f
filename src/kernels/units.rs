//! Which kernels a device runs on its matrix units. wgpu calls them experimental, so nothing is taken on trust.

use super::{attention_prefill_matrix, matmul_matrix};
use crate::gpu::{Family, Gpu, Tuning, TuningSource};

/// The same device, tuned to its matrix units if it has any, for products and for attention where those kernels compute on
/// them what their twins do. What goes wrong with that leaves the tuning as it is, and so does a tuning that the caller made.
pub async fn prove(gpu: &Gpu) -> Gpu {
    let tuning = gpu.tuning();
    let proven = tuning.matrix_units || tuning.matrix_attention;
    let chosen = gpu.tuning_source() == TuningSource::Caller || tuning.family != Family::Groups;
    if chosen || proven || !gpu.has_matrix_units() {
        return gpu.clone();
    }
    let products = gpu.retuned(Tuning { matrix_units: true, ..tuning });
    let matrix_units = matmul_matrix::computes_rightly(&products).await.is_ok_and(|right| right);
    let attention = gpu.retuned(Tuning { matrix_attention: true, ..tuning });
    let matrix_attention =
        attention_prefill_matrix::computes_rightly(&attention).await.is_ok_and(|right| right);
    gpu.retuned(Tuning { matrix_units, matrix_attention, ..tuning })
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
