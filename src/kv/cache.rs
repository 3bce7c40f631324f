//! The rows of one sequence: in each layer a few tiers, each a pool of slots in one format and a row table.
//!
//! A tier's table is a permutation of its slots. Its first `live` entries are the live rows in order of position,
//! the others are free: a new row takes the entry after the last live one, and dropping rows moves their slots
//! behind the live ones. So the host needs to know only how many rows live, never which.
//!
//! Before its own tiers a layer may have shared ones, which other sequences read too and nobody writes; `share.rs`
//! says how they come about.

use super::away::Away;
use super::host::Host;
use super::policy::{Rank, SINKS};
use super::tier::{Role, Tier, TierRows, Tiers};
use super::{KvOptions, Memory};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Tensor};
use crate::kernels::kv_memory::KvMemory;
use crate::kernels::kv_row::{Basis, Format, Heads, KvRows};

/// Rows that a pool grows by at least; small enough that a pyramid's tip stays small.
pub(super) const GRAIN: usize = 16;

#[derive(Debug)]
pub(super) struct Layer {
    pub basis: Basis,
    /// Shared ones, then the sequence's own in order of their roles; the last one is the main one.
    pub tiers: Vec<Tier>,
    /// How many are shared.
    pub shared: usize,
    /// What the first tokens are projected to, where they follow the window. `[qkv width]` each
    pub first_tokens: Vec<Tensor<f32>>,
    /// How far the first tokens have followed.
    pub skipped: usize,
    /// Dropped rows that went to the host, where any do.
    pub away: Option<Away>,
}

impl Layer {
    /// Tiers that new rows go to.
    fn own(&mut self) -> &mut [Tier] {
        &mut self.tiers[self.shared..]
    }

    /// Empty tiers of the same kinds, with the smallest pools.
    pub fn fresh(&self, memory: &dyn KvMemory, basis: &Basis) -> Vec<Tier> {
        let pool = |tier: &Tier| Tier {
            role: tier.role,
            rows: tier.rows.another(memory, basis, least(tier.role)),
            live: 0,
        };
        self.tiers[self.shared..].iter().map(pool).collect()
    }

    /// Live rows of a role in all tiers.
    pub fn of(&self, role: Role) -> usize {
        live(&self.tiers, role)
    }
}

/// Rows of a new pool.
pub(super) fn least(role: Role) -> usize {
    if role == Role::Sinks { SINKS } else { GRAIN }
}

/// Rows of a pool that has to hold `rows`.
pub fn capacity(role: Role, rows: usize) -> usize {
    if rows <= least(role) { least(role) } else { rows.next_multiple_of(GRAIN) }
}

fn live(tiers: &[Tier], role: Role) -> usize {
    tiers.iter().filter(|tier| tier.role == role).map(|tier| tier.live).sum()
}

/// The cache of one sequence.
#[derive(Debug)]
pub struct Cache {
    pub(super) gpu: Gpu,
    pub(super) memory: Memory,
    heads: Heads,
    tiers: Tiers,
    /// Generated rows may be dropped, the row before them too.
    pub(super) thins: bool,
    pub(super) layers: Vec<Layer>,
    pub(super) host: Option<Host>,
}

impl Cache {
    /// An empty cache with room for so many rows of each layer, whose KV heads have tables of their own where the policy
    /// asks for it.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] when rows of this head dimension cannot have such a format.
    pub fn new(memory: &Memory, heads: Heads, options: &KvOptions, room: &[TierRows]) -> Result<Self> {
        let gpu = memory.gpu();
        let sets = if options.policy.per_head() { heads.kv } else { 1 };
        let tiers = Tiers::new(options);
        let formats: Vec<Format> = Role::ALL.into_iter().filter_map(|role| tiers.format(role)).collect();
        let layer = |(l, room): (usize, &TierRows)| {
            let memory = memory.layer(l);
            let basis = Basis::new(memory, heads, &formats);
            let tier = |role| {
                let pool = |format| {
                    let capacity = capacity(role, room.of(role));
                    let rows = KvRows::new(memory, heads, format, &basis, capacity, sets)?;
                    Ok(KvRows { merged: options.merge, ..rows })
                };
                tiers.format(role).map(|format| Ok(Tier { role, rows: pool(format)?, live: 0 }))
            };
            let tiers = Role::ALL.into_iter().filter_map(tier).collect::<Result<_>>()?;
            let follow = if options.policy.rank() == Some(Rank::Age) { SINKS } else { 0 };
            let projected = |_| gpu.tensor(Class::Kv, "first token", heads.qkv_width());
            let first_tokens = (0..follow).map(projected).collect();
            let back = || KvRows::new(gpu, heads, options.format, &basis, 1, sets);
            let away = options.offload.map(|_| Ok(Away::new(gpu, back()?))).transpose()?;
            Ok(Layer { basis, tiers, shared: 0, first_tokens, skipped: 0, away })
        };
        let layers = room.iter().enumerate().map(layer).collect::<Result<_>>()?;
        let thins = options.policy.thinning().is_some();
        let host = options.offload.map(|rows| Host::new(gpu, rows));
        Ok(Self { gpu: gpu.clone(), memory: memory.clone(), heads, tiers, thins, layers, host })
    }

    /// Makes room for `more` rows beyond the live ones, layer by layer, and records the move of the live ones
    /// into larger pools where that takes any. True when it did.
    pub fn reserve(&mut self, rec: &mut Recorder, more: &[TierRows]) -> bool {
        let mut grown = false;
        for (l, (layer, more)) in self.layers.iter_mut().zip(more).enumerate() {
            let basis = layer.basis.clone();
            for tier in layer.own() {
                let need = tier.live + more.of(tier.role);
                if need > tier.rows.capacity {
                    let room = capacity(tier.role, need);
                    let larger = tier.rows.another(self.memory.layer(l), &basis, room);
                    if tier.live > 0 {
                        move_rows(rec, &tier.rows, &larger);
                    }
                    tier.rows = larger;
                    grown = true;
                }
            }
        }
        grown
    }

    /// The formats of its tiers.
    pub fn tiers(&self) -> &Tiers {
        &self.tiers
    }

    /// All tiers of a layer, in the order that rows are read in.
    pub fn layer(&self, layer: usize) -> &[Tier] {
        &self.layers[layer].tiers
    }

    /// All rows of a layer that attention reads and how many of each pool live: recalled ones, then every tier's.
    pub fn readable(&self, layer: usize) -> impl Iterator<Item = (&KvRows, usize)> {
        let Layer { tiers, away, .. } = &self.layers[layer];
        let recalled = away.iter().map(|away| (&away.back, away.live));
        recalled.chain(tiers.iter().map(|tier| (&tier.rows, tier.live)))
    }

    /// The tiers of a layer that new rows go to, in the order of their roles.
    pub fn own(&self, layer: usize) -> &[Tier] {
        let Layer { tiers, shared, .. } = &self.layers[layer];
        &tiers[*shared..]
    }

    /// The tier of a layer that generated rows go to.
    pub fn main(&self, layer: usize) -> &Tier {
        let tiers = &self.layers[layer].tiers;
        &tiers[tiers.len() - 1]
    }

    /// The coordinates that a layer's rows are stored in.
    pub fn basis(&self, layer: usize) -> &Basis {
        &self.layers[layer].basis
    }

    /// Layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Live rows of a layer, recalled ones included.
    pub fn rows(&self, layer: usize) -> usize {
        self.readable(layer).map(|(_, live)| live).sum()
    }

    /// Where a layer keeps what its first tokens were projected to; empty where they stay at their positions.
    pub fn first_tokens(&self, layer: usize) -> &[Tensor<f32>] {
        &self.layers[layer].first_tokens
    }

    /// True when a layer's first tokens follow its window and have not yet done so by `skipped` positions, which
    /// the caller now does.
    pub fn skips_to(&mut self, layer: usize, skipped: usize) -> bool {
        let layer = &mut self.layers[layer];
        let before = std::mem::replace(&mut layer.skipped, skipped);
        before != skipped && !layer.first_tokens.is_empty()
    }

    /// Live rows of each layer.
    pub fn rows_per_layer(&self) -> Vec<usize> {
        (0..self.depth()).map(|l| self.rows(l)).collect()
    }

    /// Rows of a layer's main tiers that are shared: those before its own main tier's.
    pub fn shared_main(&self, layer: usize) -> usize {
        let Layer { tiers, shared, .. } = &self.layers[layer];
        live(&tiers[..*shared], Role::Main)
    }

    /// Live rows of each layer's main tiers.
    pub fn main_rows(&self) -> Vec<usize> {
        self.layers.iter().map(|layer| layer.of(Role::Main)).collect()
    }

    /// Live rows of each tier of a layer.
    pub fn live(&self, layer: usize) -> TierRows {
        let of = |role| self.layers[layer].of(role);
        TierRows { sinks: of(Role::Sinks), tail: of(Role::Tail), main: of(Role::Main) }
    }

    /// Live rows of the fullest layer.
    pub fn most_rows(&self) -> usize {
        (0..self.depth()).map(|l| self.rows(l)).max().unwrap_or(0)
    }

    /// Live rows of each role in each layer, to come back to with [`Cache::restore`].
    pub fn checkpoint(&self) -> Vec<TierRows> {
        (0..self.depth()).map(|l| self.live(l)).collect()
    }

    /// Forgets the rows that every layer gained since a checkpoint.
    pub fn restore(&mut self, checkpoint: &[TierRows]) {
        for (layer, rows) in self.layers.iter_mut().zip(checkpoint) {
            let (shared, own) = layer.tiers.split_at_mut(layer.shared);
            own.iter_mut().for_each(|tier| {
                tier.live = rows.of(tier.role).saturating_sub(live(shared, tier.role));
            });
        }
    }

    /// Says that a layer gained rows.
    pub fn add(&mut self, layer: usize, rows: TierRows) {
        for tier in self.layers[layer].own() {
            tier.live += rows.of(tier.role);
            debug_assert!(tier.live <= tier.rows.capacity, "layer {layer}: {:?} exceeds its pool", tier.role);
        }
    }

    /// Forgets the newest `count` rows of every layer.
    pub fn truncate(&mut self, count: usize) {
        (0..self.depth()).for_each(|layer| self.drop_rows(layer, count));
    }

    /// Says that `count` rows of a layer's main tier were dropped, or that its newest ones are to be forgotten.
    pub fn drop_rows(&mut self, layer: usize, count: usize) {
        let tiers = &mut self.layers[layer].tiers;
        let main = tiers.len() - 1;
        tiers[main].live = tiers[main].live.saturating_sub(count);
    }

    /// Exchanges a layer's rows for those that another cache of the same shape has of it.
    pub fn swap_layer(&mut self, other: &mut Self, layer: usize) {
        std::mem::swap(&mut self.layers[layer], &mut other.layers[layer]);
    }

    /// Bytes of the live rows, their steps, what they are relative to and what ranks rows on the host included.
    pub fn live_bytes(&self) -> u64 {
        let layer = |layer: &Layer| {
            let tier = |tier: &Tier| tier.live as u64 * tier.rows.format.bytes_per_token(self.heads);
            let away = layer.away.as_ref().map_or(0, Away::bytes);
            layer.basis.centre.len() as u64 * 4 + away + layer.tiers.iter().map(tier).sum::<u64>()
        };
        self.layers.iter().map(layer).sum()
    }

    /// Bytes that a full f16 cache of `tokens` tokens takes in a model of this shape.
    pub fn full_f16_bytes(&self, tokens: usize) -> u64 {
        tokens as u64 * self.layers.len() as u64 * Format::F16.bytes_per_token(self.heads)
    }
}

pub(super) fn move_rows(rec: &mut Recorder, from: &KvRows, to: &KvRows) {
    let mut copy = |from: &Tensor<u32>, to: &Tensor<u32>, words: usize| {
        if words > 0 {
            rec.copy(from, 0, to, 0, words);
        }
    };
    for ((old, words), (new, _)) in from.slots().into_iter().zip(to.slots()) {
        copy(old, new, from.capacity * words);
    }
    // Each set's regions are as long as the capacity; the new slots behind the old ones are already listed.
    for region in 0..4 * from.sets {
        rec.copy(&from.book, region * from.capacity, &to.book, region * to.capacity, from.capacity);
    }
}
