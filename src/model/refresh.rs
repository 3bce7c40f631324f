//! Rows that leave a layer while a session goes on, and what the others are ranked by.

use super::Model;
use super::prefill::Block;
use super::scratch::{DecodeScratch, PrefillScratch};
use super::tally::{Tallies, Tally};
use crate::Result;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::kv_write::Rows;
use crate::kernels::rope_write::{Write, rope_write};
use crate::kernels::score::{Measure, Ramp};
use crate::kernels::seed::seed;
use crate::kernels::thin::{Cut, Thin, thin};
use crate::kv::policy::{Rank, SINKS, ThinStep};
use crate::kv::{Cache, Role};

impl Block {
    /// What the running sums of the next layer's rows begin with, if it is ranked by them: what its last queries paid on
    /// average.
    pub(super) fn seeded(&self) -> Option<Tally> {
        let Some(Rank::Attention { recent, .. }) = self.rank() else { return None };
        let measure = Measure { recent, ramp: Ramp::FLAT, averaged: true, by_value: false };
        Some(Tally { measure, per_head: self.per_head, forced: 0, columns: self.rows().enter })
    }
}

impl Model {
    /// Records that rows leave the main tiers of one layer of some sequences.
    pub fn thin_layer(
        &self,
        rec: &mut Recorder,
        d: &DecodeScratch,
        due: &mut [(&mut Cache, ThinStep)],
        l: usize,
    ) -> Result<()> {
        let of = |(cache, ThinStep { cut, score }): &(&mut Cache, ThinStep)| {
            let (main, start) = (cache.main(l), cut.start.saturating_sub(cache.shared_main(l)));
            (main.rows.clone(), main.live, Cut { start, ..*cut }, *score)
        };
        let leaving: Vec<_> = due.iter().map(of).collect();
        let thins = leaving.iter().map(|(rows, count, cut, score)| Thin {
            book: &rows.book,
            sets: rows.sets,
            count: *count,
            cut: *cut,
            score: *score,
        });
        thin(rec, &d.tables, &thins.collect::<Vec<_>>())?;
        for (cache, ThinStep { cut, .. }) in due {
            cache.drop_rows(l, cut.block - cut.keep);
        }
        Ok(())
    }

    /// Records the first sums of `count` rows that a block adds to a layer's main tier, where they will be ranked
    /// by attention.
    #[expect(clippy::too_many_arguments, reason = "a block and the rows that are chosen from it")]
    pub(super) fn seed_rows(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        cache: &Cache,
        block: &Block,
        chosen: Rows<'_>,
        count: usize,
        tallies: &Tallies,
    ) -> Result<()> {
        let Some(tally) = block.seeded() else { return Ok(()) };
        let (enter, main) = (block.rows().enter, cache.main(block.group()));
        seed(rec, tallies.sums(s, tally)?, enter, chosen, &main.rows, main.live, count, block.start + enter)
    }

    /// Records that a layer's first tokens follow its window, before the token at `position` attends to them: they
    /// stand as far from it as there are rows, and the rows that were dropped between them leave no gap.
    ///
    /// Each is rotated anew from what it was projected to, so that nothing adds up. `q` is overwritten.
    pub(super) fn follow(
        &self,
        rec: &mut Recorder,
        q: &Tensor<f32>,
        cache: &mut Cache,
        l: usize,
        position: usize,
    ) -> Result<()> {
        let skipped = position.saturating_sub(cache.rows(l));
        if !cache.skips_to(l, skipped) {
            return Ok(());
        }
        let mut next = 0;
        for tier in cache.layer(l).iter().filter(|tier| tier.role != Role::Tail) {
            for entry in 0..tier.live.min(SINKS - next) {
                let (projected, position) = (&cache.first_tokens(l)[next], skipped + next);
                let write = Write { rows: &tier.rows, entry, position, qkv_from: 0, q_from: 0 };
                rope_write(rec, projected, &self.rope(), true, &[write], q)?;
                next += 1;
            }
        }
        Ok(())
    }
}
