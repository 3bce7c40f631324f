//! The summary of a suite as one self-contained HTML page: `page.html`, filled in.

use std::io;

use minijinja::context;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::cell::{Cell, Measured};
use super::summary::{Row, Summary, rate};
use crate::cli::page::{Axis, Plot, Point, Series, Titles, render, slot};
use crate::cli::report::bytes;

const PAGE: &str = include_str!("page.html");

/// The page's text.
///
/// # Errors
/// An error of the template.
pub fn document(summary: &Summary) -> io::Result<String> {
    let lines = Lines::of(&summary.cells);
    let rows: Vec<_> = summary.cells.iter().map(|row| Shown::new(summary, &lines, row)).collect();
    let legend: Vec<_> = lines.names.iter().map(|name| (slot(&lines.names, name), name)).collect();
    let packs: Vec<_> = summary.packs.iter().map(|pack| pack.to_string()).collect();
    let context = context! {
        summary => Value::from(Serde(summary)),
        weights => bytes(summary.weight_bytes),
        legend => Value::from(Serde(legend)),
        plots => Value::from(Serde(plots(summary, &lines))),
        rows => Value::from(Serde(rows)),
        packs => Value::from(Serde(packs)),
    };
    render(PAGE, context)
}

/// What a plot's lines stand for, and what they run over.
struct Lines {
    /// They run over batches, else over prompts.
    over_batches: bool,
    /// A line's name says the prompt's tokens, or the batch, too.
    both: bool,
    /// In order of appearance, the first cache first.
    names: Vec<String>,
}

impl Lines {
    fn of(rows: &[Row]) -> Self {
        let differ = |value: fn(&Cell) -> usize| {
            rows.first().is_some_and(|first| rows.iter().any(|row| value(&row.cell) != value(&first.cell)))
        };
        let (batches, prompts) = (differ(|cell| cell.batch), differ(|cell| cell.prompt_tokens));
        let mut lines =
            Self { over_batches: batches || !prompts, both: batches && prompts, names: Vec::new() };
        for row in rows {
            let name = lines.name(&row.cell);
            if !lines.names.contains(&name) {
                lines.names.push(name);
            }
        }
        lines
    }

    fn name(&self, cell: &Cell) -> String {
        if self.both { format!("{}, {} tokens", cell.cache, cell.prompt_tokens) } else { cell.cache.clone() }
    }

    fn x(&self, cell: &Cell) -> f64 {
        if self.over_batches { cell.batch as f64 } else { cell.prompt_tokens as f64 }
    }
}

/// A row of the page's table.
#[derive(Debug, Serialize)]
struct Shown {
    slot: usize,
    cell: Cell,
    prefill: Bar,
    decode: Bar,
    new_rate: String,
    ms: String,
    first: String,
    kv: Bar,
    peak: String,
    agrees: String,
    reason: Option<String>,
}

/// A number, and its share of the largest of its kind.
#[derive(Debug, Default, Serialize)]
struct Bar {
    text: String,
    share: f64,
}

impl Shown {
    fn new(summary: &Summary, lines: &Lines, row: &Row) -> Self {
        let bar = |show: fn(&Measured) -> String, value: fn(&Measured) -> f64| {
            let most = summary.cells.iter().filter_map(Row::measured).map(value).fold(1e-9, f64::max);
            row.measured().map(|m| Bar { text: show(m), share: value(m) / most }).unwrap_or_default()
        };
        let text = |show: fn(&Measured) -> String| row.measured().map(show).unwrap_or_default();
        Self {
            slot: slot(&lines.names, &lines.name(&row.cell)),
            cell: row.cell.clone(),
            prefill: bar(
                |m| rate(m.prefill_tokens_per_second),
                |m| m.prefill_tokens_per_second.unwrap_or(0.0),
            ),
            decode: bar(|m| rate(m.decode_tokens_per_second), |m| m.decode_tokens_per_second.unwrap_or(0.0)),
            new_rate: text(|m| rate(Some(m.new_tokens_per_second))),
            ms: text(|m| rate(m.ms_per_token)),
            first: text(|m| format!("{:.2} s", m.time_to_first_token_seconds)),
            kv: bar(|m| bytes(m.kv_bytes), |m| m.kv_bytes as f64),
            peak: text(|m| bytes(m.peak_bytes)),
            agrees: text(Measured::agrees),
            reason: row.reason().map(str::to_owned),
        }
    }
}

/// A plot's title, what to read from it, and what it shows of a cell.
type Drawn = (&'static str, &'static str, fn(&Measured) -> Option<f64>);

fn plots(summary: &Summary, lines: &Lines) -> Vec<Plot> {
    let x = if lines.over_batches { "sequences side by side" } else { "tokens of the prompt" };
    let all: [Drawn; 4] = [
        ("Decode, tokens per second", "All sequences together, while all generate; higher is better.", |m| {
            m.decode_tokens_per_second
        }),
        ("Milliseconds a token", "Between two tokens of one sequence; lower is better.", |m| m.ms_per_token),
        ("Seconds to the first token", "The median over the sequences; lower is better.", |m| {
            Some(m.time_to_first_token_seconds)
        }),
        ("KV cache in MB", "Live rows of all sequences when they were most; lower is better.", |m| {
            Some(m.kv_bytes as f64 / 1e6)
        }),
    ];
    let plot = |(title, note, value): Drawn| {
        let series = lines.names.iter().filter_map(|name| series(summary, lines, name, value)).collect();
        Plot::new(Titles { title, note, x }, Axis::Doublings, Axis::Amount, series)
    };
    all.into_iter().map(plot).collect()
}

/// A line's points, if there are any.
fn series(
    summary: &Summary,
    lines: &Lines,
    name: &str,
    value: impl Fn(&Measured) -> Option<f64>,
) -> Option<Series> {
    let own = summary.cells.iter().filter(|row| lines.name(&row.cell) == name);
    let point = |row: &Row| {
        let (x, y) = (lines.x(&row.cell), value(row.measured()?)?);
        let Cell { batch, prompt_tokens, .. } = row.cell;
        let tip = format!("{name}, {batch} x {prompt_tokens}: {:.4}", y);
        Some(Point { x, y, range: [y, y], tip })
    };
    let points: Vec<Point> = own.filter_map(point).collect();
    (!points.is_empty()).then(|| Series { slot: slot(&lines.names, name), points })
}

#[cfg(test)]
mod tests {
    use super::super::agreement::Agreement;
    use super::super::summary::{Outcome, Pack};
    use super::*;
    use crate::cli::measure::Ceilings;

    fn row(cache: &str, batch: usize, prompt_tokens: usize) -> Row {
        let measured = Measured {
            prefill_tokens_per_second: Some(200.0),
            decode_tokens_per_second: (batch > 1).then_some(30.0 * batch as f64),
            ms_per_token: Some(1e3 / 30.0),
            time_to_first_token_seconds: 2.5,
            seconds: 9.0,
            new_tokens_per_second: 7.0,
            most_at_once: batch,
            kv_bytes: (1_000_000 * batch) as u64,
            kv_bytes_full_f16: (5_000_000 * batch) as u64,
            kv_bytes_reserved: (1_200_000 * batch) as u64,
            peak_bytes: 90_000_000,
            step: None,
            agreement: Agreement {
                sequences: 4,
                identical: 3,
                near_ties: 1,
                share_before_difference: 0.9,
                ..Agreement::default()
            },
        };
        let cell = Cell { batch, prompt_tokens, new_tokens: 64, cache: cache.to_owned() };
        Row { cell, plan_kv_bytes: 1, outcome: Outcome::Measured(measured) }
    }

    fn summary(cells: Vec<Row>) -> Summary {
        Summary {
            suite: "batch".to_owned(),
            program: "benben".to_owned(),
            time: 0,
            model: "<Tiny> & model".to_owned(),
            weights: "q4".to_owned(),
            weight_bytes: 1,
            adapter: "an adapter".to_owned(),
            ceilings: Ceilings {
                read_gb_per_second: 12.0,
                copy_gb_per_second: 8.0,
                multiply_gflop_per_second: 90.0,
                matrix_gflop_per_second: Some(900.0),
            },
            random_rows: false,
            cells,
            packs: Vec::new(),
        }
    }

    #[test]
    fn the_page_stands_alone_and_shows_everything() {
        let mut cells: Vec<Row> = [1, 2, 4].map(|batch| row("full", batch, 512)).into();
        cells.extend([1, 2, 4].map(|batch| row("auto-12", batch, 512)));
        let reason = "no room for <it>".to_owned();
        cells.push(Row { outcome: Outcome::DoesNotFit { reason }, ..row("auto-12", 512, 512) });
        let mut summary = summary(cells);
        summary.packs.push(Pack {
            cache: "auto-12".to_owned(),
            prompt_tokens: 512,
            full_batch: 4,
            bytes: 20_000_000,
            batch: 33,
            most_at_once: None,
        });
        let page = document(&summary).unwrap();
        assert!(page.contains("&lt;Tiny&gt; &amp; model") && page.contains("no room for &lt;it&gt;"));
        for outside in ["http", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "the page asks for {outside}");
        }
        assert_eq!(page.matches("<polyline").count(), 4 * 2, "four plots of two caches");
        assert!(page.contains("33 sequences of 512 tokens") && page.contains("4, 90 %"));
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn wrong_answers_are_told() {
        let mut cell = row("full", 4, 512);
        if let Outcome::Measured(measured) = &mut cell.outcome {
            measured.agreement = Agreement::within(2e-3);
            measured.agreement.add_difference(0.25, Some(0.5));
        }
        let summary = summary(vec![row("full", 2, 512), cell]);
        assert_eq!(summary.wrong().count(), 1);
        let text = summary.to_string();
        assert!(
            text.contains("full, 4 x 512: 1 of 1 answers differ by more than rounding explains"),
            "{text}"
        );
        assert!(document(&summary).unwrap().contains("1 WRONG"));
    }

    #[test]
    fn lines_run_over_what_differs() {
        let lines = Lines::of(&[row("full", 1, 512), row("full", 1, 1024)]);
        assert!(!lines.over_batches && lines.names == ["full"]);
        let lines = Lines::of(&[row("full", 1, 512), row("full", 4, 1024)]);
        assert!(lines.over_batches && lines.names == ["full, 512 tokens", "full, 1024 tokens"]);
        assert!(document(&summary(Vec::new())).is_ok(), "a page of nothing is a page");
    }
}
