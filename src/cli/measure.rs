//! What the adapter reaches at best, the yardsticks for every kernel: bytes read and copied and values multiplied in a
//! second.

use std::fmt;
use std::time::{Duration, Instant};

use benben::gpu::{Class, Recorder, Tensor};
use benben::kernels::check::Noise;
use benben::kernels::copy::copy;
use benben::kernels::matrix::{Epilogue, Matrix};
use benben::kernels::matvec::matvec;
use benben::kernels::multiply::multiply;
use benben::kernels::multiply_matrix::multiply_matrix;
use benben::kernels::part::Part;
use benben::kernels::read::read;
use benben::kernels::{multiply as scalar, multiply_matrix as matrices, read as reading};
use benben::{Gpu, Result, RowFormat};
use serde::Serialize;

/// Bytes read or copied, where a binding may be so large: ten times what the caches of today's GPUs hold.
const BYTES: u64 = 512 << 20;
/// Rounds that count.
const ROUNDS: usize = 7;
/// How long a GPU works before anything counts: an idle one has lowered its clocks.
const WARM_UP: Duration = Duration::from_millis(40);
/// How long it takes one that waited for compilers to raise all its clocks: an H200 read at half its rate before.
const WAKE_UP: Duration = Duration::from_secs(2);
/// A round of a GPU lasts about so long at least, so that the two timestamps around it do not count.
const ROUND: f64 = 2e-3;
/// Dispatches that a round may have: a recorder submits on its own when it has twice as many.
const MOST_DISPATCHES: u64 = 1024;

/// Lanes that multiply: more than today's GPUs run at once.
const MULTIPLIERS: usize = 1 << 19;
/// Subgroups that multiply matrices.
const MATRIX_MULTIPLIERS: usize = 1 << 13;
/// How long a measurement should last at least, so that starting it does not count.
const LONG_ENOUGH: f64 = 0.02;
/// More than that no device needs, and a loop of them ends within a second on any.
const MOST_ROUNDS: u32 = 1 << 14;

/// What no kernel can exceed on an adapter.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// GB/s of reading alone.
    pub read_gb_per_second: f64,
    /// GB/s of a copy, read and written bytes together.
    pub copy_gb_per_second: f64,
    /// GFLOP/s of f32 multiplications and additions in registers, two to a step.
    pub multiply_gflop_per_second: f64,
    /// GFLOP/s of the matrix units on halves summed in f32; absent where kernels do not use them.
    pub matrix_gflop_per_second: Option<f64>,
}

impl Ceilings {
    pub async fn measure(gpu: &Gpu) -> Result<Self> {
        let started = Instant::now();
        while !gpu.is_software() && started.elapsed() < WAKE_UP {
            read_rate(gpu).await?;
        }
        Ok(Self {
            read_gb_per_second: read_rate(gpu).await?,
            copy_gb_per_second: copy_rate(gpu).await?,
            multiply_gflop_per_second: multiply_rate(gpu).await?,
            matrix_gflop_per_second: matrix_rate(gpu).await?,
        })
    }

    /// GB/s that no kernel moves more than, and their name: of reading, as most kernels do little else, but where a
    /// software adapter's loads cost it more than memory does, copying moves more bytes.
    pub fn memory(&self) -> (f64, &'static str) {
        if self.read_gb_per_second >= self.copy_gb_per_second {
            (self.read_gb_per_second, "reading")
        } else {
            (self.copy_gb_per_second, "copy")
        }
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
        writeln!(f, "  read            {:.1} GB/s", self.read_gb_per_second)?;
        writeln!(f, "  copy            {:.1} GB/s", self.copy_gb_per_second)?;
        writeln!(f, "  multiply, f32   {:.1} GFLOP/s", self.multiply_gflop_per_second)?;
        self.matrix_gflop_per_second.map_or(Ok(()), |rate| writeln!(f, "  matrix units    {rate:.1} GFLOP/s"))
    }
}

/// GB/s of reading on the device. What is written besides is little.
async fn read_rate(gpu: &Gpu) -> Result<f64> {
    let words = (BYTES.min(gpu.max_binding_bytes()) / 16 * 4) as usize;
    let from = gpu.tensor::<u32>(Class::Scratch, "from", words);
    let out = gpu.tensor::<u32>(Class::Scratch, "out", reading::outputs(words));
    rate(gpu, 4 * words as u64, |rec| read(rec, &from, words, &out)).await
}

/// GB/s of a copy on the device, read and written bytes together.
async fn copy_rate(gpu: &Gpu) -> Result<f64> {
    let words = ((BYTES / 2).min(gpu.max_binding_bytes()) / 4) as usize;
    let [from, to] = ["from", "to"].map(|label| gpu.tensor::<u32>(Class::Scratch, label, words));
    rate(gpu, 8 * words as u64, |rec| copy(rec, &from, &to, words)).await
}

/// GFLOP/s of a loop of multiplications and additions.
async fn multiply_rate(gpu: &Gpu) -> Result<f64> {
    let out = gpu.tensor::<f32>(Class::Scratch, "out", MULTIPLIERS);
    // A value that neither vanishes nor grows: it ends at 4.
    let record = |rec: &mut Recorder, rounds| multiply(rec, &out, rounds, 0.75, 1.0);
    let rounds = long_enough(gpu, record).await?;
    rate(gpu, scalar::operations(MULTIPLIERS, rounds), |rec| record(rec, rounds)).await
}

/// GFLOP/s of a loop of products on matrix units, if kernels use them.
async fn matrix_rate(gpu: &Gpu) -> Result<Option<f64>> {
    if !gpu.tuning().matrix_units || gpu.try_kernel(&matrices::key()).await.is_err() {
        return Ok(None);
    }
    let [lefts, rights, outputs] = matrices::sizes();
    // Values that are not zeros: those would take less power, and a GPU would clock higher.
    let operand = |len| gpu.tensor_with(Class::Scratch, "operand", &Noise::new(1).values(len));
    let (left, right) = (operand(lefts), operand(rights));
    let count = MATRIX_MULTIPLIERS.min(gpu.max_binding_bytes() as usize / 4 / outputs);
    let out = gpu.tensor::<f32>(Class::Scratch, "out", count * outputs);
    let record = |rec: &mut Recorder, rounds| multiply_matrix(rec, &left, &right, rounds, count, &out);
    let rounds = long_enough(gpu, record).await?;
    Ok(Some(rate(gpu, matrices::operations(count, rounds), |rec| record(rec, rounds)).await?))
}

/// The rounds of what is recorded that last [`LONG_ENOUGH`].
async fn long_enough(gpu: &Gpu, record: impl Fn(&mut Recorder, u32) -> Result<()>) -> Result<u32> {
    let mut rec = Recorder::new(gpu);
    let mut rounds = 1;
    loop {
        record(&mut rec, rounds)?;
        let took = rec.submit_timed().done().await?.as_secs_f64();
        if took >= LONG_ENOUGH || rounds >= MOST_ROUNDS {
            return Ok(rounds);
        }
        rounds *= 2;
    }
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
    let before = gpu.counters().dispatches;
    // This compiles the shader and clears the buffers.
    round(&mut rec, &record, 1).await?;
    let dispatches = gpu.counters().dispatches - before;
    let (started, mut repeats) = (Instant::now(), 1);
    // A software adapter is never idle enough to be slower, and its rounds are long.
    while !gpu.is_software() && started.elapsed() < WARM_UP {
        let took = round(&mut rec, &record, 1).await?;
        repeats = ((ROUND / took).ceil() as u64).clamp(1, (MOST_DISPATCHES / dispatches.max(1)).max(1));
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(round(&mut rec, &record, repeats).await? / repeats as f64);
    }
    gpu.check()?;
    Ok(median(times).unwrap_or(f64::INFINITY))
}

/// Seconds of one submission with as many repeats.
async fn round(
    rec: &mut Recorder,
    record: &impl Fn(&mut Recorder) -> Result<()>,
    repeats: u64,
) -> Result<f64> {
    for _ in 0..repeats {
        record(rec)?;
    }
    Ok(rec.submit_timed().done().await?.max(Duration::from_nanos(1)).as_secs_f64())
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
