//! One measurement, and the file that keeps it when a run is interrupted.
//!
//! A line of the file is one finished cell: a key of everything that matters to it, and its numbers. A line that was
//! cut by an interruption is measured again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use benben::{Comparison, Divergence, Error, Result};
use serde::{Deserialize, Serialize};

use crate::cli::output::lock;
use crate::cli::{Failure, Outcome};

/// How a line begins.
const START: &[u8] = b"{\"key\":";

/// A continuation under one configuration, compared with the full cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Means over the tokens that count: all of a window, the answer of a trial.
    pub nll: f64,
    pub kl: f64,
    pub agrees: f64,
    /// Every token that counts is the most probable one.
    pub exact: bool,
    /// Every digit is, or there are none.
    pub digits: bool,
    /// The cache at the end of the prefix.
    pub kv_bytes: u64,
    pub kv_bytes_full_f16: u64,
    pub rows_per_layer: Vec<usize>,
    pub prefill_seconds: f64,
}

/// A generated answer under one configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    pub prompt_tokens: usize,
    pub prefill_seconds: f64,
    pub decode_tokens_per_second: f64,
    /// Bytes on the device beside the weights, at most.
    pub peak_bytes: u64,
    /// Bytes of the pools and tables of the cache, with room for the answer.
    pub pool_bytes: u64,
}

/// The numbers of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measured {
    Compared(Compared),
    Speed(Speed),
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    measured: Measured,
}

impl Compared {
    /// The last `answer` tokens count, and the last `digits` of them are digits.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the model predicts something that is no number.
    pub fn new(comparison: Comparison, (answer, digits): (usize, usize)) -> Result<Self> {
        let tokens = &comparison.tokens[comparison.tokens.len().saturating_sub(answer)..];
        let mean =
            |value: fn(&Divergence) -> f64| tokens.iter().map(value).sum::<f64>() / tokens.len() as f64;
        let (nll, kl) = (mean(|t| t.nll), mean(|t| t.kl));
        if !(nll.is_finite() && kl.is_finite()) {
            return Err(Error::Invalid(format!(
                "the loss of {answer} tokens is {nll} and their divergence {kl}; the model or its weights are damaged"
            )));
        }
        Ok(Self {
            nll,
            kl,
            agrees: mean(|t| f64::from(u8::from(t.agrees))),
            exact: tokens.iter().all(|t| t.hits),
            digits: tokens[tokens.len().saturating_sub(digits)..].iter().all(|t| t.hits),
            kv_bytes: comparison.kv.bytes,
            kv_bytes_full_f16: comparison.kv.bytes_full_f16,
            rows_per_layer: comparison.kv.rows_per_layer,
            prefill_seconds: comparison.prefill.as_secs_f64(),
        })
    }
}

/// The finished cells.
#[derive(Debug)]
pub struct Cells {
    file: File,
    done: HashMap<String, Measured>,
}

impl Cells {
    /// Opens the file at `path`, or begins it. What follows the last whole line is cut off.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written, another program writes it, or it holds something else.
    pub fn open(path: &Path) -> Outcome<Self> {
        let fault = |error| Failure::save(path, error);
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = open.map_err(fault)?;
        lock(&file, path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(fault)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |i| i + 1);
        let lines = text[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let lines: Option<Vec<Line>> = lines.map(|line| serde_json::from_slice(line).ok()).collect();
        let cut = &text[whole..];
        let Some(lines) = lines.filter(|_| cut.starts_with(START) || START.starts_with(cut)) else {
            let path = path.display();
            let reason = format!(
                "{path} holds something else than measured cells; choose another --out, or delete the file"
            );
            return Err(Error::Invalid(reason).into());
        };
        file.set_len(whole as u64).map_err(fault)?;
        file.seek(SeekFrom::End(0)).map_err(fault)?;
        Ok(Self { file, done: lines.into_iter().map(|line| (line.key, line.measured)).collect() })
    }

    pub fn get(&self, key: &str) -> Option<&Measured> {
        self.done.get(key)
    }

    /// Keeps a finished cell, on the disk first.
    pub fn put(&mut self, key: String, measured: Measured) -> io::Result<()> {
        let line = Line { key, measured };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        self.done.insert(line.key, line.measured);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(rate: f64) -> Measured {
        Measured::Speed(Speed {
            prompt_tokens: 10,
            prefill_seconds: 0.1,
            decode_tokens_per_second: rate,
            peak_bytes: 7,
            pool_bytes: 5,
        })
    }

    #[test]
    fn a_cut_line_is_forgotten_and_the_next_one_stands_alone() {
        let path = std::env::temp_dir().join(format!("benben-cells-{}", std::process::id()));
        let mut cells = Cells::open(&path).unwrap();
        cells.put("a".to_owned(), speed(1.5)).unwrap();
        cells.put("b".to_owned(), speed(1.0 / 3.0)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(Cells::open(&path).unwrap_err().to_string().contains("another program writes it"));
        drop(cells);
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();

        let mut cells = Cells::open(&path).unwrap();
        assert_eq!((cells.get("a"), cells.get("b")), (Some(&speed(1.5)), None));
        cells.put("b".to_owned(), speed(1.0 / 3.0)).unwrap();
        drop(cells);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(Cells::open(&path).unwrap().get("b"), Some(&speed(1.0 / 3.0)));
        std::fs::write(&path, "notes that exist only here").unwrap();
        assert!(Cells::open(&path).unwrap_err().to_string().contains("choose another --out"));
        std::fs::remove_file(path).unwrap();
    }
}
