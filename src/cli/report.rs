//! Numbers for people, JSON for programs, and a stdout that may close at any time.

use std::fmt;
use std::io::{self, Write};

use benben::Session;
use serde::Serialize;

use super::Outcome;

/// Writes to stdout at once. `print!` would panic when whoever reads it has gone.
pub fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to stderr; if that is closed, nobody wants to know.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes one JSON object on one line of stdout.
pub fn json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string(value).map_err(io::Error::from)?;
    Ok(say(&(text + "\n"))?)
}

/// Bytes in the unit that leaves one to three digits before the point.
pub fn bytes(n: u64) -> String {
    match n as f64 {
        x if x < 1e3 => format!("{n} B"),
        x if x < 1e6 => format!("{:.1} kB", x / 1e3),
        x if x < 1e9 => format!("{:.2} MB", x / 1e6),
        x => format!("{:.2} GB", x / 1e9),
    }
}

/// How the last answer of a session went, in one line.
pub fn summary(session: &Session) -> String {
    let (timing, kv) = (session.timing(), session.kv());
    let mut tokens = format!("{} tokens", timing.answer_tokens);
    // The first token is part of the prefill; only those after it have a rate.
    if timing.answer_tokens > 1 {
        tokens += &format!(" at {:.1}/s", timing.decode_rate());
    }
    let host = kv.host.map_or(String::new(), |host| {
        format!("; {} rows on the host, {} pages recalled, {} hits", host.rows, host.recalls, host.hits)
    });
    format!(
        "{} prompt tokens at {:.1}/s, {tokens}; KV {}, {:.0} % of a full f16 cache ({}){host}; {}",
        timing.prompt_tokens,
        timing.prefill_rate(),
        bytes(kv.bytes),
        100.0 * kv.bytes as f64 / kv.bytes_full_f16.max(1) as f64,
        bytes(kv.bytes_full_f16),
        session.model().gpu().describe(),
    )
}

/// Rows of cells in aligned columns: the first to the left, the others to the right.
#[derive(Debug, Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for row in &self.0 {
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                if column == 0 { write!(f, "  {cell:<width$}")? } else { write!(f, "  {cell:>width$}")? }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        let shown = [0, 999, 23_040, 610_000, 2_340_000, 98_362_432, 7_000_000_000].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "23.0 kB", "610.0 kB", "2.34 MB", "98.36 MB", "7.00 GB"]);
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["kernel", "error"]);
        table.row(["größer".into(), "1".into()]);
        table.row(["x".into(), "12.5".into()]);
        assert_eq!(table.to_string(), "  kernel  error\n  größer      1\n  x        12.5\n");
    }
}
