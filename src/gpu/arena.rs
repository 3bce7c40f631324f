//! Tensors cut out of larger buffers, so that one binding serves many of them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::account::Class;
use super::device::Gpu;
use super::tensor::{Element, Tensor, VIEW_ALIGNMENT};

/// Buffers of one kind, from which tensors are cut; what a dropped tensor leaves is cut again.
#[derive(Debug)]
pub struct Arena<T> {
    gpu: Gpu,
    class: Class,
    label: &'static str,
    chunks: Vec<Chunk<T>>,
}

#[derive(Debug)]
struct Chunk<T> {
    whole: Tensor<T>,
    free: Free,
}

/// The ranges of a buffer that nobody holds, ascending and apart.
#[derive(Debug, Clone, Default)]
struct Free(Arc<Mutex<Vec<Range<usize>>>>);

/// A range of a buffer that a tensor holds.
#[derive(Debug)]
pub(super) struct Lease {
    free: Free,
    range: Range<usize>,
}

impl Free {
    fn lock(&self) -> MutexGuard<'_, Vec<Range<usize>>> {
        // Nothing that runs under this lock leaves it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first `len` values of the first range that is long enough.
    fn take(&self, len: usize) -> Option<Lease> {
        let mut ranges = self.lock();
        let place = ranges.iter().position(|range| range.len() >= len)?;
        let start = ranges[place].start;
        ranges[place].start += len;
        if ranges[place].is_empty() {
            ranges.remove(place);
        }
        Some(Lease { free: self.clone(), range: start..start + len })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut ranges = self.free.lock();
        let place = ranges.partition_point(|range| range.start < self.range.start);
        ranges.insert(place, self.range.clone());
        if ranges.get(place + 1).is_some_and(|next| next.start == ranges[place].end) {
            ranges[place].end = ranges.remove(place + 1).end;
        }
        if place > 0 && ranges[place - 1].end == ranges[place].start {
            ranges[place - 1].end = ranges.remove(place).end;
        }
    }
}

impl<T: Element> Arena<T> {
    /// An arena without any buffer yet.
    pub fn new(gpu: &Gpu, class: Class, label: &'static str) -> Self {
        Self { gpu: gpu.clone(), class, label, chunks: Vec::new() }
    }

    /// A tensor of `len` values, which are whatever was there before. The newest buffer with room for it has most other
    /// tensors. Where none has, a new one is made for `expect` such tensors, or as many as one binding covers.
    pub fn tensor(&mut self, len: usize, expect: usize) -> Tensor<T> {
        let room = len.max(1).next_multiple_of(VIEW_ALIGNMENT);
        let cut = |chunk: &Chunk<T>| chunk.free.take(room).map(|lease| chunk.whole.leased(lease, len));
        if let Some(tensor) = self.chunks.iter().rev().find_map(cut) {
            return tensor;
        }
        let most = self.gpu.max_binding_bytes() as usize / (room * size_of::<T>());
        let values = room * expect.clamp(1, most.max(1));
        let whole = self.gpu.tensor(self.class, self.label, values);
        let free = Free::default();
        if values > room {
            free.lock().push(room..values);
        }
        let tensor = whole.leased(Lease { free: free.clone(), range: 0..room }, len);
        self.chunks.push(Chunk { whole, free });
        tensor
    }
}

impl Lease {
    /// The first value of the range.
    pub fn first(&self) -> usize {
        self.range.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(ranges: &[Range<usize>]) -> Free {
        Free(Arc::new(Mutex::new(ranges.to_vec())))
    }

    #[test]
    fn what_is_given_back_is_whole_again() {
        let all = 0..1000;
        let free = free(std::slice::from_ref(&all));
        let mut leases: Vec<_> = (0..10).map(|_| free.take(100).unwrap()).collect();
        assert!(free.take(1).is_none());
        // First every other one, then those between them, which join their neighbours on both sides.
        let odd: Vec<_> = leases.extract_if(.., |lease| lease.range.start % 200 == 100).collect();
        drop(odd);
        assert_eq!(free.lock().len(), 5);
        drop(leases);
        assert_eq!(*free.lock(), std::slice::from_ref(&all));
    }

    #[test]
    fn the_first_gap_that_fits_is_taken() {
        let free = free(&[0..64, 128..1000]);
        assert_eq!(free.take(128).unwrap().range, 128..256);
        assert_eq!(free.take(64).unwrap().range, 0..64);
    }
}
