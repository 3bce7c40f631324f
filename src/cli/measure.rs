//! What the adapter reaches at best, the yardsticks for every kernel: bytes copied and values multiplied in a second.

use std::fmt;
use std::time::Duration;

use benben::gpu::{Class, Recorder, Tensor};
use benben::kernels::copy::copy;
use benben::kernels::matrix::{Epilogue, Matrix};
use benben::kernels::matvec::matvec;
use benben::kernels::multiply::{multiply, operations};
use benben::kernels::part::Part;
use benben::{Gpu, Result, RowFormat};
use serde::Serialize;

/// More than the caches of today's GPUs hold, and within the least binding that WebGPU promises.
const BYTES: u64 = 128 << 20;
/// Rounds that count.
const ROUNDS: usize = 7;

/// Lanes that multiply: more than today's GPUs run at once.
const MULTIPLIERS: usize = 1 << 19;
/// How long a measurement should last at least, so that starting it does not count.
const LONG_ENOUGH: f64 = 0.02;
/// More than that no device needs, and a loop of them ends within a second on any.
const MOST_ROUNDS: u32 = 1 << 14;

/// What no kernel can exceed on an adapter.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// GB/s of a copy, read and written bytes together.
    pub copy_gb_per_second: f64,
    /// GFLOP/s of f32 multiplications and additions in registers, two to a step.
    pub multiply_gflop_per_second: f64,
}

impl Ceilings {
    pub async fn measure(gpu: &Gpu) -> Result<Self> {
        let (copy_gb_per_second, multiply_gflop_per_second) =
            (copy_rate(gpu).await?, multiply_rate(gpu).await?);
        Ok(Self { copy_gb_per_second, multiply_gflop_per_second })
    }
}

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let high = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { high } else { (values[middle - 1] + high) / 2.0 })
}

impl fmt::Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  copy            {:.1} GB/s", self.copy_gb_per_second)?;
        writeln!(f, "  multiply, f32   {:.1} GFLOP/s", self.multiply_gflop_per_second)
    }
}

/// GB/s of a copy on the device, read and written bytes together.
async fn copy_rate(gpu: &Gpu) -> Result<f64> {
    let words = (BYTES.min(gpu.max_binding_bytes()) / 4) as usize;
    let [from, to] = ["from", "to"].map(|label| gpu.tensor::<u32>(Class::Scratch, label, words));
    rate(gpu, 8 * words as u64, |rec| copy(rec, &from, &to, words)).await
}

/// GFLOP/s of a loop of multiplications and additions.
async fn multiply_rate(gpu: &Gpu) -> Result<f64> {
    let out = gpu.tensor::<f32>(Class::Scratch, "out", MULTIPLIERS);
    let mut rec = Recorder::new(gpu);
    let mut rounds = 1;
    loop {
        // A value that neither vanishes nor grows: it ends at 4.
        multiply(&mut rec, &out, rounds, 0.75, 1.0)?;
        let took = rec.submit_timed().done().await?.as_secs_f64();
        if took >= LONG_ENOUGH || rounds >= MOST_ROUNDS {
            break;
        }
        rounds *= 2;
    }
    rate(gpu, operations(MULTIPLIERS, rounds), |rec| multiply(rec, &out, rounds, 0.75, 1.0)).await
}

/// GB/s of weights that a product of a 4-bit matrix with one row reads.
pub async fn matvec_rate(gpu: &Gpu) -> Result<f64> {
    let (rows, cols, format) = (32_768, 4096, RowFormat::Q4);
    let words = gpu.tensor(Class::Weights, "words", rows * format.words_per_row(cols));
    let scales = gpu.tensor(Class::Weights, "scales", rows * format.scales_per_row(cols));
    let matrix = Matrix::new(cols, vec![Part::new(&mut Recorder::new(gpu), 0, rows, format, words, scales)?]);
    let x: Tensor<f32> = gpu.tensor(Class::Scratch, "x", cols);
    let out: Tensor<f32> = gpu.tensor(Class::Scratch, "out", rows);
    rate(gpu, matrix.bytes(), |rec| matvec(rec, &matrix, &x, None, Epilogue::Store, &out)).await
}

/// The rate, in 10^9 a second, of work that moves or computes `amount`.
async fn rate(gpu: &Gpu, amount: u64, record: impl Fn(&mut Recorder) -> Result<()>) -> Result<f64> {
    Ok(amount as f64 / seconds(gpu, record).await? / 1e9)
}

/// Seconds that what is recorded takes on the device, the median of a few rounds.
pub async fn seconds(gpu: &Gpu, record: impl Fn(&mut Recorder) -> Result<()>) -> Result<f64> {
    let mut rec = Recorder::new(gpu);
    let mut times = Vec::new();
    for round in 0..=ROUNDS {
        record(&mut rec)?;
        let took = rec.submit_timed().done().await?;
        // The first round compiles the shader and clears the buffers.
        if round > 0 {
            times.push(took.max(Duration::from_nanos(1)).as_secs_f64());
        }
    }
    gpu.check()?;
    Ok(median(times).unwrap_or(f64::INFINITY))
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
