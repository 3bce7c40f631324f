//! The live rows of a sequence as they are packed, off the device: for conversations that leave the device and return.

use super::cache::{Cache, GRAIN};
use super::share::copy_rows;
use super::tier::Role;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::kv_row::KvRows;
use crate::{Error, Result};

/// Words of a row in a book, beside its place in the table: position and two running sums.
const BOOK_WORDS: usize = 3;

/// One layer's live rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PackedLayer {
    /// What keys are relative to, `[KV head * dim]`; empty where they are stored as they are.
    pub centre: Vec<f32>,
    /// What the first tokens are rotated from where they follow the window, one after the other; empty elsewhere.
    pub first_tokens: Vec<f32>,
    /// The rows of each role that has any.
    pub tiers: Vec<PackedTier>,
}

/// One layer's live rows of one role, in table order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTier {
    /// What they are for.
    pub role: Role,
    /// How many.
    pub rows: usize,
    /// Keys, values and steps, `[rows][words]` each; see [`Cache::widths`].
    pub words: [Vec<u32>; 3],
    /// Position and running sums, `[table][3][rows]`.
    pub book: Vec<u32>,
}

impl Cache {
    /// Words that a row of a role has of keys, values, steps, and in the book; absent, there is no such tier.
    pub fn widths(&self, layer: usize, role: Role) -> Option<([usize; 3], usize)> {
        let tier = self.own(layer).iter().find(|tier| tier.role == role)?;
        Some((tier.rows.slots().map(|(_, words)| words), tier.rows.sets * BOOK_WORDS))
    }

    /// Reads a layer's live rows, shared ones too.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn pack(&self, rec: &mut Recorder, layer: usize) -> Result<PackedLayer> {
        let mut packed = PackedLayer::default();
        let centre = &self.basis(layer).centre;
        if !centre.is_empty() {
            let read = rec.read(centre, 0, centre.len());
            rec.submit();
            packed.centre = read.await?;
        }
        for token in self.first_tokens(layer) {
            let read = rec.read(token, 0, token.len());
            rec.submit();
            packed.first_tokens.extend(read.await?);
        }
        for tier in self.own(layer) {
            let rows = self.layer(layer).iter().filter(|t| t.role == tier.role).map(|t| t.live).sum();
            if rows == 0 {
                continue;
            }
            // In a pool of exactly these rows, the slots stand in table order.
            let exact = tier.rows.another(rec.gpu(), &tier.rows.basis, rows);
            copy_rows(rec, self.layer(layer), tier.role, &exact)?;
            let book = rec.read(&exact.book, 0, exact.book.len());
            let mut words = [const { Vec::new() }; 3];
            for ((tensor, width), words) in exact.slots().into_iter().zip(&mut words) {
                if width > 0 {
                    let read = rec.read(tensor, 0, rows * width);
                    rec.submit();
                    *words = read.await?;
                }
            }
            let book = book.await?.chunks_exact(4 * rows).flat_map(|set| set[rows..].to_vec()).collect();
            packed.tiers.push(PackedTier { role: tier.role, rows, words, book });
        }
        Ok(packed)
    }

    /// Fills an empty layer with rows that [`Cache::pack`] read.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they are not of this cache's formats and tables.
    pub fn unpack(&mut self, layer: usize, packed: &PackedLayer) -> Result<()> {
        let (gpu, memory, basis) = (self.gpu.clone(), self.memory.clone(), self.basis(layer).clone());
        let firsts: usize = self.first_tokens(layer).iter().map(Tensor::len).sum();
        if packed.centre.len() != basis.centre.len() || packed.first_tokens.len() != firsts {
            return Err(misfit(layer));
        }
        let mut at = 0;
        for token in self.first_tokens(layer) {
            gpu.write(token, 0, &packed.first_tokens[at..at + token.len()]);
            at += token.len();
        }
        gpu.write(&basis.centre, 0, &packed.centre);
        for from in &packed.tiers {
            let tiers = &mut self.layers[layer].tiers;
            let tier = tiers.iter_mut().find(|tier| tier.role == from.role).ok_or_else(|| misfit(layer))?;
            let rows = tier.rows.another(memory.layer(layer), &basis, from.rows.next_multiple_of(GRAIN));
            for ((tensor, width), words) in rows.slots().into_iter().zip(&from.words) {
                write(&gpu, tensor, words, from.rows.checked_mul(width)).ok_or_else(|| misfit(layer))?;
            }
            write_book(&gpu, &rows, from).ok_or_else(|| misfit(layer))?;
            (tier.rows, tier.live) = (rows, from.rows);
        }
        Ok(())
    }
}

fn misfit(layer: usize) -> Error {
    Error::Invalid(format!("the rows of layer {layer} are not of this cache's formats"))
}

fn write(gpu: &crate::gpu::Gpu, tensor: &Tensor<u32>, words: &[u32], wanted: Option<usize>) -> Option<()> {
    (Some(words.len()) == wanted).then(|| gpu.write(tensor, 0, words))
}

/// Positions and sums by slot; the table lists the slots in order, as a new one does.
fn write_book(gpu: &crate::gpu::Gpu, rows: &KvRows, from: &PackedTier) -> Option<()> {
    if Some(from.book.len()) != from.rows.checked_mul(rows.sets * BOOK_WORDS) {
        return None;
    }
    for (i, region) in from.book.chunks_exact(from.rows).enumerate() {
        let (set, region_of_set) = (i / BOOK_WORDS, 1 + i % BOOK_WORDS);
        gpu.write(&rows.book, (4 * set + region_of_set) * rows.capacity, region);
    }
    Some(())
}
