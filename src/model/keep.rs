//! Where the rows of a block go at the end of a layer: into the tiers of its cache, or to the host.

use super::Model;
use super::prefill::Block;
use super::scratch::{MAIN, ON, PrefillScratch, TAIL};
use super::tally::Tallies;
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::centre::centre;
use crate::kernels::kv_write::{Rows, kv_write};
use crate::kernels::select::select;
use crate::kv::policy::SINKS;
use crate::kv::{Cache, Role, TierRows};

/// Rows that a first block has at least, for the mean of its keys to stand for those of the rows to come.
const CENTRED: usize = 16;

impl Model {
    /// Packs the rows that each tier gains.
    #[expect(clippy::too_many_arguments, reason = "a block, and what was decided about its rows")]
    pub(super) fn keep(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        cache: &Cache,
        block: &Block,
        gains: TierRows,
        merged: bool,
        tallies: &Tallies,
        prefix: usize,
    ) -> Result<()> {
        let (l, positions) = (block.group(), &s.positions);
        let listed = block.lists(gains);
        let basis = cache.basis(l);
        if prefix == 0 && basis.k_rotated {
            // The mean of a handful of rows says more of these than of the rows to come: then it is none's.
            let enter = block.rows().enter;
            let first = if enter < CENTRED { enter } else { SINKS };
            centre(rec, &s.k, self.config.heads.kv_width(), first, enter, &basis.centre)?;
        }
        for tier in cache.own(l) {
            let count = gains.of(tier.role);
            let list = |list: usize| match merged {
                true => Rows::Merged(s.index[list].bind(), count, s.scores.bind(), block.rows().enter),
                false => Rows::Listed(s.index[list].bind(), count),
            };
            let rows = match tier.role {
                Role::Sinks => Rows::From(0),
                Role::Tail => list(TAIL),
                Role::Main if listed => list(MAIN),
                Role::Main => Rows::From(gains.sinks),
            };
            kv_write(rec, &s.k, &s.v, prefix, positions.bind(), rows, &tier.rows, tier.live, count)?;
            if tier.role == Role::Main {
                self.seed_rows(rec, s, cache, block, rows, count, tallies)?;
            }
        }
        Ok(())
    }

    /// Sends the rows that the layer drops to the host, if it is to keep them.
    pub(super) fn offload(
        &self,
        rec: &mut Recorder,
        s: &PrefillScratch,
        cache: &mut Cache,
        block: &Block,
        prefix: usize,
    ) -> Result<()> {
        let (l, rows) = (block.group(), block.rows());
        let (columns, count) = (rows.enter - rows.protected, rows.enter - rows.retain);
        let Some(staging) = cache.staging(l).filter(|_| count > 0) else { return Ok(()) };
        // All hidden rows go on, so that nothing else needs this list.
        let list = &s.index[ON];
        select(rec, &s.scores, staging.sets, columns, columns - count..columns, 0, list)?;
        let positions = s.positions.bind();
        let dropped = Rows::Listed(list.bind(), count);
        kv_write(rec, &s.k, &s.v, prefix, positions, dropped, &staging, 0, count)?;
        cache.offload(rec, l, &staging, block.start, count)
    }
}
