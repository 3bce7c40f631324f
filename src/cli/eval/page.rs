//! The summary as one self-contained HTML page: `page.html`, filled in.

use std::io;

use minijinja::context;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::cells::Speed;
use super::runner::ANSWER;
use super::side::Side;
use super::summary::{Row, Summary};
use crate::cli::page::{render, slot};
use crate::cli::report::bytes;

const PAGE: &str = include_str!("page.html");

/// The page's text.
///
/// # Errors
/// An error of the template.
pub fn document(summary: &Summary) -> io::Result<String> {
    let policies = policies(summary);
    let legend: Vec<_> = policies.iter().map(|policy| (slot(&policies, policy), policy)).collect();
    let rows: Vec<_> = summary.rows.iter().map(|row| Shown::new(summary, &policies, row)).collect();
    let sides = summary.splits().into_iter().map(|split| Side::new(summary, &policies, split));
    let context = context! {
        summary => Value::from(Serde(summary)),
        answer => ANSWER,
        legend => Value::from(Serde(legend)),
        rows => Value::from(Serde(rows)),
        splits => Value::from(Serde(sides.collect::<Vec<_>>())),
    };
    render(PAGE, context)
}

/// The policies in order of appearance; the index is the slot of colour and shape, the full cache's is 0.
fn policies(summary: &Summary) -> Vec<&'static str> {
    let mut found = Vec::new();
    for row in &summary.rows {
        if !found.contains(&row.policy) {
            found.push(row.policy);
        }
    }
    found
}

/// What the page shows of a configuration whatever the split.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    slot: usize,
    bytes: String,
    /// Rows of each layer, as shares of the longest layer of the full cache.
    layers: Vec<f64>,
    mean_rows: String,
    speed: Vec<Timed>,
}

/// A timed prompt, with the lengths of its bars as shares of the longest.
#[derive(Debug, Serialize)]
struct Timed {
    prefill: String,
    prefill_bar: f64,
    decode: String,
    decode_bar: f64,
    pool: String,
    pool_bar: f64,
}

impl Shown {
    fn new(summary: &Summary, policies: &[&str], row: &Row) -> Self {
        let full = summary.rows.first().and_then(|full| full.rows_per_layer.iter().max());
        let most = full.copied().unwrap_or(1).max(1) as f64;
        let layers: Vec<f64> = row.rows_per_layer.iter().map(|&rows| rows as f64 / most).collect();
        let mean = layers.iter().sum::<f64>() / layers.len().max(1) as f64;
        let timed = |(i, s): (usize, &Speed)| {
            let most = |value: fn(&Speed) -> f64| {
                summary.rows.iter().filter_map(|row| row.speed.get(i)).map(value).fold(1e-9, f64::max)
            };
            Timed {
                prefill: format!("{:.2} s", s.prefill_seconds),
                prefill_bar: s.prefill_seconds / most(|s| s.prefill_seconds),
                decode: format!("{:.1} / s", s.decode_tokens_per_second),
                decode_bar: s.decode_tokens_per_second / most(|s| s.decode_tokens_per_second),
                pool: bytes(s.pool_bytes),
                pool_bar: s.pool_bytes as f64 / most(|s| s.pool_bytes as f64),
            }
        };
        Self {
            name: row.name.clone(),
            slot: slot(policies, row.policy),
            bytes: row.bytes(),
            mean_rows: format!("{:.0} % of the rows", 100.0 * mean),
            layers,
            speed: row.speed.iter().enumerate().map(timed).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::needles::{Kind, Mode};
    use super::super::plan::Sizes;
    use super::super::split::Split;
    use super::super::summary::{Quality, Recall, Tally, TextQuality};
    use super::*;

    fn quality(loss: f64) -> Quality {
        let text = TextQuality {
            windows: 3,
            perplexity: 20.0,
            ratio: 1.0 + loss,
            ratio_error: Some(loss / 3.0),
            worst_ratio: 1.0 + 2.0 * loss,
            kl: loss,
            kl_error: Some(loss / 9.0),
            agrees: 1.0 - loss,
        };
        let recall = |kind| {
            Mode::BOTH.map(|mode| {
                let missed = (loss * if mode == Mode::Aware { 60.0 } else { 250.0 }) as usize;
                let right = 11usize.saturating_sub(missed);
                Recall { kind, mode, tally: Tally { trials: 11, exact: right, digits: right }, nll: loss }
            })
        };
        let needles = [Kind::SameTwice, Kind::Several].into_iter().flat_map(recall).collect();
        Quality { text: Some(text), needles }
    }

    fn row(policy: &'static str, share: Option<f64>, loss: f64) -> Row {
        let kept = share.map_or(1536.0, |share| share * 3.2 * 1536.0);
        let speed = |prompt_tokens| Speed {
            prompt_tokens,
            prefill_seconds: prompt_tokens as f64 / 300.0,
            decode_tokens_per_second: 38.0 - 2.0 * share.unwrap_or(1.0),
            peak_bytes: 90_000_000,
            pool_bytes: (47e6 * share.unwrap_or(1.0)) as u64,
        };
        Row {
            name: share.map_or(policy.to_owned(), |share| format!("{policy} {} % 4-bit", 100.0 * share)),
            policy,
            share,
            bits: "4-bit".to_owned(),
            kv_share: Some(share.unwrap_or(1.0)),
            rows_per_layer: (0..30)
                .map(|l| (kept * (1.2 - f64::from(l) / 75.0)).min(1536.0) as usize)
                .collect(),
            quality: vec![(Split::Tuned, quality(0.7 * loss)), (Split::HeldOut, quality(loss))],
            speed: vec![speed(512), speed(2048)],
        }
    }

    fn summary() -> Summary {
        let mut rows = vec![row("full", None, 0.0)];
        for (policy, loss) in [("h2o", 0.003), ("snapkv", 0.004), ("joint", 0.0015)] {
            for share in [0.2, 0.12, 0.08] {
                rows.push(row(policy, Some(share), loss / share));
            }
        }
        Summary {
            program: "benben".to_owned(),
            model: "<Tiny> & model".to_owned(),
            adapter: "an adapter".to_owned(),
            texts: vec!["one".to_owned(), "two".to_owned()],
            sizes: Sizes {
                windows: 3,
                prefix: 1536,
                continuation: 512,
                trials: 11,
                multi_trials: 11,
                haystack: 900,
                contexts: vec![512, 2048],
            },
            rows,
        }
    }

    #[test]
    fn the_page_stands_alone_and_shows_everything() {
        let page = document(&summary()).unwrap();
        assert!(page.contains("&lt;Tiny&gt; &amp; model"), "names are escaped");
        for outside in ["http", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "the page asks for {outside}");
        }
        assert_eq!(page.matches("<section").count(), 2, "one for each split");
        assert_eq!(page.matches("<polyline").count(), 2 * 4 * 3, "four plots of three policies");
        assert_eq!(page.matches("class=\"card\"").count(), 2 * 3, "the nearest at each share");
        assert!(page.contains("joint 8 % 4-bit") && page.contains("1.0125"), "the numbers are there");
        assert!(!page.contains("NaN") && !page.contains("inf%"));
    }

    #[test]
    fn a_summary_without_text_or_needles_is_a_page_too() {
        let mut summary = summary();
        for (_, quality) in summary.rows.iter_mut().flat_map(|row| &mut row.quality) {
            quality.text = None;
        }
        assert_eq!(document(&summary).unwrap().matches("<polyline").count(), 2 * 2 * 3);
        summary.rows.truncate(1);
        assert_eq!(document(&summary).unwrap().matches("<polyline").count(), 0);
        summary.rows.clear();
        assert!(document(&summary).is_ok());
    }
}
