//! What the page shows of one split: the best at each share, plots, and a table.

use serde::Serialize;

use super::needles::Mode;
use super::split::Split;
use super::summary::{Quality, Row, Summary, Tally, TextQuality};
use crate::cli::page::{Axis, Plot, Point, Series, Titles, slot};

/// One split: its cards, plots and table.
#[derive(Debug, Serialize)]
pub struct Side {
    id: String,
    title: &'static str,
    hint: &'static str,
    cards: Vec<Entry>,
    plots: Vec<Plot>,
    entries: Vec<Entry>,
}

/// A configuration's line in a split's table.
#[derive(Debug, Clone, Serialize)]
struct Entry {
    name: String,
    slot: usize,
    bytes: String,
    kv_share: f64,
    ratio: String,
    error: String,
    worst: String,
    kl: String,
    agrees: String,
    /// Passkey aware and agnostic, several keys aware and agnostic.
    tallies: Vec<Count>,
}

#[derive(Debug, Clone, Serialize)]
struct Count {
    text: String,
    share: Option<f64>,
}

impl Count {
    fn new(tally: Tally) -> Self {
        let share = tally.interval().map(|[share, ..]| share);
        let text = share.map_or("–".to_owned(), |_| format!("{}/{}", tally.digits, tally.trials));
        Self { text, share }
    }
}

impl Entry {
    fn new(policies: &[&str], row: &Row, quality: &Quality) -> Self {
        let text = |show: fn(&TextQuality) -> String| quality.text.as_ref().map_or("–".to_owned(), show);
        let tally = |mode, several| Count::new(quality.tally(mode, several));
        Self {
            name: row.name.clone(),
            slot: slot(policies, row.policy),
            bytes: row.bytes(),
            kv_share: row.kv_share.unwrap_or(0.0),
            ratio: text(|t| format!("{:.4}", t.ratio)),
            error: text(|t| t.ratio_error.map_or(String::new(), |e| format!("± {e:.4}"))),
            worst: text(|t| format!("{:.3}", t.worst_ratio)),
            kl: text(|t| format!("{:.4}", t.kl)),
            agrees: text(|t| format!("{:.1} %", 100.0 * t.agrees)),
            tallies: vec![
                tally(Mode::Aware, false),
                tally(Mode::Agnostic, false),
                tally(Mode::Aware, true),
                tally(Mode::Agnostic, true),
            ],
        }
    }
}

impl Side {
    pub fn new(summary: &Summary, policies: &[&str], split: Split) -> Self {
        let own = summary.of(split);
        let entry = |(row, quality): &(&Row, &Quality)| Entry::new(policies, row, quality);
        let (id, title, hint) = match split {
            Split::Tuned => ("tuned", "Tuned", "what one may look at while changing something"),
            Split::HeldOut => ("held-out", "Held out", "what was not looked at before"),
        };
        Self {
            id: id.to_owned(),
            title,
            hint,
            cards: cards(&own).iter().map(entry).collect(),
            plots: plots(policies, &own),
            entries: own.iter().map(entry).collect(),
        }
    }
}

/// For each share of the bytes, the configuration nearest to the full cache.
fn cards<'a>(own: &[(&'a Row, &'a Quality)]) -> Vec<(&'a Row, &'a Quality)> {
    let mut shares: Vec<f64> = own.iter().filter_map(|(row, _)| row.share).collect();
    shares.sort_by(|a, b| b.total_cmp(a));
    shares.dedup();
    let kl = |quality: &Quality| quality.text.as_ref().map_or(f64::INFINITY, |t| t.kl);
    let nearest = |share: &f64| {
        let same = own.iter().filter(|(row, _)| row.share == Some(*share));
        same.min_by(|a, b| kl(a.1).total_cmp(&kl(b.1))).copied()
    };
    shares.iter().filter_map(nearest).collect()
}

/// A value with what it may be at least and at most.
type Spread = (f64, [f64; 2]);

/// One line for each policy. The full f16 cache is the measure, not a point.
fn series(
    policies: &[&str],
    own: &[(&Row, &Quality)],
    value: impl Fn(&Quality) -> Option<Spread>,
) -> Vec<Series> {
    let mut all: Vec<(&str, Series)> = Vec::new();
    for (row, quality) in own.iter().skip(1) {
        let (Some((y, range)), Some(share)) = (value(quality), row.kv_share) else { continue };
        let tip = format!("{}: {} at {}", row.name, (y * 1e4).round() / 1e4, row.bytes());
        let point = Point { x: 100.0 * share, y, range, tip };
        match all.iter_mut().find(|(policy, _)| *policy == row.policy) {
            Some((_, series)) => series.points.push(point),
            None => all.push((row.policy, Series { slot: slot(policies, row.policy), points: vec![point] })),
        }
    }
    all.into_iter().map(|(_, series)| series).collect()
}

/// The loss of text in percent, one standard error to each side.
fn loss(quality: &Quality) -> Option<Spread> {
    let text = quality.text.as_ref()?;
    let (log, error) = (text.ratio.ln(), text.ratio_error.unwrap_or(0.0));
    let percent = |log: f64| 100.0 * log.exp_m1();
    Some((percent(log), [percent(log - error), percent(log + error)]))
}

fn divergence(quality: &Quality) -> Option<Spread> {
    let text = quality.text.as_ref()?;
    let error = text.kl_error.unwrap_or(0.0);
    Some((text.kl, [text.kl - error, text.kl + error]))
}

/// Needles found, in percent.
fn recall(mode: Mode) -> impl Fn(&Quality) -> Option<Spread> {
    move |quality| {
        let [share, low, high] = quality.tally(mode, false).interval()?.map(|x| 100.0 * x);
        Some((share, [low, high]))
    }
}

fn plots(policies: &[&str], own: &[(&Row, &Quality)]) -> Vec<Plot> {
    let all = [
        (
            "Perplexity above the full cache's",
            "Lower is better; bars are standard errors over windows.",
            Axis::Excess,
            series(policies, own, loss),
        ),
        (
            "Divergence a token, in nats",
            "KL from the full cache's predictions; lower is better.",
            Axis::Log,
            series(policies, own, divergence),
        ),
        (
            "Needles found, question first",
            "The policy has seen what will be asked; bars are 95 % intervals.",
            Axis::Share,
            series(policies, own, recall(Mode::Aware)),
        ),
        (
            "Needles found, question afterwards",
            "The policy could not know what will be asked.",
            Axis::Share,
            series(policies, own, recall(Mode::Agnostic)),
        ),
    ];
    let shown = all.into_iter().filter(|(.., series)| !series.is_empty());
    let plot = |(title, note, axis, series)| {
        let x = "bytes of the prompt's cache, share of full f16";
        Plot::new(Titles { title, note, x }, Axis::Excess, axis, series)
    };
    shown.map(plot).collect()
}
