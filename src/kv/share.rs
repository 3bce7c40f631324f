//! Rows that several sequences read: what a fork copies nothing by, and what a later sequence begins with.
//!
//! Sharing freezes a sequence's tiers. From then on nobody writes to them: each sequence that holds them counts the
//! live rows that it sees, and grows tiers of its own behind them. Dropping rows that are shared means forgetting
//! them; whoever has to rearrange them first takes copies ([`Cache::unshare`]).
//!
//! ```text
//!   parent   [ shared sinks | shared main | its sinks | its main ]
//!                  ║              ║
//!   child    [ shared sinks | shared main | its sinks | its main ]
//! ```

use super::cache::{Cache, GRAIN, Layer};
use super::tier::{Role, Tier};
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::kv_copy::kv_copy;
use crate::kernels::kv_row::{Basis, KvRows};

/// Tiers of a layer, shared and own: each is a dispatch of every decode step, so more are copied together.
pub const MOST_TIERS: usize = 8;

/// The rows of a sequence at one moment. They are never written again; clones hold the same ones.
#[derive(Debug, Clone)]
pub struct SharedRows {
    layers: Vec<(Basis, Vec<Tier>)>,
}

impl SharedRows {
    /// The rows of the first `tokens` tokens, of a sequence that has dropped none.
    pub fn first(&self, tokens: usize) -> Self {
        let mut layers = self.layers.clone();
        for (_, tiers) in &mut layers {
            let mut left = tokens;
            for tier in tiers.iter_mut() {
                tier.live = tier.live.min(left);
                left -= tier.live;
            }
            tiers.retain(|tier| tier.live > 0);
        }
        Self { layers }
    }

    /// Bytes of the pools that they lie in.
    pub fn bytes(&self) -> u64 {
        let pool = |rows: &KvRows| {
            rows.slots().iter().map(|(tensor, _)| tensor.bytes()).sum::<u64>() + rows.book.bytes()
        };
        let layer = |(_, tiers): &(Basis, Vec<Tier>)| tiers.iter().map(|tier| pool(&tier.rows)).sum::<u64>();
        self.layers.iter().map(layer).sum()
    }
}

/// Records the copy of all live rows of a role, in order, to the first table entries of `to`; how many there are.
pub(super) fn copy_rows(rec: &mut Recorder, tiers: &[Tier], role: Role, to: &KvRows) -> Result<usize> {
    let mut count = 0;
    for tier in tiers.iter().filter(|tier| tier.role == role) {
        kv_copy(rec, &tier.rows, 0, to, count, tier.live)?;
        count += tier.live;
    }
    Ok(count)
}

impl Cache {
    /// The live rows, to be held by others as well. This cache goes on with empty tiers behind them.
    ///
    /// What was recorded must be submitted before another recorder uses the rows.
    ///
    /// # Errors
    /// What recording a copy may refuse.
    pub fn share(&mut self, rec: &mut Recorder) -> Result<SharedRows> {
        let live = |layer: &Layer| layer.tiers.iter().filter(|tier| tier.live > 0).count();
        let most = self.layers.iter().map(live).max().unwrap_or(0);
        if most + Role::ALL.len() > MOST_TIERS {
            self.unshare(rec)?;
        }
        let rows = self.held();
        if self.layers.iter().any(|layer| layer.tiers[layer.shared..].iter().any(|tier| tier.live > 0)) {
            self.adopt(rec, &rows)?;
        }
        Ok(rows)
    }

    /// The live rows, of a cache that no longer writes to their pools: one that is dropped or cleared next.
    pub fn held(&self) -> SharedRows {
        let live = |layer: &Layer| layer.tiers.iter().filter(|tier| tier.live > 0).cloned().collect();
        SharedRows { layers: self.layers.iter().map(|layer| (layer.basis.clone(), live(layer))).collect() }
    }

    /// Begins anew with shared rows.
    ///
    /// # Errors
    /// What recording a copy may refuse.
    pub fn adopt(&mut self, rec: &mut Recorder, rows: &SharedRows) -> Result<()> {
        for (l, (basis, shared)) in rows.layers.iter().enumerate() {
            // A sequence without rows has yet to set its centre, and does that alone.
            let layer = &self.layers[l];
            let basis =
                if shared.is_empty() { layer.basis.renewed(self.memory.layer(l)) } else { basis.clone() };
            let mut tiers = shared.clone();
            let mut own = layer.fresh(self.memory.layer(l), &basis);
            if let (true, Some(from), Some(to)) = (self.thins, tiers.last_mut(), own.last_mut()) {
                // Thinning sums up attention to the newest row and may drop it, so everyone has one.
                if from.role == Role::Main {
                    kv_copy(rec, &from.rows, from.live - 1, &to.rows, 0, 1)?;
                    (from.live, to.live) = (from.live - 1, 1);
                }
            }
            tiers.retain(|tier| tier.live > 0);
            let shared = tiers.len();
            tiers.append(&mut own);
            let layer = &mut self.layers[l];
            if let Some(away) = &mut layer.away {
                away.back.basis = basis.clone();
            }
            (layer.basis, layer.tiers, layer.shared) = (basis, tiers, shared);
        }
        Ok(())
    }

    /// Records the copies of what another sequence's first tokens are rotated from, where they follow the window.
    pub fn copy_first_tokens(&mut self, rec: &mut Recorder, other: &Self) {
        for (layer, from) in self.layers.iter_mut().zip(&other.layers) {
            for (to, from) in layer.first_tokens.iter().zip(&from.first_tokens) {
                rec.copy(from, 0, to, 0, from.len());
            }
            layer.skipped = from.skipped;
        }
    }

    /// Copies shared rows into pools of this sequence's own, together with those that are there.
    ///
    /// # Errors
    /// What recording a copy may refuse.
    pub fn unshare(&mut self, rec: &mut Recorder) -> Result<()> {
        let layers = self.layers.iter_mut().enumerate();
        for (l, layer) in layers.filter(|(_, layer)| layer.shared > 0) {
            let memory = self.memory.layer(l);
            let mut own = layer.fresh(memory, &layer.basis);
            for tier in &mut own {
                let capacity = layer.of(tier.role).next_multiple_of(GRAIN);
                tier.rows = tier.rows.another(memory, &layer.basis, capacity);
                tier.live = copy_rows(rec, &layer.tiers, tier.role, &tier.rows)?;
            }
            (layer.tiers, layer.shared) = (own, 0);
        }
        Ok(())
    }

    /// Gives up the pools, for others that hold their rows; call [`Cache::clear`] next.
    pub fn leave(&mut self) {
        for (l, layer) in self.layers.iter_mut().enumerate() {
            (layer.tiers, layer.shared) = (layer.fresh(self.memory.layer(l), &layer.basis), 0);
        }
    }

    /// Forgets every row; the sequence's own pools stay.
    pub fn clear(&mut self) {
        for (l, layer) in self.layers.iter_mut().enumerate() {
            layer.tiers.drain(..layer.shared);
            layer.shared = 0;
            // The next first block sets the centre, which rows of others may be relative to.
            layer.basis = layer.basis.renewed(self.memory.layer(l));
            for tier in &mut layer.tiers {
                (tier.live, tier.rows.basis) = (0, layer.basis.clone());
            }
            if let Some(away) = &mut layer.away {
                away.clear();
                away.back.basis = layer.basis.clone();
            }
        }
    }
}
