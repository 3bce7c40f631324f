//! Measurements → means with their errors, for each configuration.

use std::fmt;

use benben::Model;
use serde::Serialize;

use super::cells::{Cells, Compared, Measured, Speed};
use super::grid::Config;
use super::needles::{Kind, Mode};
use super::plan::{Job, Plan, Sizes};
use super::runner::counts;
use super::split::Split;

/// Everything that a report says.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub program: String,
    pub model: String,
    pub adapter: String,
    pub texts: Vec<String>,
    #[serde(flatten)]
    pub sizes: Sizes,
    /// One for each configuration, the full cache first.
    pub rows: Vec<Row>,
}

/// One configuration.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub policy: &'static str,
    /// The share of the bytes that was asked for.
    pub share: Option<f64>,
    pub bits: String,
    /// The bytes of the prefix's rows at the end of the prefill, as a share of a full f16 cache's.
    pub kv_share: Option<f64>,
    pub rows_per_layer: Vec<usize>,
    pub quality: Vec<(Split, Quality)>,
    pub speed: Vec<Speed>,
}

/// What one split says of a configuration.
#[derive(Debug, Serialize)]
pub struct Quality {
    pub text: Option<TextQuality>,
    pub needles: Vec<Recall>,
}

/// The loss of text after a compressed prefix. Errors are standard errors over windows.
#[derive(Debug, Clone, Serialize)]
pub struct TextQuality {
    pub windows: usize,
    pub perplexity: f64,
    /// Perplexity as a multiple of the full cache's: the geometric mean over windows.
    pub ratio: f64,
    /// Of the mean log ratio.
    pub ratio_error: Option<f64>,
    pub worst_ratio: f64,
    /// KL(full ‖ this) a token, in nats.
    pub kl: f64,
    pub kl_error: Option<f64>,
    /// The share of tokens whose most probable prediction is the full cache's.
    pub agrees: f64,
}

/// Needles of one kind, asked for in one mode.
#[derive(Debug, Serialize)]
pub struct Recall {
    pub kind: Kind,
    pub mode: Mode,
    #[serde(flatten)]
    pub tally: Tally,
    /// The mean loss of an answer token, in nats.
    pub nll: f64,
}

/// How many answers were right, of the trials whose digits the full cache finds in both modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub trials: usize,
    /// Every token of the answer was the most probable one.
    pub exact: usize,
    /// Every digit was.
    pub digits: usize,
}

impl Summary {
    pub fn new(plan: &Plan, cells: &Cells, model: &Model, texts: Vec<String>, sizes: Sizes) -> Self {
        Self {
            program: format!("benben {}", env!("CARGO_PKG_VERSION")),
            model: model.config().name.clone(),
            adapter: model.gpu().describe(),
            texts,
            sizes,
            rows: plan.configs.iter().map(|config| Row::new(plan, cells, config)).collect(),
        }
    }

    /// What a split says of every configuration.
    pub fn of(&self, split: Split) -> Vec<(&Row, &Quality)> {
        let own = |row: &'_ Row| row.quality.iter().position(|(other, _)| *other == split);
        self.rows.iter().filter_map(|row| Some((row, &row.quality[own(row)?].1))).collect()
    }

    /// Which splits there are.
    pub fn splits(&self) -> Vec<Split> {
        self.rows.first().map_or(Vec::new(), |row| row.quality.iter().map(|(split, _)| *split).collect())
    }
}

/// A job that counts, under one configuration and under the full cache.
struct Pair<'a> {
    job: &'a Job,
    found: &'a Compared,
    full: &'a Compared,
}

impl Row {
    fn new(plan: &Plan, cells: &Cells, config: &Config) -> Self {
        let compared = |job, config| match cells.get(&plan.key(job, config)) {
            Some(Measured::Compared(compared)) => Some(compared),
            _ => None,
        };
        let jobs = plan.groups.iter().filter(|group| counts(plan, group, cells)).flatten();
        let pairs: Vec<Pair> = jobs
            .filter_map(|job| {
                Some(Pair { job, found: compared(job, config)?, full: compared(job, &plan.configs[0])? })
            })
            .collect();
        let quality = |split| {
            let own: Vec<&Pair> = pairs.iter().filter(|pair| pair.job.split == split).collect();
            (!own.is_empty()).then(|| (split, Quality::new(&own)))
        };
        let speed = |prompt: &Vec<u32>| match cells.get(&plan.prompt_key(prompt, config)) {
            Some(Measured::Speed(speed)) => Some(speed.clone()),
            _ => None,
        };
        // Windows are equally long; trials stand in where there is no window.
        let windows = pairs.iter().filter(|pair| pair.job.needle.is_none());
        let sized: Vec<&Pair> =
            if windows.clone().count() > 0 { windows.collect() } else { pairs.iter().collect() };
        let sum =
            |bytes: fn(&Compared) -> u64| sized.iter().map(|pair| bytes(pair.found)).sum::<u64>() as f64;
        Self {
            name: config.to_string(),
            policy: config.policy(),
            share: config.share,
            bits: config.bits(),
            kv_share: (!sized.is_empty()).then(|| sum(|c| c.kv_bytes) / sum(|c| c.kv_bytes_full_f16)),
            rows_per_layer: sized.first().map_or(Vec::new(), |pair| pair.found.rows_per_layer.clone()),
            quality: [Split::Tuned, Split::HeldOut].into_iter().filter_map(quality).collect(),
            speed: plan.prompts.iter().filter_map(speed).collect(),
        }
    }

    /// The measured share of the bytes, in percent.
    pub fn bytes(&self) -> String {
        self.kv_share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
    }
}

impl Quality {
    fn new(pairs: &[&Pair]) -> Self {
        let kinds = [Kind::SameTwice, Kind::OtherTwice, Kind::OtherOnce, Kind::Several];
        let needles = kinds.into_iter().flat_map(|kind| Mode::BOTH.map(|mode| (kind, mode)));
        Self {
            text: TextQuality::new(pairs),
            needles: needles.filter_map(|(kind, mode)| Recall::new(pairs, kind, mode)).collect(),
        }
    }

    /// Right answers in one mode, over the passkey trials or over those with several keys.
    pub fn tally(&self, mode: Mode, several: bool) -> Tally {
        let own = self.needles.iter().filter(|r| r.mode == mode && (r.kind == Kind::Several) == several);
        own.fold(Tally::default(), |sum, r| Tally {
            trials: sum.trials + r.tally.trials,
            exact: sum.exact + r.tally.exact,
            digits: sum.digits + r.tally.digits,
        })
    }
}

impl TextQuality {
    fn new(pairs: &[&Pair]) -> Option<Self> {
        let windows: Vec<_> = pairs.iter().filter(|pair| pair.job.needle.is_none()).collect();
        let values = |value: fn(&Pair) -> f64| windows.iter().map(|pair| value(pair)).collect::<Vec<_>>();
        let logs = values(|pair| pair.found.nll - pair.full.nll);
        let (ratio, ratio_error) = mean(&logs)?;
        let (kl, kl_error) = mean(&values(|pair| pair.found.kl))?;
        Some(Self {
            windows: windows.len(),
            perplexity: mean(&values(|pair| pair.found.nll))?.0.exp(),
            ratio: ratio.exp(),
            ratio_error,
            worst_ratio: logs.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp(),
            kl,
            kl_error,
            agrees: mean(&values(|pair| pair.found.agrees))?.0,
        })
    }
}

impl Recall {
    fn new(pairs: &[&Pair], kind: Kind, mode: Mode) -> Option<Self> {
        let found = pairs.iter().filter(|pair| pair.job.needle == Some((kind, mode))).map(|pair| pair.found);
        let found: Vec<&Compared> = found.collect();
        let (nll, _) = mean(&found.iter().map(|c| c.nll).collect::<Vec<_>>())?;
        let tally = Tally {
            trials: found.len(),
            exact: found.iter().filter(|c| c.exact).count(),
            digits: found.iter().filter(|c| c.digits).count(),
        };
        Some(Self { kind, mode, tally, nll })
    }
}

impl Tally {
    /// The share of trials whose digits were right, and Wilson's 95 % interval of it.
    pub fn interval(&self) -> Option<[f64; 3]> {
        const Z: f64 = 1.96;
        let n = self.trials as f64;
        let p = (self.trials > 0).then(|| self.digits as f64 / n)?;
        let centre = p + Z * Z / (2.0 * n);
        let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Some([p, (centre - spread) / scale, (centre + spread) / scale])
    }
}

impl fmt::Display for Tally {
    /// Digits, with the exact answers in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.trials == 0 {
            f.write_str("-")
        } else {
            write!(f, "{} ({}) / {}", self.digits, self.exact, self.trials)
        }
    }
}

/// The mean and its standard error, which takes two values; `None` of nothing.
fn mean(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let n = values.len() as f64;
    let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)?;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    Some((mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_errors_where_there_are_two() {
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[3.0]), Some((3.0, None)));
        assert_eq!(mean(&[1.0, 3.0]), Some((2.0, Some(1.0))));
    }

    #[test]
    fn intervals_are_wilsons() {
        let all = Tally { trials: 22, exact: 21, digits: 22 };
        let [p, low, high] = all.interval().unwrap();
        assert!(p == 1.0 && (low - 0.8513).abs() < 1e-3 && (high - 1.0).abs() < 1e-9, "{low} {high}");
        assert_eq!(all.to_string(), "22 (21) / 22");
        assert_eq!(Tally::default().interval(), None);
    }
}
