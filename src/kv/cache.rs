//! The rows of one sequence: in each layer a few tiers, each a pool of slots in one format and a row table.
//!
//! ```text
//!   sinks   the first tokens, in 8 bits where the other rows have fewer: attention rests on them
//!   tail    rows of middling score, in fewer bits than the main ones
//!   main    all others; new rows go here
//! ```
//!
//! A tier's table is a permutation of its slots. Its first `live` entries are the live rows in order of position,
//! the others are free: a new row takes the entry after the last live one, and dropping rows moves their slots
//! behind the live ones. So the host needs to know only how many rows live, never which.

use super::KvOptions;
use super::policy::{Rank, SINKS};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Tensor};
use crate::kernels::kv_code::KvBits;
use crate::kernels::kv_row::{Basis, Format, Heads, KvRows};

/// Rows that a pool grows by at least; small enough that a pyramid's tip stays small.
const GRAIN: usize = 16;

/// What a tier is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The first tokens.
    Sinks,
    /// Rows in fewer bits.
    Tail,
    /// All others.
    Main,
}

impl Role {
    /// In the order that rows are read in.
    pub const ALL: [Self; 3] = [Self::Sinks, Self::Tail, Self::Main];
}

/// A number of rows for each tier of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierRows {
    /// First tokens.
    pub sinks: usize,
    /// Rows in fewer bits.
    pub tail: usize,
    /// All others.
    pub main: usize,
}

impl TierRows {
    /// All of them.
    pub fn total(self) -> usize {
        self.sinks + self.tail + self.main
    }

    /// Those of one tier.
    pub fn of(self, role: Role) -> usize {
        match role {
            Role::Sinks => self.sinks,
            Role::Tail => self.tail,
            Role::Main => self.main,
        }
    }
}

/// The formats of a cache's tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiers {
    sinks: Option<Format>,
    tail: Option<Format>,
    main: Format,
}

impl Tiers {
    /// The tiers that options ask for.
    pub fn new(options: &KvOptions) -> Self {
        let main = options.format;
        let coarse = |bits: KvBits| bits.bits() < 8;
        let sinks = (coarse(main.k) || coarse(main.v)).then_some(Format::both(KvBits::Eight));
        Self { sinks, tail: options.tail, main }
    }

    /// The format of a tier; absent, there is no such tier.
    pub fn format(&self, role: Role) -> Option<Format> {
        match role {
            Role::Sinks => self.sinks,
            Role::Tail => self.tail,
            Role::Main => Some(self.main),
        }
    }

    /// Where `retain` rows of a block go, of which the first `sinks` open the sequence and `tail` rank lowest.
    pub fn split(&self, retain: usize, sinks: usize, tail: usize) -> TierRows {
        let sinks = if self.sinks.is_some() { sinks.min(SINKS).min(retain) } else { 0 };
        let tail = if self.tail.is_some() { tail.min(retain - sinks) } else { 0 };
        TierRows { sinks, tail, main: retain - sinks - tail }
    }

    /// Bytes of so many rows, their steps included.
    pub fn bytes(&self, rows: TierRows, heads: Heads) -> u64 {
        let of =
            |role| self.format(role).map_or(0, |format| rows.of(role) as u64 * format.bytes_per_token(heads));
        Role::ALL.into_iter().map(of).sum()
    }
}

/// Rows of one layer in one format.
#[derive(Debug)]
pub struct Tier {
    /// What it is for.
    pub role: Role,
    /// The pool and its table.
    pub rows: KvRows,
    /// How many rows live.
    pub live: usize,
}

#[derive(Debug)]
struct Layer {
    basis: Basis,
    /// In order of their roles; the last one is the main one.
    tiers: Vec<Tier>,
    /// What the first tokens are projected to, where they follow the window. `[qkv width]` each
    first_tokens: Vec<Tensor<f32>>,
    /// How far the first tokens have followed.
    skipped: usize,
}

/// The cache of one sequence.
#[derive(Debug)]
pub struct Cache {
    gpu: Gpu,
    heads: Heads,
    tiers: Tiers,
    sets: usize,
    layers: Vec<Layer>,
}

impl Cache {
    /// An empty cache, whose KV heads have tables of their own where the policy asks for it.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] when rows of this head dimension cannot have such a format.
    pub fn new(gpu: &Gpu, layers: usize, heads: Heads, options: &KvOptions) -> Result<Self> {
        let sets = if options.policy.per_head() { heads.kv } else { 1 };
        let tiers = Tiers::new(options);
        let formats: Vec<Format> = Role::ALL.into_iter().filter_map(|role| tiers.format(role)).collect();
        let layer = |_| {
            let basis = Basis::new(gpu, heads, &formats);
            let tier = |role| {
                let capacity = if role == Role::Sinks { SINKS } else { GRAIN };
                let pool = |format| KvRows::new(gpu, heads, format, &basis, capacity, sets);
                tiers.format(role).map(|format| Ok(Tier { role, rows: pool(format)?, live: 0 }))
            };
            let tiers = Role::ALL.into_iter().filter_map(tier).collect::<Result<_>>()?;
            let follow = if options.policy.rank() == Some(Rank::Age) { SINKS } else { 0 };
            let projected = |_| gpu.tensor(Class::Kv, "first token", heads.qkv_width());
            Ok(Layer { basis, tiers, first_tokens: (0..follow).map(projected).collect(), skipped: 0 })
        };
        let layers = (0..layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { gpu: gpu.clone(), heads, tiers, sets, layers })
    }

    /// Makes room for `more` rows beyond the live ones, layer by layer, and records the move of the live ones
    /// into larger pools where that takes any. True when it did.
    ///
    /// # Errors
    /// As [`Cache::new`].
    pub fn reserve(&mut self, rec: &mut Recorder, more: &[TierRows]) -> Result<bool> {
        let mut grown = false;
        for (layer, more) in self.layers.iter_mut().zip(more) {
            for tier in &mut layer.tiers {
                let need = tier.live + more.of(tier.role);
                if need > tier.rows.capacity {
                    let (format, capacity) = (tier.rows.format, need.next_multiple_of(GRAIN));
                    let larger =
                        KvRows::new(&self.gpu, self.heads, format, &layer.basis, capacity, self.sets)?;
                    if tier.live > 0 {
                        move_rows(rec, &tier.rows, &larger);
                    }
                    tier.rows = larger;
                    grown = true;
                }
            }
        }
        Ok(grown)
    }

    /// The formats of its tiers.
    pub fn tiers(&self) -> &Tiers {
        &self.tiers
    }

    /// One layer's tiers, in the order of their roles.
    pub fn layer(&self, layer: usize) -> &[Tier] {
        &self.layers[layer].tiers
    }

    /// The tier of a layer that new rows go to.
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

    /// Live rows of a layer.
    pub fn rows(&self, layer: usize) -> usize {
        self.layers[layer].tiers.iter().map(|tier| tier.live).sum()
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

    /// Live rows of each layer's main tier.
    pub fn main_rows(&self) -> Vec<usize> {
        (0..self.depth()).map(|l| self.main(l).live).collect()
    }

    /// Live rows of each tier of a layer.
    pub fn live(&self, layer: usize) -> TierRows {
        let tiers = &self.layers[layer].tiers;
        let of = |role| tiers.iter().find(|tier| tier.role == role).map_or(0, |tier| tier.live);
        TierRows { sinks: of(Role::Sinks), tail: of(Role::Tail), main: of(Role::Main) }
    }

    /// Live rows of the fullest layer.
    pub fn most_rows(&self) -> usize {
        (0..self.depth()).map(|l| self.rows(l)).max().unwrap_or(0)
    }

    /// Live rows of each tier of each layer, to come back to with [`Cache::restore`].
    pub fn checkpoint(&self) -> Vec<TierRows> {
        (0..self.depth()).map(|l| self.live(l)).collect()
    }

    /// Forgets the rows that every layer gained since a checkpoint.
    pub fn restore(&mut self, checkpoint: &[TierRows]) {
        for (layer, rows) in self.layers.iter_mut().zip(checkpoint) {
            layer.tiers.iter_mut().for_each(|tier| tier.live = rows.of(tier.role));
        }
    }

    /// Says that a layer gained rows.
    pub fn add(&mut self, layer: usize, rows: TierRows) {
        for tier in &mut self.layers[layer].tiers {
            tier.live += rows.of(tier.role);
            debug_assert!(tier.live <= tier.rows.capacity, "layer {layer}: {:?} exceeds its pool", tier.role);
        }
    }

    /// Says that `count` rows of a layer's main tier were dropped, or that its newest ones are to be forgotten.
    pub fn drop_rows(&mut self, layer: usize, count: usize) {
        let tiers = &mut self.layers[layer].tiers;
        let main = tiers.len() - 1;
        tiers[main].live = tiers[main].live.saturating_sub(count);
    }

    /// Forgets every row; the pools stay.
    pub fn clear(&mut self) {
        self.layers.iter_mut().flat_map(|layer| &mut layer.tiers).for_each(|tier| tier.live = 0);
    }

    /// Bytes of the live rows, their steps and what they are relative to included.
    pub fn live_bytes(&self) -> u64 {
        let layer = |layer: &Layer| {
            let tier = |tier: &Tier| tier.live as u64 * tier.rows.format.bytes_per_token(self.heads);
            layer.basis.centre.len() as u64 * 4 + layer.tiers.iter().map(tier).sum::<u64>()
        };
        self.layers.iter().map(layer).sum()
    }

    /// Bytes that a full f16 cache of `tokens` tokens takes in a model of this shape.
    pub fn full_f16_bytes(&self, tokens: usize) -> u64 {
        tokens as u64 * self.layers.len() as u64 * Format::F16.bytes_per_token(self.heads)
    }
}

fn move_rows(rec: &mut Recorder, from: &KvRows, to: &KvRows) {
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
