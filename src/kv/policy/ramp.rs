//! Budgets, and how they are spread over the layers.

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
}

/// The least share that a falling schedule leaves to its deepest layers.
pub(super) const FLOOR: f64 = 0.1;

impl Budget {
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
        }
    }

    /// Refuses an absolute budget that does not hold the rows which a policy keeps in any case.
    pub(super) fn refuse_below(&self, least: usize) -> Result<()> {
        match self {
            Self::Rows(keep) if *keep < least => Err(Error::Invalid(format!(
                "a budget of {keep} rows is below the {least} first and latest rows that are always kept; try {}",
                (2 * least).next_power_of_two()
            ))),
            _ => Ok(()),
        }
    }

    /// Rows of each layer, never below `least`, under a falling (`linear`) or an even schedule.
    pub(super) fn spread(
        &self,
        rows: usize,
        layers: usize,
        least: usize,
        falling: bool,
    ) -> Result<Vec<usize>> {
        let clamp = |keep: usize| keep.max(least).min(rows);
        if let Self::PerLayer(list) = self {
            if list.len() != layers {
                let found = list.len();
                return Err(Error::Invalid(format!(
                    "the list has rows for {found} layers, the model has {layers}"
                )));
            }
            return Ok(list.iter().map(|&keep| clamp(keep)).collect());
        }
        self.refuse_below(if falling { 1 } else { least })?;
        let share = self.share(rows)?;
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
}
