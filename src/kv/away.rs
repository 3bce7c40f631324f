//! One layer's rows that are away from the device: what is on the host, and which of them are back.

use super::KvOptions;
use super::policy::BlockPlan;
use crate::gpu::{Class, Gpu, Pending, Tensor};
use crate::kernels::kv_row::{Heads, KvRows};
use crate::kernels::page_bounds::{PAGE, bounds_len};
use crate::{Error, Result};

/// One layer's rows that are away.
#[derive(Debug)]
pub(super) struct Away {
    pub runs: Vec<Run>,
    /// The ranges of all pages' keys.
    pub bounds: Tensor<u32>,
    /// Rows that are back; the first `live` entries.
    pub back: KvRows,
    pub live: usize,
    /// The pages that these are, ascending.
    pub present: Vec<usize>,
}

/// What one block dropped.
#[derive(Debug)]
pub(super) struct Run {
    /// Position of the block's first token.
    pub start: usize,
    pub rows: usize,
    /// In the order of [`parts`].
    pub words: Vec<Words>,
}

#[derive(Debug)]
pub(super) enum Words {
    Coming(Pending<u32>),
    Here(Vec<u32>),
}

/// What makes up a row: tensors, where their first slot stands, and the words of a slot.
pub(super) fn parts(rows: &KvRows) -> Vec<(&Tensor<u32>, usize, usize)> {
    let slots = rows.slots().into_iter().map(|(tensor, width)| (tensor, 0, width));
    let positions = (0..rows.sets).map(|set| (&rows.book, (4 * set + 1) * rows.capacity, 1));
    slots.chain(positions).filter(|&(_, _, width)| width > 0).collect()
}

impl Away {
    pub fn new(gpu: &Gpu, back: KvRows) -> Self {
        let bounds = gpu.tensor(Class::Kv, "page bounds", 0);
        Self { runs: Vec::new(), bounds, back, live: 0, present: Vec::new() }
    }

    pub fn rows(&self) -> usize {
        self.runs.iter().map(|run| run.rows).sum()
    }

    pub fn pages(&self) -> usize {
        self.runs.iter().map(|run| run.rows.div_ceil(PAGE)).sum()
    }

    /// The run of a page, and where in it the page begins and ends.
    fn page(&self, mut page: usize) -> Option<(&Run, usize, usize)> {
        for run in &self.runs {
            let pages = run.rows.div_ceil(PAGE);
            if page < pages {
                return Some((run, page * PAGE, run.rows.min((page + 1) * PAGE)));
            }
            page -= pages;
        }
        None
    }

    /// Bytes on the device of what is back, and of what ranks the rest.
    pub fn bytes(&self) -> u64 {
        let heads = self.back.heads;
        self.live as u64 * self.back.format.bytes_per_token(heads)
            + 4 * bounds_len(heads, self.pages()) as u64
    }

    pub fn clear(&mut self) {
        self.runs.clear();
        self.dismiss();
    }

    pub fn dismiss(&mut self) {
        self.live = 0;
        self.present.clear();
    }

    /// Writes pages over those that are back.
    pub fn fetch(&mut self, gpu: &Gpu, pages: Vec<usize>) {
        for (i, (tensor, first, width)) in parts(&self.back).into_iter().enumerate() {
            let mut words = Vec::new();
            for (run, from, to) in pages.iter().filter_map(|&page| self.page(page)) {
                if let Some(Words::Here(all)) = run.words.get(i) {
                    words.extend_from_slice(&all[from * width..to * width]);
                }
            }
            gpu.write(tensor, first, &words);
        }
        self.live = pages.iter().filter_map(|&page| self.page(page)).map(|(_, from, to)| to - from).sum();
        self.present = pages;
    }
}

impl KvOptions {
    /// Fails unless what a block drops can go to the host, where that is asked for.
    pub(crate) fn check_offload(&self, plan: &BlockPlan) -> Result<()> {
        let Some(rows) = self.offload else { return Ok(()) };
        if rows < PAGE {
            return Err(Error::Invalid(format!("rows come back {PAGE} at a time; {rows} are too few")));
        }
        match plan.layers.iter().position(|rows| rows.propagate < rows.enter) {
            Some(layer) => Err(Error::Invalid(format!(
                "{} runs the layers after {layer} on fewer rows, so that theirs cannot go to the host; try the policy joint",
                self.policy.name()
            ))),
            None => Ok(()),
        }
    }

    /// Bytes on the device that `dropped` rows of a layer go on taking.
    pub(crate) fn offload_bytes(&self, dropped: usize, heads: Heads) -> u64 {
        self.offload.map_or(0, |most| {
            let bounds = 4 * bounds_len(heads, dropped.div_ceil(PAGE)) as u64;
            bounds + dropped.min(most) as u64 * self.format.bytes_per_token(heads)
        })
    }
}
