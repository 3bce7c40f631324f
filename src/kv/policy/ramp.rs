//! Budgets, and how they are spread over the layers.

use super::listed;
use crate::{Error, Result};

/// How many rows a policy may keep.
#[derive(Debug, Clone, PartialEq)]
pub enum Budget {
    /// This share of the prompt's rows, averaged over the layers; above 0, at most 1.
    Share(f32),
    /// This many rows a layer, averaged over the layers.
    Rows(usize),
    /// Exactly these rows, layer by layer.
    PerLayer(Vec<usize>),
    /// Another budget, shared by the layers in proportion to these weights, of which only the ratios matter.
    Weighted(Box<Budget>, Vec<f32>),
}

/// The least share that a falling schedule leaves to its deepest layers.
pub(super) const FLOOR: f64 = 0.1;

impl Budget {
    /// The same budget, shared by the layers in proportion to `weights`; exact rows stay as they are.
    pub(super) fn weighted(&self, weights: &[f32]) -> Self {
        match self {
            Self::PerLayer(_) => self.clone(),
            Self::Weighted(mean, _) => mean.weighted(weights),
            mean => Self::Weighted(Box::new(mean.clone()), weights.to_vec()),
        }
    }

    /// The budget in the words of a policy's key.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Share(share) => format!("share:{share}"),
            Self::Rows(rows) => format!("rows:{rows}"),
            Self::PerLayer(rows) => format!("layers:{}", listed(rows)),
            Self::Weighted(mean, weights) => format!("{}*{}", mean.key(), listed(weights)),
        }
    }

    /// The budget as a mean share of `rows`.
    pub(super) fn share(&self, rows: usize) -> Result<f64> {
        match self {
            Self::Share(share) if *share > 0.0 && *share <= 1.0 => Ok(f64::from(*share)),
            Self::Share(share) => {
                Err(Error::Invalid(format!("a keep ratio of {share} is not above 0 and at most 1; try 0.6")))
            }
            Self::Rows(0) => Err(Error::Invalid("a budget of 0 rows keeps nothing; try 256".to_owned())),
            Self::Rows(keep) => Ok((*keep as f64 / rows.max(1) as f64).min(1.0)),
            Self::PerLayer(list) => {
                let kept = |&n: &usize| n.min(rows) as f64;
                Ok(list.iter().map(kept).sum::<f64>() / (rows * list.len()).max(1) as f64)
            }
            Self::Weighted(mean, _) => mean.share(rows),
        }
    }

    /// Refuses an absolute budget that does not hold the rows which a policy keeps in any case.
    pub(super) fn refuse_below(&self, least: usize) -> Result<()> {
        match self {
            Self::Rows(keep) if *keep < least => Err(Error::Invalid(format!(
                "a budget of {keep} rows is below the {least} first and latest rows that are always kept; try {}",
                (2 * least).next_power_of_two()
            ))),
            Self::Weighted(mean, _) => mean.refuse_below(least),
            _ => Ok(()),
        }
    }

    /// Rows of each layer, never below `least`: as listed, by weights, or under a falling (`linear`) or an even
    /// schedule.
    pub(super) fn spread(
        &self,
        rows: usize,
        layers: usize,
        least: usize,
        falling: bool,
    ) -> Result<Vec<usize>> {
        let clamp = |keep: usize| keep.max(least).min(rows);
        let fits = |found: usize| match found == layers {
            true => Ok(()),
            false => Err(Error::Invalid(format!("the budget is for {found} layers, the model has {layers}"))),
        };
        self.refuse_below(if falling { 1 } else { least })?;
        let share = self.share(rows)?;
        if let Self::PerLayer(list) = self {
            fits(list.len())?;
            return Ok(list.iter().map(|&keep| clamp(keep)).collect());
        }
        if let Self::Weighted(_, weights) = self {
            fits(weights.len())?;
            if let Some(w) = weights.iter().find(|w| !(w.is_finite() && **w > 0.0)) {
                return Err(Error::Invalid(format!("a layer's weight of {w} is not a number above 0")));
            }
            return Ok(proportional(share * rows as f64, weights, least.min(rows), rows));
        }
        let shares = if falling { linear(share, layers) } else { vec![share; layers] };
        Ok(shares.iter().map(|s| clamp((s * rows as f64).round() as usize)).collect())
    }
}

/// Shares that fall evenly from 1 and average to `mean`: over all layers down to `2 mean - 1` when that is
/// above [`FLOOR`], else down to the floor within as many layers as the mean allows.
fn linear(mean: f64, layers: usize) -> Vec<f64> {
    let floor = FLOOR.max(2.0 * mean - 1.0).min(mean);
    let last = (layers - 1).max(1) as f64;
    let ramp = |width: f64| -> Vec<f64> {
        (0..layers).map(|l| floor + (1.0 - floor) * (1.0 - (l as f64 / last / width).min(1.0))).collect()
    };
    let average = |width: f64| ramp(width).iter().sum::<f64>() / layers as f64;
    let (mut narrow, mut wide) = (1e-6, 1.0);
    for _ in 0..60 {
        let middle = (narrow + wide) / 2.0;
        if average(middle) < mean { narrow = middle } else { wide = middle }
    }
    ramp(wide)
}

/// Rows in proportion to `weights`, from `least` to `most`, that average to `mean`: what one layer cannot take or
/// must have beyond its share, the others get or give.
pub(super) fn proportional(mean: f64, weights: &[f32], least: usize, most: usize) -> Vec<usize> {
    let rows =
        |unit: f64| weights.iter().map(move |&w| (unit * f64::from(w)).clamp(least as f64, most as f64));
    let (total, smallest) = (mean * weights.len() as f64, weights.iter().copied().fold(f32::MAX, f32::min));
    let (mut low, mut high) = (0.0, most as f64 / f64::from(smallest.max(f32::MIN_POSITIVE)));
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if rows(middle).sum::<f64>() < total { low = middle } else { high = middle }
    }
    // Rounding the running sum instead of each layer's rows keeps the mean.
    let mut sum = 0.0_f64;
    let whole = rows(low).map(|n| {
        let before = sum.round();
        sum += n;
        (sum.round() - before) as usize
    });
    whole.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_falls_from_one_and_keeps_its_mean() {
        for mean in [0.2, 0.4, 0.5, 0.55, 0.8, 1.0] {
            let shares = linear(mean, 30);
            assert!((shares[0] - 1.0).abs() < 1e-9 && shares.windows(2).all(|w| w[0] >= w[1]));
            let average = shares.iter().sum::<f64>() / 30.0;
            assert!((average - mean).abs() < 0.02, "mean {mean}: {average}");
        }
    }

    #[test]
    fn absurd_budgets_are_refused_with_numbers() {
        for budget in [Budget::Share(0.0), Budget::Share(1.5), Budget::Share(f32::NAN), Budget::Rows(0)] {
            assert!(budget.spread(100, 4, 8, true).is_err(), "{budget:?}");
        }
        let message = Budget::PerLayer(vec![1, 2]).spread(9, 3, 1, false).unwrap_err().to_string();
        assert!(message.contains('2') && message.contains('3'), "{message}");
    }

    #[test]
    fn weights_share_the_rows_within_their_bounds() {
        let weights = [2.15_f32, 0.67, 1.22, 0.54, 2.84, 0.1, 0.48];
        for (mean, least, most) in [(100.0, 36, 1000), (400.0, 36, 1000), (40.0, 36, 1000), (700.5, 0, 999)] {
            let rows = proportional(mean, &weights, least, most);
            let average = rows.iter().sum::<usize>() as f64 / weights.len() as f64;
            assert!((average - mean).abs() < 0.2, "{mean}: {rows:?}");
            assert!(rows.iter().all(|n| (least..=most).contains(n)), "{mean}: {rows:?}");
            // Between the bounds, rows are in the ratio of the weights.
            let inner = || (0..7).filter(|&l| rows[l] > least && rows[l] < most);
            let unit = |l: usize| rows[l] as f64 / f64::from(weights[l]);
            for (a, b) in inner().flat_map(|a| inner().map(move |b| (a, b))) {
                let half = |l: usize| 1.0 / f64::from(weights[l]);
                assert!((unit(a) - unit(b)).abs() <= half(a) + half(b), "{mean}: {rows:?}");
            }
        }
        assert_eq!(proportional(50.0, &[1.0, 3.0], 0, 1000), [25, 75]);
        assert_eq!(proportional(50.0, &[1.0, 3.0], 0, 60), [40, 60], "the rest goes to the other layer");
        assert_eq!(
            proportional(50.0, &[1.0, 9.0], 20, 1000),
            [20, 80],
            "the rest comes from the other layer"
        );
        assert_eq!(proportional(9.0, &[1.0, 9.0], 20, 1000), [20, 20], "no budget goes below the least");
    }

    #[test]
    fn only_means_are_weighted() {
        let even = Budget::Share(0.25).weighted(&[1.0; 4]);
        assert_eq!(even.spread(800, 4, 36, false).unwrap(), [200; 4]);
        let other = even.weighted(&[0.5, 1.5, 1.0, 1.0]);
        assert_eq!(other.spread(800, 4, 36, false).unwrap(), [100, 300, 200, 200]);
        assert_eq!(Budget::Rows(200).weighted(&[0.5, 1.5]).spread(800, 2, 36, false).unwrap(), [100, 300]);
        assert_eq!(Budget::PerLayer(vec![7, 9]).weighted(&[1.0; 2]), Budget::PerLayer(vec![7, 9]));
        for absurd in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(even.weighted(&[1.0, absurd]).spread(800, 2, 36, false).is_err(), "{absurd}");
        }
        let message = even.spread(800, 3, 36, false).unwrap_err().to_string();
        assert!(message.contains('4') && message.contains('3'), "{message}");
    }
}
