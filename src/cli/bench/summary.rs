//! What a suite found: for programs as JSON, for a terminal as a table.

use std::fmt;

use serde::Serialize;

use super::agreement::Agreement;
use super::cell::{Cell, Measured};
use crate::cli::measure::Ceilings;
use crate::cli::report::{Table, bytes};

/// What `--json` prints of a suite.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub suite: String,
    pub program: String,
    /// Seconds since 1970 when it began.
    pub time: u64,
    pub model: String,
    pub weights: String,
    pub weight_bytes: u64,
    pub adapter: String,
    #[serde(flatten)]
    pub ceilings: Ceilings,
    /// Sequences had random rows in the place of those of their prompts.
    pub random_rows: bool,
    pub cells: Vec<Row>,
    pub packs: Vec<Pack>,
}

/// A cell and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub cell: Cell,
    /// What the plan says of all its sequences' caches, once their contexts are full.
    pub plan_kv_bytes: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a cell.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    Measured(Measured),
    /// The plan says that there is no room.
    DoesNotFit {
        reason: String,
    },
    Failed {
        reason: String,
    },
}

/// How many sequences fit into the bytes that a batch under the first cache takes.
#[derive(Debug, Clone, Serialize)]
pub struct Pack {
    pub cache: String,
    pub prompt_tokens: usize,
    /// The batch under the first cache, and the bytes that its rows and tables take once all answers are whole.
    pub full_batch: usize,
    pub bytes: u64,
    /// Sequences under this cache that have room in them.
    pub batch: usize,
    /// As many were submitted to an engine with those bytes; the most that it let in at once. Absent, they were not.
    pub most_at_once: Option<usize>,
}

impl Row {
    pub fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Outcome::Measured(measured) => Some(measured),
            _ => None,
        }
    }

    /// Why there are no numbers.
    pub fn reason(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Measured(_) => None,
            Outcome::DoesNotFit { reason } | Outcome::Failed { reason } => Some(reason),
        }
    }
}

impl Summary {
    /// Cells of which an answer differs from that of the sequence alone by more than rounding explains.
    pub fn wrong(&self) -> impl Iterator<Item = (&Cell, &Agreement)> {
        let agreements = self.cells.iter().filter_map(|row| Some((&row.cell, &row.measured()?.agreement)));
        agreements.filter(|(_, agreement)| agreement.wrong > 0)
    }
}

/// A rate, with as many digits as matter.
pub fn rate(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(x) if x >= 100.0 => format!("{x:.0}"),
        Some(x) => format!("{x:.1}"),
    }
}

impl Measured {
    /// Sequences that are the same to the end, of those compared, the share of tokens before a difference, and what the
    /// differences are.
    pub fn agrees(&self) -> String {
        let a = &self.agreement;
        if a.sequences == 0 {
            return "-".to_owned();
        }
        let mut text = format!("{}/{}, {:.0} %", a.identical, a.sequences, 100.0 * a.share_before_difference);
        for (count, what) in [(a.near_ties, "near ties"), (a.wrong, "WRONG")] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { suite, model, weights, adapter, ceilings, .. } = self;
        let held = bytes(self.weight_bytes);
        writeln!(f, "suite {suite}: {model}, weights {weights} ({held}), on {adapter}\n{ceilings}")?;
        if self.random_rows {
            writeln!(f, "random rows, as many as each cache keeps of its prompt, which did not run\n")?;
        }
        let mut table = Table::new([
            "cache",
            "batch",
            "prompt",
            "answer",
            "prefill/s",
            "decode/s",
            "new/s",
            "ms/token",
            "first s",
            "KV",
            "peak",
            "same",
        ]);
        for row in &self.cells {
            let Cell { batch, prompt_tokens, new_tokens, cache } = &row.cell;
            let at = [cache.clone(), batch.to_string(), prompt_tokens.to_string(), new_tokens.to_string()];
            let [cache, batch, prompt, new] = at;
            let dash = || "-".to_owned();
            let cells = row.measured().map_or([(); 8].map(|()| dash()), |m| {
                [
                    rate(m.prefill_tokens_per_second),
                    rate(m.decode_tokens_per_second),
                    rate(Some(m.new_tokens_per_second)),
                    rate(m.ms_per_token),
                    format!("{:.2}", m.time_to_first_token_seconds),
                    bytes(m.kv_bytes),
                    bytes(m.peak_bytes),
                    m.agrees(),
                ]
            });
            let [prefill, decode, new_rate, ms, first, kv, peak, same] = cells;
            table.row([cache, batch, prompt, new, prefill, decode, new_rate, ms, first, kv, peak, same]);
        }
        write!(f, "{table}")?;
        for row in &self.cells {
            if let Some(reason) = row.reason() {
                let Cell { batch, prompt_tokens, cache, .. } = &row.cell;
                writeln!(f, "  {cache}, {batch} x {prompt_tokens}: {reason}")?;
            }
        }
        for (Cell { batch, prompt_tokens, cache, .. }, a) in self.wrong() {
            writeln!(
                f,
                "  {cache}, {batch} x {prompt_tokens}: {} of {} answers differ by more than rounding explains: where the \
                 first token differs, it lies {:.1e} of the largest logit below the best one, not {:.1e} at most",
                a.wrong, a.sequences, a.largest_margin, a.explained_margin
            )?;
        }
        for pack in &self.packs {
            writeln!(f, "  {pack}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cache, prompt_tokens, full_batch, batch, .. } = self;
        let ran = match self.most_at_once {
            Some(most) => format!("and {most} ran at once"),
            None => "but they were not run".to_owned(),
        };
        let taken = bytes(self.bytes);
        write!(
            f,
            "{batch} sequences of {prompt_tokens} tokens under {cache} in the {taken} of {full_batch}, {ran}"
        )
    }
}
