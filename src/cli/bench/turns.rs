//! Sequences of different depths that take turns, so that what else the machine does meets all of them alike.

use benben::{Error, GenerateOptions, Result, Session};

use super::cache::Cache;
use super::cell::{Agreement, Bench, Cell, Measured, greedy};
use super::drive::{Timeline, drive};
use crate::cli::measure::median;

/// Turns of each sequence that count; the one before them compiles what they run.
const TURNS: usize = 8;

struct Seat {
    session: Session,
    /// Seconds until its first token.
    first: f64,
    /// Seconds between tokens.
    gaps: Vec<f64>,
}

impl Bench {
    /// Prefills one sequence for each cell, and then lets each generate a few tokens in turn.
    ///
    /// # Errors
    /// What the device refuses; [`Error::Invalid`] for an answer that is too short for its turns.
    pub async fn turns(&mut self, cells: &[Cell], cache: &Cache) -> Result<Vec<Measured>> {
        let gpu = self.model.gpu().clone();
        let mut seats: Vec<Seat> = Vec::new();
        // The first one runs twice: what it compiles is not to be timed.
        for cell in cells.first().into_iter().chain(cells) {
            gpu.reset_peak();
            let mut session = self.session(cell, cache, 0)?;
            let first = self.answer(&mut session, 1).await?.first_token();
            seats.push(Seat { session, first, gaps: Vec::new() });
        }
        seats.remove(0);
        for turn in 0..=TURNS {
            for (seat, cell) in seats.iter_mut().zip(cells) {
                let times = self.answer(&mut seat.session, turn_tokens(cell)?).await?;
                seat.gaps.extend(times.gaps().filter(|_| turn > 0));
            }
        }
        gpu.check()?;
        let peak = gpu.bytes().peak;
        seats.iter().zip(cells).map(|(seat, cell)| self.measured(seat, cell, cache, peak)).collect()
    }

    async fn answer(&self, session: &mut Session, tokens: usize) -> Result<Timeline> {
        let options = GenerateOptions { max_tokens: tokens, ..greedy() };
        drive(vec![session.generate(&options)?], self.limit, || ()).await
    }

    fn measured(&self, seat: &Seat, cell: &Cell, cache: &Cache, peak_bytes: u64) -> Result<Measured> {
        let (decode, tokens) = (seat.gaps.iter().sum::<f64>(), seat.gaps.len() as f64);
        let (seconds, kv) = (seat.first + decode, seat.session.kv());
        Ok(Measured {
            prefill_tokens_per_second: cell.prompt_tokens as f64 / seat.first,
            decode_tokens_per_second: Some(tokens / decode),
            ms_per_token: median(seat.gaps.clone()).map(|seconds| 1e3 * seconds),
            time_to_first_token_seconds: seat.first,
            seconds,
            new_tokens_per_second: (1.0 + tokens) / seconds,
            most_at_once: 1,
            kv_bytes: kv.bytes,
            kv_bytes_full_f16: kv.bytes_full_f16,
            kv_bytes_reserved: self.plan(cell, cache)?.kv,
            peak_bytes,
            agreement: Agreement::default(),
        })
    }
}

/// Tokens of a turn: those of the answer, but for the first one, shared out.
fn turn_tokens(cell: &Cell) -> Result<usize> {
    match cell.new_tokens.saturating_sub(1) / (TURNS + 1) {
        0 | 1 => Err(Error::Invalid(format!(
            "an answer of {} tokens is too short for {} turns; {} are enough",
            cell.new_tokens,
            TURNS + 1,
            2 * (TURNS + 1) + 1
        ))),
        tokens => Ok(tokens),
    }
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
        assert_eq!(of(19), Ok(2));
        assert!(of(18).unwrap_err().contains("19 are enough"));
    }
}
