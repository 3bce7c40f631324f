//! A device's tuning from a short measurement: the choices that the kind of the adapter does not settle.

use std::time::Duration;

use super::attention_decode::{Attended, attention_decode};
use super::attention_parts::{Attend, Room, part_rows};
use super::check::Noise;
use super::kv_code::KvBits;
use super::kv_row::{Format, Heads};
use super::kv_sample::shuffled;
use super::matmul::{Rows, matmul, slices_len};
use super::matrix::{Epilogue, Matrix, RowFormat};
use super::matvec::matvec;
use super::matvec_dots::{To, matvec_dots};
use super::operand::Operand;
use super::part::Part;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Tensor, Tuning};

/// One way to tune a device, and how long its work took at best.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// The whole tuning.
    pub tuning: Tuning,
    /// Time on the device.
    pub best: Duration,
}

/// What was tried for each choice, and what came out.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The tuning that was fastest by more than measurements differ, else the default one.
    pub tuning: Tuning,
    /// Products of matrices with and without subgroups; empty where the device has none.
    pub subgroups: Vec<Trial>,
    /// Products of one row in f32 and by packed dot products; empty where those cannot be used.
    pub planes: Vec<Trial>,
    /// Decode attention by the parts that a head's rows are split into.
    pub attention_splits: Vec<Trial>,
}

/// Each trial's turns; they alternate, so that what else the machine does meets all of them.
const ROUNDS: usize = 15;
/// Dispatches of a turn: one alone is too short to time on a fast device.
const REPEATS: usize = 8;
/// The share of the time that another choice has to save.
const GAIN: f64 = 0.1;
const SPLITS: [u32; 5] = [4, 8, 16, 32, 64];
const ROWS: usize = 2048;

/// Measures for some seconds what suits the device best, whatever it is tuned to now.
///
/// # Errors
/// What the device refuses.
pub async fn tune(gpu: &Gpu) -> Result<Tuned> {
    let mut tuning = gpu.default_tuning();
    let mut subgroups = Vec::new();
    if tuning.subgroups {
        let tunings = [tuning, Tuning { subgroups: false, ..tuning }];
        let (matrix, x, out) = product(&gpu.with_tuning(tuning))?;
        let slices = gpu.tensor(Class::Scratch, "tuning", slices_len(tuning, BLOCK, Rows::Block));
        subgroups = race(gpu, &tunings, |rec| {
            matvec(rec, &matrix, &x, None, Epilogue::Store, &out)?;
            matmul(rec, &matrix, &x, BLOCK, Rows::Block, Epilogue::Store, &out, &slices)
        })
        .await?;
        tuning = fastest(tuning, &subgroups);
    }
    let mut planes = Vec::new();
    if tuning.can_quantise() {
        let tunings = [0, 2].map(|planes| Tuning { planes, ..tuning });
        let (matrix, x, out) = product(&gpu.with_tuning(tuning))?;
        let operand = Operand::new(gpu, 1, matrix.cols());
        planes = race(gpu, &tunings, |rec| match rec.gpu().tuning().planes {
            0 => matvec(rec, &matrix, &x, None, Epilogue::Store, &out),
            _ => matvec_dots(rec, &matrix, &operand, 1, None, To::Store(&out)),
        })
        .await?;
        tuning = fastest(tuning, &planes);
    }
    let tunings = SPLITS.map(|attention_splits| Tuning { attention_splits, ..tuning });
    let heads = Heads { query: 16, kv: 4, dim: 64 };
    let most = SPLITS.into_iter().max().unwrap_or(1) as usize;
    // So many that each number of parts is another: fewer rows make fewer parts.
    let live = ROWS.max(most * part_rows(tuning, heads));
    let rows = shuffled(gpu, &mut Noise::new(1), heads, Format::both(KvBits::Four), live, 1)?.0;
    let f32s = |len: usize| gpu.tensor::<f32>(Class::Scratch, "tuning", len);
    let (q, out) = (f32s(heads.q_width()), f32s(heads.q_width()));
    let rooms = f32s(Room::new(heads, most, 0).values());
    let arrived = gpu.tensor(Class::Scratch, "tuning", heads.query);
    let attention_splits = race(gpu, &tunings, |rec| {
        let to = Attended { rooms: &rooms, out: &out, operand: None, arrived: &arrived };
        attention_decode(rec, &q, 1.0, &[Attend::alone(&rows, live)], to)
    })
    .await?;
    gpu.check()?;
    Ok(Tuned { tuning: fastest(tuning, &attention_splits), subgroups, planes, attention_splits })
}

/// Input rows of the product with many.
const BLOCK: usize = 64;

/// A 4-bit matrix, input rows for it, and room for the output of all of them.
fn product(gpu: &Gpu) -> Result<(Matrix, Tensor<f32>, Tensor<f32>)> {
    let (rows, cols, format) = (1024, 1024, RowFormat::Q4);
    let words = gpu.tensor(Class::Scratch, "tuning", rows * format.words_per_row(cols));
    let scales = gpu.tensor(Class::Scratch, "tuning", rows * format.scales_per_row(cols));
    let matrix = Matrix::new(cols, vec![Part::new(&mut Recorder::new(gpu), 0, rows, format, words, scales)?]);
    let f32s = |len: usize| gpu.tensor(Class::Scratch, "tuning", len);
    Ok((matrix, f32s(BLOCK * cols), f32s(BLOCK * rows)))
}

/// Times the same work under several tunings, in turn.
async fn race(
    gpu: &Gpu,
    tunings: &[Tuning],
    record: impl Fn(&mut Recorder) -> Result<()>,
) -> Result<Vec<Trial>> {
    let mut recorders: Vec<Recorder> =
        tunings.iter().map(|&tuning| Recorder::new(&gpu.with_tuning(tuning))).collect();
    let mut trials: Vec<Trial> =
        tunings.iter().map(|&tuning| Trial { tuning, best: Duration::MAX }).collect();
    for round in 0..=ROUNDS {
        for (rec, trial) in recorders.iter_mut().zip(&mut trials) {
            (0..REPEATS).try_for_each(|_| record(rec))?;
            let took = rec.submit_timed().done().await?;
            // The first turn compiles the shaders.
            if round > 0 {
                trial.best = trial.best.min(took);
            }
        }
    }
    Ok(trials)
}

/// The fastest trial's tuning, if it saves enough beside the one of `now`.
fn fastest(now: Tuning, trials: &[Trial]) -> Tuning {
    let current = trials.iter().find(|trial| trial.tuning == now).map_or(Duration::MAX, |trial| trial.best);
    let enough = current.as_secs_f64() * (1.0 - GAIN);
    let best = trials.iter().min_by_key(|trial| trial.best).filter(|trial| trial.best.as_secs_f64() < enough);
    best.map_or(now, |trial| trial.tuning)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::gpu;
    use super::*;

    #[test]
    fn a_choice_changes_only_for_a_clear_gain() {
        let now = gpu().tuning();
        let other = Tuning { attention_splits: now.attention_splits + 1, ..now };
        let trial = |tuning, micros| Trial { tuning, best: Duration::from_micros(micros) };
        assert_eq!(fastest(now, &[trial(now, 1000), trial(other, 920)]), now);
        assert_eq!(fastest(now, &[trial(now, 1000), trial(other, 890)]), other);
        assert_eq!(fastest(now, &[trial(now, 900), trial(other, 1000)]), now);
        assert_eq!(fastest(now, &[trial(other, 1000)]), other);
    }

    #[test]
    fn every_choice_is_measured() {
        // What a device was tuned to before does not narrow the choice.
        let gpu = gpu().with_tuning(Tuning { subgroups: false, ..gpu().tuning() });
        let tuned = pollster::block_on(tune(&gpu)).expect("the device runs the kernels");
        let trials = tuned.subgroups.iter().chain(&tuned.planes).chain(&tuned.attention_splits);
        let times = trials.map(|trial| trial.best);
        assert_eq!(tuned.planes.len(), if gpu.default_tuning().can_quantise() { 2 } else { 0 });
        assert_eq!(tuned.subgroups.len(), if gpu.default_tuning().subgroups { 2 } else { 0 });
        assert_eq!(tuned.attention_splits.len(), SPLITS.len());
        assert!({ times }.all(|time| time > Duration::ZERO && time < Duration::MAX), "{tuned:?}");
        assert_eq!(tuned.tuning.family, gpu.tuning().family);
    }
}
