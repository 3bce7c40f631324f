//! Rows that a prefill drops, kept on the host, and those of them that decode calls back.
//!
//! Dropped rows leave in pages of [`PAGE`]. What stays of a page is the range of its keys, by which queries rank the
//! pages that are away; the best ones come back into a pool of bounded size, which attention reads like any tier.
//! Where all pages fit into that pool, all are in it from the start.
//!
//! ```text
//!   prefill   dropped rows ── packed ──> staging ── read back ──> runs of pages on the host
//!                                           └────── page_bounds ──> bounds
//!   decode    query, bounds ── page_score, select ──> wanted ── read back ──> written to the pool
//! ```
//!
//! `away.rs` holds what one layer has of all this.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::away::{Away, Run, Words, parts};
use super::cache::{Cache, Layer, move_rows};
use super::policy::BlockPlan;
use crate::Result;
use crate::gpu::{Class, Gpu, Pending, Recorder, Tensor, VIEW_ALIGNMENT};
use crate::kernels::kv_copy::kv_copy;
use crate::kernels::kv_row::KvRows;
use crate::kernels::page_bounds::{PAGE, bounds_len, page_bounds};
use crate::kernels::page_score::page_score;
use crate::kernels::select::select;

/// What a cache's rows on the host amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct HostReport {
    /// Rows on the host, over all layers.
    pub rows: usize,
    /// Pages that came back so far, over all layers.
    pub recalls: usize,
    /// Pages that were wanted while they were still there.
    pub hits: usize,
}

/// What all layers share.
#[derive(Debug)]
pub(super) struct Host {
    /// Pages of a layer that may be back at once.
    most: usize,
    /// Where dropped rows are packed before they leave; all layers in turn.
    staging: Option<KvRows>,
    /// `[pages of the fullest layer]`
    scores: Tensor<f32>,
    /// `[layers][stride]`: ids of pages
    wanted: Tensor<u32>,
    stride: usize,
    recalls: usize,
    hits: usize,
}

impl Host {
    /// For at most `rows` rows of a layer at once.
    pub fn new(gpu: &Gpu, rows: usize) -> Self {
        let scores = gpu.tensor(Class::Kv, "page scores", 0);
        let wanted = gpu.tensor(Class::Kv, "wanted pages", 0);
        Self { most: rows / PAGE, staging: None, scores, wanted, stride: 0, recalls: 0, hits: 0 }
    }

    /// True when not all pages can be back at once, so that queries must choose.
    fn chooses(&self, away: &Away) -> bool {
        away.rows() > self.most * PAGE
    }
}

/// Both parts of a layer's host tier, where there is one.
fn each<'a>(host: &'a mut Option<Host>, layer: &'a mut Layer) -> Option<(&'a mut Host, &'a mut Away)> {
    host.as_mut().zip(layer.away.as_mut())
}

impl Cache {
    /// True when rows that prefill drops go to the host.
    pub fn offloads(&self) -> bool {
        self.host.is_some()
    }

    /// What is on the host, where rows go there at all.
    pub fn host_report(&self) -> Option<HostReport> {
        let rows = self.layers.iter().flat_map(|layer| &layer.away).map(Away::rows).sum();
        self.host.as_ref().map(|&Host { recalls, hits, .. }| HostReport { rows, recalls, hits })
    }

    /// Makes room for what a block will drop.
    pub fn reserve_host(&mut self, rec: &mut Recorder, plan: &BlockPlan) {
        let Some(host) = &mut self.host else { return };
        let (gpu, layers, mut most_pages) = (&self.gpu, self.layers.len(), 0);
        for (layer, rows) in self.layers.iter_mut().zip(&plan.layers) {
            let Some(away) = &mut layer.away else { continue };
            let drops = rows.enter - rows.retain;
            let pages = away.pages() + drops.div_ceil(PAGE);
            most_pages = pages.max(most_pages);
            let heads = away.back.heads;
            if bounds_len(heads, pages) > away.bounds.len() {
                let bounds = gpu.tensor(Class::Kv, "page bounds", bounds_len(heads, pages));
                if !away.bounds.is_empty() {
                    rec.copy(&away.bounds, 0, &bounds, 0, away.bounds.len());
                }
                away.bounds = bounds;
            }
            let need = (away.rows() + drops).min(host.most * PAGE);
            if need > away.back.capacity {
                let larger = away.back.another(gpu, &layer.basis, need.next_multiple_of(PAGE));
                if away.live > 0 {
                    move_rows(rec, &away.back, &larger);
                }
                away.back = larger;
            }
            let staged = host.staging.as_ref().map_or(0, |staging| staging.capacity);
            if drops > staged {
                host.staging = Some(away.back.another(gpu, &layer.basis, drops));
            }
        }
        if most_pages > host.scores.len() {
            host.scores = gpu.tensor(Class::Kv, "page scores", most_pages);
            host.stride = most_pages.min(host.most).next_multiple_of(VIEW_ALIGNMENT);
            host.wanted = gpu.tensor(Class::Kv, "wanted pages", layers * host.stride);
        }
        // What was replaced is held by bind groups alone.
        rec.forget();
    }

    /// Where the rows that a layer drops are to be packed, in its coordinates.
    pub fn staging(&self, layer: usize) -> Option<KvRows> {
        let staging = self.host.as_ref()?.staging.clone()?;
        Some(KvRows { basis: self.basis(layer).clone(), ..staging })
    }

    /// Records the departure of the first `count` rows of `staging`, of a block that begins at position `start`.
    ///
    /// # Errors
    /// What recording may refuse.
    pub fn offload(
        &mut self,
        rec: &mut Recorder,
        layer: usize,
        staging: &KvRows,
        start: usize,
        count: usize,
    ) -> Result<()> {
        let Some((host, away)) = each(&mut self.host, &mut self.layers[layer]) else { return Ok(()) };
        page_bounds(rec, staging, count, &away.bounds, away.pages())?;
        let read = |(tensor, first, width): (&Tensor<u32>, usize, usize)| {
            Words::Coming(rec.read(tensor, first, count * width))
        };
        let words = parts(staging).into_iter().map(read).collect();
        away.runs.push(Run { start, rows: count, words });
        if host.chooses(away) {
            away.dismiss();
        } else {
            kv_copy(rec, staging, 0, &away.back, away.live, count)?;
            away.live += count;
        }
        Ok(())
    }

    /// Takes rows that have arrived on the host; pending until all have.
    pub fn poll_arrivals(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let runs = self.layers.iter_mut().flat_map(|layer| &mut layer.away).flat_map(|away| &mut away.runs);
        for words in runs.flat_map(|run| &mut run.words) {
            if let Words::Coming(pending) = words {
                *words = Words::Here(ready!(Pin::new(pending).poll(cx))?);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Forgets what a block that began at position `start` has sent so far, and what is back with it.
    pub fn forget_offloaded(&mut self, start: usize) {
        for layer in &mut self.layers {
            let Some((host, away)) = each(&mut self.host, layer) else { continue };
            away.runs.retain(|run| run.start < start);
            // What fitted once was not written over since.
            away.live = if host.chooses(away) { 0 } else { away.rows() };
        }
    }

    /// Gives up recalled pages, where queries choose them: an answer begins with what it calls for itself.
    pub fn dismiss(&mut self) {
        for layer in &mut self.layers {
            if let Some((_, away)) = each(&mut self.host, layer).filter(|(host, away)| host.chooses(away)) {
                away.dismiss();
            }
        }
    }

    /// Records which pages of a layer the query `q` wants, given the log-sum-exp of the attention that it paid.
    ///
    /// # Errors
    /// What recording may refuse.
    pub fn want_pages(
        &self,
        rec: &mut Recorder,
        layer: usize,
        q: &Tensor<f32>,
        scale: f32,
        ends: &Tensor<f32>,
    ) -> Result<()> {
        let Some((host, away)) = self.host.as_ref().zip(self.layers[layer].away.as_ref()) else {
            return Ok(());
        };
        if !host.chooses(away) {
            return Ok(());
        }
        let pages = away.pages();
        page_score(rec, q, &away.bounds, pages, away.back.heads, scale, ends, &host.scores)?;
        let wanted = host.wanted.view(layer * host.stride, host.stride);
        select(rec, &host.scores, 1, pages, 0..host.most, 0, &wanted)
    }

    /// Reads which pages all layers want; nothing where none chooses.
    pub fn read_wanted(&self, rec: &mut Recorder) -> Option<Pending<u32>> {
        let host = self.host.as_ref()?;
        let chooses = self.layers.iter().flat_map(|layer| &layer.away).any(|away| host.chooses(away));
        chooses.then(|| rec.read(&host.wanted, 0, host.wanted.len()))
    }

    /// Brings back the pages that [`Cache::read_wanted`] named, in place of those that were there. All rows have
    /// arrived, and what was recorded is submitted.
    pub fn recall(&mut self, wanted: &[u32]) {
        for (l, layer) in self.layers.iter_mut().enumerate() {
            let Some((host, away)) = each(&mut self.host, layer).filter(|(host, away)| host.chooses(away))
            else {
                continue;
            };
            let ids = wanted.iter().skip(l * host.stride).take(host.most).map(|&id| id as usize);
            let pages: Vec<usize> = ids.filter(|&id| id < away.pages()).collect();
            let hits = pages.iter().filter(|page| away.present.contains(page)).count();
            host.hits += hits;
            host.recalls += pages.len() - hits;
            if pages != away.present {
                away.fetch(&self.gpu, pages);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use pollster::block_on;

    use super::*;
    use crate::gpu::AdapterChoice;
    use crate::kernels::check::{Check, Noise, poisoned};
    use crate::kernels::kv_code::{KvBits, hadamard};
    use crate::kernels::kv_read::kv_read;
    use crate::kernels::kv_row::Heads;
    use crate::kernels::kv_write::{Rows, kv_write};
    use crate::kv::policy::{Budget, KvOnly, LayerRows};
    use crate::kv::{Format, KvOptions, Memory, TierRows};

    const HEADS: Heads = Heads { query: 4, kv: 2, dim: 32 };
    const DROPPED: usize = 150;
    const NEEDLE: usize = 101;

    /// Plants a key that one head looks for among rows of noise, and asks for two pages of the ten.
    fn finds_the_needle(format: Format, policy: KvOnly) {
        let gpu = block_on(Gpu::open(&AdapterChoice::Best)).expect("a GPU adapter");
        let kv = KvOptions { offload: Some(2 * PAGE + 5), ..KvOptions::new(policy, format) };
        let mut cache = Cache::new(&Memory::Own(gpu.clone()), HEADS, &kv, &[TierRows::default()]).unwrap();
        let mut rec = Recorder::new(&gpu);
        let layer = LayerRows { retain: 50, protected: 9, ..LayerRows::dense(50 + DROPPED) };
        cache.reserve_host(&mut rec, &BlockPlan { layers: vec![layer], scoring: None });

        let mut noise = Noise::new(71);
        let (width, mut q) = (HEADS.kv_width(), noise.values(HEADS.q_width()));
        let (mut k, v) = (noise.values(DROPPED * width), noise.values(DROPPED * width));
        // Query head 3 reads KV head 1.
        k[NEEDLE * width + 32..][..32].iter_mut().zip(&q[96..]).for_each(|(k, q)| *k = 3.0 * q);
        if format.k.quantised() {
            q.chunks_exact_mut(32).for_each(hadamard);
        }
        let positions: Vec<u32> = (1000..1000 + DROPPED as u32).collect();
        let upload = |values: &[f32]| gpu.tensor_with(Class::Scratch, "operand", values);
        let (device_k, device_v, device_q) = (upload(&k), upload(&v), upload(&q));
        let (ends, positions) =
            (upload(&[0.0, 1.0].repeat(4)), gpu.tensor_with(Class::Scratch, "positions", &positions));
        let staging = cache.staging(0).unwrap();
        let all = Rows::From(0);
        kv_write(&mut rec, &device_k, &device_v, 0, positions.bind(), all, &staging, 0, DROPPED).unwrap();
        cache.offload(&mut rec, 0, &staging, 0, DROPPED).unwrap();

        for turn in 1..=2 {
            cache.want_pages(&mut rec, 0, &device_q, 0.5, &ends).unwrap();
            let wanted = cache.read_wanted(&mut rec).expect("ten pages do not fit");
            rec.submit();
            let wanted = block_on(wanted).unwrap();
            block_on(poll_fn(|cx| cache.poll_arrivals(cx))).unwrap();
            cache.recall(&wanted);
            let report = cache.host_report().unwrap();
            assert_eq!(report, HostReport { rows: DROPPED, recalls: 2, hits: 2 * (turn - 1) });
        }

        let (rows, live) = cache.readable(0).next().unwrap();
        assert_eq!(live, 2 * PAGE);
        let (got_k, got_v) = (poisoned(&gpu, live * width), poisoned(&gpu, live * width));
        let bias = poisoned(&gpu, 1);
        kv_read(&mut rec, rows, live, &got_k, &got_v, &bias, 0).unwrap();
        let reads = [&got_k, &got_v].map(|tensor| rec.read(tensor, 0, tensor.len()));
        let book = rec.read(&rows.book, 0, rows.book.len());
        rec.submit();
        let book = block_on(book).unwrap();
        for set in book.chunks_exact(4 * rows.capacity) {
            let at: Vec<usize> = (0..live).map(|r| set[rows.capacity + r] as usize - 1000).collect();
            assert!(at.contains(&NEEDLE), "{format:?}: {at:?}");
        }
        let at = |r: usize| book[rows.capacity + r] as usize - 1000;
        for (read, source) in reads.into_iter().zip([&k, &v]) {
            let want: Vec<f32> = (0..live).flat_map(|r| source[at(r) * width..][..width].to_vec()).collect();
            let check = Check::compare("recalled", &block_on(read).unwrap(), &want, 0.02);
            assert!(check.passed(), "{format:?}: {check:?}");
        }
    }

    #[test]
    fn a_page_with_a_needle_comes_back_whole() {
        finds_the_needle(Format::F16, KvOnly::shared(Budget::Share(0.5)));
        finds_the_needle(Format::both(KvBits::Eight), KvOnly::per_head(Budget::Share(0.5)));
    }
}
