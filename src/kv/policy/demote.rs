//! Another policy, whose dropped rows stay in fewer bits instead of going.

use std::sync::Arc;

use super::{BlockPlan, LayerRows, Policy, Thinning};
use crate::Result;

/// What the other policy drops of a layer's rows, the layer's tail keeps.
#[derive(Debug, Clone)]
pub struct Demote {
    keeps: Arc<dyn Policy>,
}

impl Demote {
    /// Demotes what `keeps` does not keep.
    pub fn new(keeps: Arc<dyn Policy>) -> Self {
        Self { keeps }
    }
}

impl Policy for Demote {
    fn name(&self) -> &'static str {
        self.keeps.name()
    }

    fn key(&self) -> String {
        format!("demote/1 [{}]", self.keeps.key())
    }

    fn plan(&self, rows: usize, layers: usize) -> Result<BlockPlan> {
        let mut plan = self.keeps.plan(rows, layers)?;
        for layer in &mut plan.layers {
            *layer =
                LayerRows { retain: layer.enter, tail: layer.enter - layer.retain + layer.tail, ..*layer };
        }
        Ok(plan)
    }

    fn one_shot(&self) -> bool {
        self.keeps.one_shot()
    }

    fn per_head(&self) -> bool {
        self.keeps.per_head()
    }

    fn weighted(&self, weights: &[f32]) -> Option<Arc<dyn Policy>> {
        Some(Arc::new(Self::new(self.keeps.weighted(weights)?)))
    }

    fn thinning(&self) -> Option<Thinning> {
        self.keeps.thinning()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, H2o, Pyramid};
    use super::*;

    #[test]
    fn every_row_that_enters_a_layer_stays_in_one_tier_or_the_other() {
        let policies: [Arc<dyn Policy>; 2] =
            [Arc::new(H2o::new(Budget::Share(0.3))), Arc::new(Pyramid::with_budget(Budget::Share(0.5)))];
        for policy in policies {
            let plain = policy.plan(500, 20).unwrap();
            let demoted = Demote::new(policy).plan(500, 20).unwrap();
            for (plain, demoted) in plain.layers.iter().zip(&demoted.layers) {
                assert_eq!((demoted.enter, demoted.retain), (plain.enter, plain.enter));
                assert_eq!(demoted.tail, plain.enter - plain.retain);
                assert_eq!(demoted.propagate, plain.propagate);
            }
            assert!(demoted.layers.iter().any(|layer| layer.tail > 0));
        }
    }
}
