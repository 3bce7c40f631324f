//! Sequences or batches that take turns, so that what else the machine does meets all of them alike.

use std::time::Instant;

use benben::{Answer, Engine, EngineReport, Error, GenerateOptions, Result, Session};

use super::agreement::Agreement;
use super::cache::Cache;
use super::cell::{Bench, Cell, Measured, greedy, note_most};
use super::drive::{Drive, Timeline, drive};
use super::steps::{StepWork, Steps};
use crate::cli::measure::median;

/// Turns that count; the one before them compiles what they run.
const TURNS: usize = 8;
/// Tokens of a batch's turn whose steps were submitted in its last one.
const AHEAD: usize = 2;

/// A sequence or a batch, and what was measured of it.
struct Seat<T> {
    runs: T,
    /// Seconds until the first tokens: half of the sequences have one, all have.
    first: [f64; 2],
    /// Seconds between neighbouring tokens of a sequence.
    gaps: Vec<f64>,
    /// Seconds of all its turns.
    spent: f64,
    /// The most that was on the device, without the other seats.
    peak: u64,
}

struct Batch {
    engine: Engine,
    drive: Drive<Answer>,
    most: EngineReport,
    steps: Steps,
}

impl Batch {
    /// Goes on until every sequence has so many tokens.
    async fn until(&mut self, tokens: usize, bench: &Bench) -> Result<()> {
        let Self { engine, drive, most, steps } = self;
        steps.pause();
        let seen = || {
            note_most(most, engine);
            steps.note(engine.report().steps, bench.model.gpu().counters());
        };
        drive.until(tokens, bench.limit, seen).await
    }
}

impl Bench {
    /// Prefills one sequence for each cell, and then lets each generate a few tokens in turn.
    ///
    /// # Errors
    /// What the device refuses; [`Error::Invalid`] for an answer that is too short for its turns.
    pub async fn sequences(&mut self, cells: &[Cell], cache: &Cache) -> Result<Vec<Measured>> {
        let gpu = self.model.gpu().clone();
        cells.iter().try_for_each(|cell| turn_tokens(cell).map(drop))?;
        let (empty, mut seats) = (gpu.bytes().total(), Vec::new());
        // The first one runs twice: what it compiles is not to be timed.
        for cell in cells.first().into_iter().chain(cells) {
            gpu.reset_peak();
            let before = gpu.bytes().total();
            let mut session = self.session(cell, cache, 0)?;
            let first = self.answer(&mut session, 1).await?.first_token();
            let peak = gpu.bytes().peak - before + empty;
            seats.push(Seat { runs: session, first: [first; 2], gaps: Vec::new(), spent: 0.0, peak });
        }
        seats.remove(0);
        for turn in 0..=TURNS {
            for (seat, cell) in seats.iter_mut().zip(cells) {
                let times = self.answer(&mut seat.runs, turn_tokens(cell)?).await?;
                seat.gaps.extend(times.gaps_from(0).filter(|_| turn > 0));
                seat.spent += times.end();
            }
        }
        gpu.check()?;
        let measured = |(seat, cell): (&Seat<Session>, &Cell)| {
            let kv = seat.runs.kv();
            let held = EngineReport {
                sequences: 1,
                kv_bytes: kv.bytes,
                kv_bytes_full_f16: kv.bytes_full_f16,
                kv_bytes_reserved: self.plan(cell, cache)?.kv,
                ..EngineReport::default()
            };
            seat.measured(self, cell, &held, None, Agreement::default())
        };
        seats.iter().zip(cells).map(measured).collect()
    }

    async fn answer(&self, session: &mut Session, tokens: usize) -> Result<Timeline> {
        let options = GenerateOptions { max_tokens: tokens, ..greedy() };
        drive(vec![session.generate(&options)?], self.limit, || ()).await
    }

    /// Prefills the batch of each cell, and then lets each generate a few tokens in turn; the caches of a cell get so
    /// many bytes.
    ///
    /// # Errors
    /// As [`Bench::sequences`].
    pub async fn batches(&mut self, cells: &[(Cell, &Cache, u64)]) -> Result<Vec<Measured>> {
        let gpu = self.model.gpu().clone();
        for (cell, cache, _) in cells {
            turn_tokens(cell)?;
            for sequence in self.compared(cell.batch) {
                self.run_alone(cell, cache, sequence).await?;
            }
        }
        let (empty, mut seats) = (gpu.bytes().total(), Vec::new());
        for (cell, cache, kv_memory) in cells {
            gpu.reset_peak();
            let before = gpu.bytes().total();
            let (engine, answers) = self.start(cell, cache, *kv_memory)?;
            let (drive, most) = (Drive::new(answers), EngineReport::default());
            let mut runs = Batch { engine, drive, most, steps: Steps::default() };
            runs.until(1, self).await?;
            let first = [runs.drive.times.first_token(), runs.drive.times.every_first_token()];
            let peak = gpu.bytes().peak - before + empty;
            seats.push(Seat { runs, first, gaps: Vec::new(), spent: 0.0, peak });
        }
        for turn in 0..=TURNS {
            for (seat, (cell, ..)) in seats.iter_mut().zip(cells) {
                let (tokens, begun) = (turn_tokens(cell)?, Instant::now());
                let have = 1 + turn * tokens;
                seat.runs.until(have + tokens, self).await?;
                seat.spent += begun.elapsed().as_secs_f64();
                seat.gaps.extend(seat.runs.drive.times.gaps_from(have + AHEAD).filter(|_| turn > 0));
            }
        }
        gpu.check()?;
        let mut all = Vec::new();
        for (seat, (cell, cache, _)) in seats.iter().zip(cells) {
            let mut agreement = self.agreement(cache);
            for sequence in self.compared(cell.batch) {
                let together = seat.runs.drive.times.tokens(sequence);
                let count = 1 + (TURNS + 1) * turn_tokens(cell)?;
                self.compare(cell, cache, sequence, &together, count, &mut agreement).await?;
            }
            all.push(seat.measured(self, cell, &seat.runs.most, seat.runs.steps.work(), agreement)?);
        }
        Ok(all)
    }
}

impl<T> Seat<T> {
    fn measured(
        &self,
        bench: &Bench,
        cell: &Cell,
        held: &EngineReport,
        step: Option<StepWork>,
        agreement: Agreement,
    ) -> Result<Measured> {
        let [first, every_first] = self.first;
        let new_tokens = cell.batch * (1 + (TURNS + 1) * turn_tokens(cell)?);
        let (seconds, mean) =
            (every_first + self.spent, self.gaps.iter().sum::<f64>() / self.gaps.len() as f64);
        Ok(Measured {
            prefill_tokens_per_second: bench.prefill_rate(cell, every_first),
            decode_tokens_per_second: Some(cell.batch as f64 / mean),
            ms_per_token: median(self.gaps.clone()).map(|seconds| 1e3 * seconds),
            time_to_first_token_seconds: first,
            seconds,
            new_tokens_per_second: new_tokens as f64 / seconds,
            most_at_once: held.sequences,
            kv_bytes: held.kv_bytes,
            kv_bytes_full_f16: held.kv_bytes_full_f16,
            kv_bytes_reserved: held.kv_bytes_reserved,
            peak_bytes: self.peak,
            step,
            agreement,
        })
    }
}

/// Tokens of a turn: those of the answer, but for the first one, shared out.
fn turn_tokens(cell: &Cell) -> Result<usize> {
    let tokens = cell.new_tokens.saturating_sub(1) / (TURNS + 1);
    // What is measured is the time between two tokens that were not submitted before.
    let least = AHEAD + 2;
    if tokens < least {
        return Err(Error::Invalid(format!(
            "an answer of {} tokens is too short for {} turns; {} are enough",
            cell.new_tokens,
            TURNS + 1,
            least * (TURNS + 1) + 1
        )));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shared_out() {
        let of = |new_tokens| {
            let cell = Cell { batch: 1, prompt_tokens: 9, new_tokens, cache: "full".to_owned() };
            turn_tokens(&cell).map_err(|error| error.to_string())
        };
        assert_eq!(of(64), Ok(7));
        assert_eq!(of(37), Ok(4));
        assert!(of(36).unwrap_err().contains("37 are enough"));
    }
}
