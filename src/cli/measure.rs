//! The bandwidth that the adapter reaches, the yardstick for everything that reads weights.

use std::time::Duration;

use benben::gpu::{Class, Recorder, Tensor};
use benben::kernels::copy::copy;
use benben::kernels::matrix::{Epilogue, Matrix, Part};
use benben::kernels::matvec::matvec;
use benben::{Gpu, Result, RowFormat};

/// More than the caches of today's GPUs hold, and within the least binding that WebGPU promises.
const BYTES: u64 = 128 << 20;
const ROUNDS: usize = 7;

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let high = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { high } else { (values[middle - 1] + high) / 2.0 })
}

/// GB/s of a copy on the device, read and written bytes together.
pub async fn copy_rate(gpu: &Gpu) -> Result<f64> {
    let words = (BYTES.min(gpu.max_binding_bytes()) / 4) as usize;
    let [from, to] = ["from", "to"].map(|label| gpu.tensor::<u32>(Class::Scratch, label, words));
    rate(gpu, 8 * words as u64, |rec| copy(rec, &from, &to, words)).await
}

/// GB/s of weights that a product of a 4-bit matrix with one row reads.
pub async fn matvec_rate(gpu: &Gpu) -> Result<f64> {
    let (rows, cols, format) = (32_768, 4096, RowFormat::Q4);
    let words = gpu.tensor(Class::Weights, "words", rows * format.words_per_row(cols));
    let scales = gpu.tensor(Class::Weights, "scales", rows * format.scales_per_row(cols));
    let matrix = Matrix::new(cols, vec![Part { first_row: 0, rows, format, words, scales }]);
    let x: Tensor<f32> = gpu.tensor(Class::Scratch, "x", cols);
    let out: Tensor<f32> = gpu.tensor(Class::Scratch, "out", rows);
    rate(gpu, matrix.bytes(), |rec| matvec(rec, &matrix, x.bind(), None, Epilogue::Store, &out)).await
}

/// The median rate, in GB/s, of work that moves `bytes`.
async fn rate(gpu: &Gpu, bytes: u64, record: impl Fn(&mut Recorder) -> Result<()>) -> Result<f64> {
    let mut rec = Recorder::new(gpu);
    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        record(&mut rec)?;
        let took = rec.submit_timed().done().await?;
        // The first round compiles the shader and clears the buffers.
        if round > 0 {
            rates.push(bytes as f64 / took.max(Duration::from_nanos(1)).as_secs_f64() / 1e9);
        }
    }
    gpu.check()?;
    Ok(median(rates).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(median(Vec::new()), None);
    }
}
