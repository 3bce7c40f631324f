//! Budgets that hold however long a session goes on: what each layer holds at most, and what goes to stay there.
//!
//! What a plan of the full context leaves in a layer is what the layer ever holds, whether the budget is a share or
//! a number of rows. While tokens are generated, rows are dropped a few at a time, in each layer at another token;
//! a later prompt block first makes room for itself. Host arithmetic only: two running sums per row
//! ([`mod@crate::kernels::observe`]) tell the device which rows go.

use super::thinning::ThinStep;
use super::{BlockPlan, SINKS};
use crate::Result;
use crate::kernels::thin::{Cut, Score};
use crate::kv::{KvOptions, TierRows, Tiers};

/// Rows that are dropped together, at most.
const EVERY: usize = 64;
/// One query in so many is observed, for as many.
const SAMPLE: usize = 8;
/// Queries at the end of a prompt whose attention tells what its rows receive on average.
const RECENT: usize = 128;

/// How the rows of a layer are ranked against each other once their prompt has run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// The oldest go first; the sinks follow the window, so that their distance stays what it is in a prompt.
    Age,
    /// Those that received least attention go first.
    Attention {
        /// The last queries of a prompt that say what its rows have received so far.
        recent: usize,
        /// What is left of the sums when a query is added.
        fade: f32,
        /// What the sums say.
        score: Score,
    },
}

impl Rank {
    /// All that a row ever received.
    pub const SUM: Self = Self::Attention { recent: usize::MAX, fade: 1.0, score: Score::Sloped(0.0) };
    /// The mean of what it received.
    pub const MEAN: Self = Self::Attention { recent: RECENT, fade: 1.0, score: Score::Mean };
    /// What it received last.
    pub const LAST: Self = Self::Attention { recent: 1, fade: 0.0, score: Score::Mean };
}

/// What one query adds to the sums of a layer's rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// What is left of the sums before.
    pub fade: f32,
    /// Queries that this one stands for.
    pub weight: f32,
}

/// What a layer that drops rows may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound {
    most: TierRows,
    /// The newest rows, which stay.
    window: usize,
}

impl Bound {
    /// Rows of the main tier that go together: few of a small tier.
    fn every(&self) -> usize {
        1 << (self.most.main / 8).clamp(1, EVERY).ilog2()
    }
}

/// The bounds of a session's layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    rank: Rank,
    /// First tokens that stay.
    sinks: usize,
    /// Absent where a layer keeps the whole context.
    layers: Vec<Option<Bound>>,
}

impl Bounds {
    /// The bounds that a policy sets on a session over `context` tokens, if it sets any.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] when the policy cannot be applied to such a context.
    pub fn new(options: &KvOptions, layers: usize, context: usize) -> Result<Option<Self>> {
        // What a merged row stands for takes the place of a running sum, so that nothing ranks it later; and what is
        // to come back from the host must not be gone.
        let keeps_all = options.merge || options.offload.is_some();
        let Some(rank) = options.policy.rank().filter(|_| !keeps_all) else { return Ok(None) };
        let plan = options.policy.plan(context, layers)?;
        let gains = plan.gains(&Tiers::new(options), true);
        let bound = |(rows, most): (&super::LayerRows, TierRows)| {
            // A row that no query was observed with has no score yet.
            let window = rows.protected.max(SAMPLE);
            (rows.retain < context).then_some(Bound { most, window })
        };
        let layers: Vec<_> = plan.layers.iter().zip(gains).map(bound).collect();
        let sinks = plan.sinks();
        Ok(layers.iter().any(Option::is_some).then_some(Self { rank, sinks, layers }))
    }

    /// How rows are ranked.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Rows that a layer's main tier holds at most, where it is bounded.
    pub fn most(&self, layer: usize) -> Option<usize> {
        self.layers[layer].map(|bound| bound.most.main)
    }

    /// Rows that any layer holds at most, if all are bounded.
    pub fn most_rows(&self) -> Option<usize> {
        let most = |bound: &Option<Bound>| bound.map(|bound| bound.most.total());
        self.layers.iter().map(most).try_fold(0, |m, rows| rows.map(|rows| m.max(rows)))
    }

    /// What goes from a layer that holds `rows` before the token at `position` adds another.
    pub fn due(&self, layer: usize, position: usize, rows: TierRows) -> Option<ThinStep> {
        let bound = self.layers[layer]?;
        let (most, every) = (bound.most.main, bound.every());
        let turn = (position + layer).is_multiple_of(every);
        let drop = rows.main.saturating_sub(most - every);
        (drop > 0 && (turn || rows.main >= most)).then(|| self.step(bound, rows, drop))
    }

    /// What goes from a layer that holds `rows` before a prompt block adds `gains`, which [`Bounds::fit`] allowed.
    pub fn make_room(&self, layer: usize, rows: TierRows, gains: TierRows) -> Option<ThinStep> {
        let bound = self.layers[layer]?;
        let drop = (rows.main + gains.main).saturating_sub(bound.most.main);
        (drop > 0).then(|| self.step(bound, rows, drop))
    }

    fn step(&self, bound: Bound, rows: TierRows, drop: usize) -> ThinStep {
        let sinks = self.sinks.saturating_sub(rows.sinks).min(rows.main);
        let drop = drop.min(rows.main - sinks);
        let window = bound.window.min(rows.main - sinks - drop);
        let block = rows.main - sinks - window;
        let score = match self.rank {
            Rank::Age => Score::Mean,
            Rank::Attention { score, .. } => score,
        };
        ThinStep { cut: Cut { start: sinks, block, keep: block - drop }, score }
    }

    /// What the query at `position` adds to the sums of a layer, if it is one that is observed: among others the
    /// last one before rows go.
    pub fn observes(&self, layer: usize, position: usize) -> Option<Observation> {
        let Rank::Attention { fade, .. } = self.rank else { return None };
        let sample = self.layers[layer]?.every().min(SAMPLE);
        let seen = (position + layer + 1).is_multiple_of(sample);
        seen.then_some(Observation { fade, weight: sample as f32 })
    }

    /// Takes back what a block's plan would leave beyond the bounds, in layers that hold `rows` now.
    ///
    /// A block after the first takes what is free, at least half of what a layer holds at most; ranked by age, all.
    pub fn fit(&self, plan: &mut BlockPlan, tiers: &Tiers, rows: &[TierRows], opens: bool) {
        let sinks = if opens { plan.sinks() } else { 0 };
        for ((layer, bound), rows) in plan.layers.iter_mut().zip(&self.layers).zip(rows) {
            let Some(Bound { most, .. }) = *bound else { continue };
            let by_age = self.rank == Rank::Age;
            let gains = layer.split(tiers, sinks);
            let wanted = if by_age && !opens { layer.enter } else { gains.main };
            let least = if by_age { most.main - SINKS.saturating_sub(rows.sinks) } else { most.main / 2 };
            let main = wanted.min(most.main.saturating_sub(rows.main).max(least));
            layer.tail = gains.tail.min(most.tail.saturating_sub(rows.tail));
            layer.retain = gains.sinks + layer.tail + main;
            layer.protected = match (by_age, opens) {
                (true, false) => main,
                _ => layer.protected.min(main),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, H2o, PyramidKv, Streaming};
    use super::*;
    use crate::kernels::kv_code::KvBits;
    use crate::kv::Format;

    fn rows(main: usize) -> TierRows {
        TierRows { main, ..TierRows::default() }
    }

    /// Runs `steps` tokens after rows that are as many as allowed; returns the fewest and the most rows since.
    fn decode(bounds: &Bounds, layer: usize, steps: usize) -> (usize, usize) {
        let most = bounds.most(layer).unwrap();
        let (mut now, mut range) = (most, (most, 0));
        for position in 1000..1000 + steps {
            if let Some(ThinStep { cut, .. }) = bounds.due(layer, position, rows(now)) {
                assert!(cut.start == 4 && cut.keep < cut.block && cut.start + cut.block <= now);
                now -= cut.block - cut.keep;
            }
            now += 1;
            range = (range.0.min(now), range.1.max(now));
        }
        range
    }

    #[test]
    fn layers_stay_within_their_bounds() {
        for budget in [9, 12, 36, 60, 200] {
            let options = KvOptions::new(H2o::new(Budget::Rows(budget)), Format::F16);
            let bounds = Bounds::new(&options, 5, 2000).unwrap().unwrap();
            for layer in 0..5 {
                let (fewest, most) = decode(&bounds, layer, 300);
                assert!(
                    most == budget && fewest > budget - budget.div_ceil(8).min(EVERY),
                    "{fewest}..{most}"
                );
            }
        }
    }

    #[test]
    fn layers_drop_at_different_tokens() {
        let options = KvOptions::new(H2o::new(Budget::Rows(256)), Format::F16);
        let bounds = Bounds::new(&options, 32, 2000).unwrap().unwrap();
        for position in 100..120 {
            let due = |&l: &usize| bounds.due(l, position, rows(255)).is_some();
            assert_eq!((0..32).filter(due).count(), 1);
            let seen = |&l: &usize| bounds.observes(l, position).is_some();
            assert_eq!((0..32).filter(seen).count(), 4);
        }
    }

    #[test]
    fn what_holds_the_context_is_not_bounded() {
        let bounds = |budget, context| {
            let options = KvOptions::new(PyramidKv::new(budget), Format::F16);
            Bounds::new(&options, 8, context).unwrap()
        };
        assert_eq!(bounds(Budget::Share(1.0), 500), None);
        assert_eq!(bounds(Budget::Rows(500), 500), None);
        let falling = bounds(Budget::Rows(300), 500).unwrap();
        assert_eq!(falling.most(0), None);
        assert!(falling.most(7).unwrap() < 200);
        assert_eq!(Bounds::new(&KvOptions::full(), 8, 500).unwrap(), None);
    }

    #[test]
    fn later_blocks_fit_in() {
        let four = Format::both(KvBits::Four);
        let fitted = |options: &KvOptions, block: usize, now: TierRows| {
            let bounds = Bounds::new(options, 1, 1000).unwrap().unwrap();
            let mut plan = options.policy.plan(block, 1).unwrap();
            let tiers = Tiers::new(options);
            bounds.fit(&mut plan, &tiers, &[now], false);
            let gains = plan.gains(&tiers, false)[0];
            let dropped = bounds.make_room(0, now, gains).map_or(0, |s| s.cut.block - s.cut.keep);
            (gains.main, dropped, plan.layers[0].protected)
        };
        let h2o = KvOptions::new(H2o::new(Budget::Rows(100)), Format::F16);
        assert_eq!(fitted(&h2o, 30, rows(60)), (30, 0, 15));
        assert_eq!(fitted(&h2o, 90, rows(60)), (50, 10, 45));
        assert_eq!(fitted(&h2o, 300, rows(10)), (90, 0, 50));
        let streaming = KvOptions::new(Streaming::new(Budget::Share(0.1)), four);
        let now = TierRows { sinks: 4, main: 96, tail: 0 };
        assert_eq!(fitted(&streaming, 20, now), (20, 20, 20));
        assert_eq!(fitted(&streaming, 300, now), (96, 96, 96));
    }
}
