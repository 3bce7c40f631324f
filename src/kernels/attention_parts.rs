//! How decode attention is split: a token's rows by pools, and those of each pool by parts that run side by side.

use super::kv_row::{Heads, KvRows};
use super::{attention_decode_groups as split_groups, attention_decode_lanes as lanes};
use crate::gpu::{Family, Tuning};

/// One token of one sequence.
#[derive(Debug, Clone)]
pub struct Attend<'a> {
    /// What it attends to: rows, and how many of them live; at least one of all.
    pub pools: Vec<(&'a KvRows, usize)>,
    /// Where the token's query begins,
    pub q_from: usize,
    /// its parts,
    pub partials_from: usize,
    /// its scores of the last pool by table entry, where those are wanted,
    pub logits_from: Option<usize>,
    /// its output,
    pub out_from: usize,
    /// and its log-sum-exp.
    pub lse_from: usize,
}

impl<'a> Attend<'a> {
    /// The first token of all tensors, over rows of one pool.
    pub fn alone(rows: &'a KvRows, live: usize) -> Self {
        let pools = vec![(rows, live)];
        Self { pools, q_from: 0, partials_from: 0, logits_from: None, out_from: 0, lse_from: 0 }
    }
}

/// Values of the tensor that carries the parts: `[H][parts][hd + 2]`.
pub fn partial_len(heads: Heads, parts: usize) -> usize {
    heads.query * parts * (heads.dim + 2)
}

/// Rows for which one more part pays; of parts that lanes join, so many that they take as long as one more dispatch.
pub(super) fn part_rows(tuning: Tuning, heads: Heads) -> usize {
    if joins(tuning, heads) { 1024 } else { 4 }
}

/// True where the lanes of a workgroup join their parts.
fn joins(tuning: Tuning, heads: Heads) -> bool {
    tuning.family == Family::Lanes && lanes::joins(heads, tuning.subgroups)
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
    /// True where the output comes out at once.
    pub whole: bool,
    logits_from: Option<usize>,
}

/// The parts of each pool that has rows.
pub(super) fn split<'a>(tuning: Tuning, token: &'a Attend<'a>) -> Vec<Parts<'a>> {
    let most = tuning.attention_splits as usize;
    let splits = |&(rows, live): &(&KvRows, usize)| live.div_ceil(part_rows(tuning, rows.heads)).min(most);
    let (total, last) = (token.pools.iter().map(splits).sum(), token.pools.len() - 1);
    let whole = |rows: &KvRows| total == 1 && joins(tuning, rows.heads);
    let mut first = 0;
    let part = |(at, pool): (usize, &(&'a KvRows, usize))| {
        let (logits_from, splits) = (token.logits_from.filter(|_| at == last), splits(pool));
        let (rows, count, whole) = (pool.0, pool.1, whole(pool.0));
        first += splits;
        Parts { token, rows, count, first: first - splits, splits, total, whole, logits_from }
    };
    token.pools.iter().enumerate().map(part).filter(|parts| parts.splits > 0).collect()
}

impl Parts<'_> {
    pub fn flags(&self) -> Flags {
        Flags {
            store_logits: self.logits_from.is_some(),
            merged: self.rows.merged,
            only_part: self.whole.then_some(self.rows.basis.v_rotated),
        }
    }

    pub fn job(&self, family: Family, scale: f32) -> Job {
        let KvRows { heads, format, .. } = self.rows;
        let words = match family {
            Family::Lanes => lanes::element_words,
            Family::Groups => split_groups::element_words,
        };
        let [k, v, steps_from, book_from] = self.rows.origins();
        let partials_from = self.token.partials_from + self.first * (heads.dim + 2);
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
            k_from: k / words(format.k),
            v_from: v / words(format.v),
            steps_from,
            book_from,
            out_from: if self.whole { self.token.out_from } else { partials_from } as u32,
            lse_from: self.token.lse_from as u32,
            logits_from: self.logits_from.unwrap_or(0) as u32,
        }
    }
}

/// What a variant does beside attention over rows of its format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub store_logits: bool,
    pub merged: bool,
    /// The output of a head's only part, of transformed values or not.
    pub only_part: Option<bool>,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
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
    lse_from: u32,
    logits_from: u32,
}
