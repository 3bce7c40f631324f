//! PyramidInfer while it generates: rows that leave the recent window are thinned, a block at a time.
//!
//! Host arithmetic only. A block of `exceed` rows just older than the protected ones is due as soon as
//! `len - R - base` reaches `exceed`; exactly `R + 1` queries have then followed its last row, which is why two
//! running sums per row stand in for the attention matrix (see [`crate::kernels::accumulate`]).

use std::f64::consts::PI;

use crate::kernels::thin::{Cut, Score};

/// The constants of the decode rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thinning {
    /// Share of the first layer's rows that is recent.
    pub recent_ratio: f64,
    /// Limit of the keep ratio in the deepest layer.
    pub decay: f64,
    /// Keep ratio that the schedule is multiplied with.
    pub compress: f64,
    /// Rows in a block.
    pub exceed: usize,
    /// The newest query's weight, the oldest one's being 1.
    pub distance_weight: f64,
}

impl Thinning {
    /// The constants of every published configuration.
    pub const PUBLISHED: Self =
        Self { recent_ratio: 0.2, decay: 0.1, compress: 0.9, exceed: 16, distance_weight: 1.2 };

    /// Rows of a block that layer `layer` of `layers` keeps.
    pub fn keep(&self, layer: usize, layers: usize) -> usize {
        let fall = (1.0 + (PI * layer as f64 / layers as f64).cos()) / 2.0;
        let ratio = self.decay + (1.0 - self.decay) * fall;
        ((self.exceed as f64 * self.compress * ratio).floor() as usize).max(1)
    }
}

/// Rows that are due in one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThinStep {
    /// Which of them are up for selection, and how many stay.
    pub cut: Cut,
    /// What their sums say.
    pub score: Score,
}

/// Where the decode of one sequence stands, layer by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ThinningState {
    rule: Thinning,
    /// Per layer: rows that were there when counting began.
    start: Vec<usize>,
    /// The same, moved on with every block.
    base: Vec<usize>,
}

impl ThinningState {
    /// Starts after a prefill that left `rows` in each layer.
    pub fn new(rule: Thinning, rows: &[usize]) -> Self {
        Self { rule, start: rows.to_vec(), base: rows.to_vec() }
    }

    /// The rule.
    pub fn rule(&self) -> &Thinning {
        &self.rule
    }

    /// Table index of the first row of a layer that may ever be thinned: the last one that was there at the start.
    pub fn first(&self, layer: usize) -> usize {
        self.start[layer].saturating_sub(1)
    }

    /// Is a block due in layer `layer`, now that it holds `rows` and the first layer `first_rows`? If so, the
    /// caller thins, and the layer goes on with `rows - block + keep`.
    pub fn due(&mut self, layer: usize, rows: usize, first_rows: usize) -> Option<ThinStep> {
        let recent = (self.rule.recent_ratio * first_rows as f64).floor() as usize;
        let block = self.rule.exceed;
        if rows < recent + self.base[layer] + block {
            return None;
        }
        let start = rows.checked_sub(1 + recent + block)?;
        let keep = self.rule.keep(layer, self.base.len()).min(block);
        self.base[layer] = rows - block + keep - recent;
        let slope = (self.rule.distance_weight - 1.0) / recent.max(1) as f64;
        Some(ThinStep { cut: Cut { start, block, keep }, score: Score::Sloped(slope as f32) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `steps` tokens after a prompt of `prompt` rows; returns the first step that thins and the final rows.
    fn decode(prompt: usize, layers: usize, steps: usize) -> (Option<usize>, Vec<usize>) {
        let mut rows = vec![prompt; layers];
        let mut state = ThinningState::new(Thinning::PUBLISHED, &rows);
        let mut first = None;
        for step in 1..=steps {
            rows.iter_mut().for_each(|n| *n += 1);
            let first_rows = rows[0];
            for (l, rows) in rows.iter_mut().enumerate() {
                if let Some(ThinStep { cut, .. }) = state.due(l, *rows, first_rows) {
                    assert!(cut.start + 1 >= prompt, "the prompt's rows are never thinned");
                    *rows -= cut.block - cut.keep;
                    first.get_or_insert(step);
                }
            }
        }
        (first, rows)
    }

    #[test]
    fn the_first_block_is_due_when_the_rule_says() {
        // t >= (E + rho S) / (1 - rho): 147 for S = 512, with R counting the new token.
        let (first, _) = decode(512, 32, 200);
        assert_eq!(first, Some(147));
    }

    #[test]
    fn keeps_fall_from_fourteen_to_one() {
        let keeps: Vec<usize> = (0..32).map(|l| Thinning::PUBLISHED.keep(l, 32)).collect();
        assert_eq!((keeps[0], keeps[31]), (14, 1));
        let average = keeps.iter().sum::<usize>() as f64 / (32.0 * 16.0);
        assert!((average - 0.47).abs() < 0.01, "{average}");
    }

    #[test]
    fn sinks_and_prompt_survive_a_decode_ten_times_as_long() {
        let (_, rows) = decode(60, 30, 600);
        assert!(rows.iter().all(|&n| n > 60) && rows[29] < rows[0], "{rows:?}");
    }
}
