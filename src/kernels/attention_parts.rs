//! How decode attention is split: a token's rows by pools, and those of each pool by parts that run side by side.

use super::kv_code::KvBits;
use super::kv_row::{Heads, KvRows};
use super::operand::Code;
use super::{
    attention_decode_groups as plain, attention_decode_lanes as lanes,
    attention_decode_subgroups as subgroups,
};
use crate::gpu::{Family, ShaderKey, Tuning, uniform};

/// One token of one sequence.
#[derive(Debug, Clone)]
pub struct Attend<'a> {
    /// What it attends to: rows, and how many of them live; at least one of all.
    pub pools: Vec<(&'a KvRows, usize)>,
    /// Where the token's query begins,
    pub q_from: usize,
    /// its output,
    pub out_from: usize,
    /// and what comes out beside that.
    pub left: Left,
    /// Whether the scores of the last pool are wanted.
    pub wants_logits: bool,
}

impl<'a> Attend<'a> {
    /// The first token of all tensors, over rows of one pool.
    pub fn alone(rows: &'a KvRows, live: usize) -> Self {
        let left = Room::new(rows.heads, 0, 0).at(0);
        Self { pools: vec![(rows, live)], q_from: 0, out_from: 0, left, wants_logits: false }
    }
}

/// Values of the parts of all heads: `[H][parts][hd + 2]`.
pub(super) fn partial_len(heads: Heads, parts: usize) -> usize {
    heads.query * parts * (heads.dim + 2)
}

/// Scores of a head from one to the next, rounded up so that they can be stored by twos.
pub(super) fn logits_stride(capacity: usize) -> usize {
    capacity.next_multiple_of(2)
}

/// Room for what attention of a token leaves beside its output.
///
/// ```text
/// ends    [H][2]               the maximum of a head's scores, and the sum of their weights, exp(score - maximum)
/// parts   [H][parts][hd + 2]
/// scores  [H][capacity]        scaled, by table entry of the last pool, where they are wanted
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Room {
    heads: Heads,
    parts: usize,
    capacity: usize,
}

impl Room {
    /// Room for at most so many parts a head, and scores of a pool of at most so many rows.
    pub fn new(heads: Heads, parts: usize, capacity: usize) -> Self {
        Self { heads, parts, capacity }
    }

    /// How many values it takes.
    pub fn values(self) -> usize {
        let Left { ends_from, logits_from, .. } = self.at(0);
        logits_from - ends_from + self.heads.query * logits_stride(self.capacity)
    }

    /// Where each of them lies if the room begins at `from`, an even number.
    pub fn at(self, from: usize) -> Left {
        let partials_from = from + 2 * self.heads.query;
        Left {
            ends_from: from,
            partials_from,
            logits_from: partials_from + partial_len(self.heads, self.parts),
        }
    }
}

/// Where a token's values lie in the tensor of rooms.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// Its ends,
    pub ends_from: usize,
    /// its parts,
    pub partials_from: usize,
    /// and its scores.
    pub logits_from: usize,
}

/// The kernels of decode attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// `attention_decode_lanes`, with or without subgroups.
    Lanes(bool),
    /// `attention_decode_groups`
    Plain,
    /// `attention_decode_subgroups`, on subgroups of so many lanes.
    Subgroups(u32),
}

impl Which {
    pub fn of(tuning: Tuning) -> Self {
        match tuning.family {
            Family::Lanes => Self::Lanes(tuning.subgroups),
            Family::Groups if tuning.subgroup_lanes < subgroups::FEWEST_LANES => Self::Plain,
            Family::Groups => Self::Subgroups(tuning.subgroup_lanes),
        }
    }

    pub fn key(self, heads: Heads) -> ShaderKey {
        match self {
            Self::Lanes(subgroups) => lanes::key(heads, subgroups),
            Self::Plain => plain::key(heads),
            Self::Subgroups(width) => subgroups::key(heads, width),
        }
    }

    pub fn grid(self, heads: Heads, splits: u32) -> [u32; 2] {
        match self {
            Self::Lanes(subgroups) => lanes::grid(heads, subgroups, splits),
            Self::Plain => plain::grid(heads, splits),
            Self::Subgroups(width) => subgroups::grid(heads, width, splits),
        }
    }

    /// True where the lanes of a workgroup of [`Family::Lanes`] join their parts.
    fn joins(self, heads: Heads) -> bool {
        matches!(self, Self::Lanes(subgroups) if lanes::joins(heads, subgroups))
    }

    /// Words of what the kernel loads at once.
    fn element_words(self, bits: KvBits) -> u32 {
        match self {
            Self::Lanes(_) => lanes::element_words(bits),
            Self::Plain => plain::element_words(bits),
            Self::Subgroups(_) => subgroups::element_words(bits),
        }
    }
}

/// Rows for which one more part pays: of parts that lanes join, so many that they take as long as one more dispatch; of
/// those of a workgroup of many subgroups, so many that all have work.
pub(super) fn part_rows(tuning: Tuning, heads: Heads) -> usize {
    match Which::of(tuning) {
        which if which.joins(heads) => 1024,
        Which::Subgroups(width) => subgroups::tile(heads, width),
        _ => 4,
    }
}

/// Workgroups of decode attention for each part that a device may split a head's rows into: eight KV heads fill it.
const PART_WORKGROUPS: u32 = 8;

/// The most parts of a head's rows in a step of `tokens` tokens: [`Tuning::attention_splits`]; where a workgroup has
/// many subgroups, no more than fill the device once, because what comes after waits for the last one.
fn most_parts(tuning: Tuning, heads: Heads, tokens: usize) -> usize {
    let most = tuning.attention_splits;
    let Which::Subgroups(width) = Which::of(tuning) else { return most as usize };
    let workgroups = subgroups::workgroups(heads, width) as usize * tokens;
    ((most * PART_WORKGROUPS) as usize / workgroups.max(1)).clamp(1, most as usize)
}

/// The parts of a head that one token's rows of one pool are split into.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub token: &'a Attend<'a>,
    pub rows: &'a KvRows,
    count: usize,
    pub first: usize,
    pub splits: usize,
    pub total: usize,
    /// True where the output comes out of the dispatches themselves.
    pub whole: bool,
    stores_logits: bool,
    /// Where the token's counters begin.
    arrived_from: usize,
    /// The code of the operand that takes the token's output, if one does.
    pub operand: Option<Code>,
}

/// The parts of each pool that has rows, of token number `at` of `tokens`.
pub(super) fn split<'a>(
    tuning: Tuning,
    token: &'a Attend<'a>,
    (at, tokens): (usize, usize),
) -> Vec<Parts<'a>> {
    let which = Which::of(tuning);
    let splits = |&(rows, live): &(&KvRows, usize)| {
        live.div_ceil(part_rows(tuning, rows.heads)).min(most_parts(tuning, rows.heads, tokens))
    };
    let (total, last) = (token.pools.iter().map(splits).sum(), token.pools.len() - 1);
    let whole = |rows: &KvRows| match which {
        Which::Lanes(_) => total == 1 && which.joins(rows.heads),
        Which::Plain => false,
        Which::Subgroups(_) => tuning.wide_barriers,
    };
    let mut first = 0;
    let part = |(place, pool): (usize, &(&'a KvRows, usize))| {
        let (stores_logits, splits) = (token.wants_logits && place == last, splits(pool));
        let (rows, count, whole) = (pool.0, pool.1, whole(pool.0));
        first += splits;
        let arrived_from = at * rows.heads.query;
        let operand = None;
        Parts {
            token,
            rows,
            count,
            first: first - splits,
            splits,
            total,
            whole,
            stores_logits,
            arrived_from,
            operand,
        }
    };
    token.pools.iter().enumerate().map(part).filter(|parts| parts.splits > 0).collect()
}

impl Parts<'_> {
    pub fn flags(&self) -> Flags {
        Flags {
            store_logits: self.stores_logits,
            merged: self.rows.merged,
            whole: self.whole.then_some(self.rows.basis.v_rotated),
            operand: self.operand,
        }
    }

    pub fn job(&self, which: Which, scale: f32) -> Job {
        let KvRows { heads, format, .. } = self.rows;
        let [k, v, steps_from, book_from] = self.rows.origins();
        let Left { ends_from, partials_from, logits_from } = self.token.left;
        Job {
            count: self.count as u32,
            capacity: self.rows.capacity as u32,
            sets: self.rows.sets as u32,
            kv_heads: heads.kv as u32,
            group: heads.group() as u32,
            splits: self.splits as u32,
            parts: self.total as u32,
            scale,
            q_from: (self.token.q_from / 4) as u32,
            k_from: k / which.element_words(format.k),
            v_from: v / which.element_words(format.v),
            steps_from,
            book_from,
            out_from: match self.operand {
                Some(_) => self.token.out_from / heads.q_width(),
                None if self.whole => self.token.out_from,
                None => partials_from + self.first * (heads.dim + 2),
            } as u32,
            ends_from: ends_from as u32,
            logits_from: logits_from as u32,
            first_part: self.first as u32,
            partials_from: partials_from as u32,
            arrived_from: self.arrived_from as u32,
        }
    }
}

/// What a variant does beside attention over rows of its format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub store_logits: bool,
    pub merged: bool,
    /// The output comes out, of transformed values or not, and no parts to be merged.
    pub whole: Option<bool>,
    /// It comes out as an operand.
    pub operand: Option<Code>,
}

uniform! {
    pub(super) struct Job {
        count: u32,
        capacity: u32,
        sets: u32,
        kv_heads: u32,
        group: u32,
        splits: u32,
        parts: u32,
        scale: f32,
        q_from: u32,
        k_from: u32,
        v_from: u32,
        steps_from: u32,
        book_from: u32,
        out_from: u32,
        ends_from: u32,
        logits_from: u32,
        first_part: u32,
        partials_from: u32,
        arrived_from: u32,
    }
}
