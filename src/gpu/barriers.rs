//! How many barriers wgpu puts between the dispatches of a pass.
//!
//! A device may run dispatches side by side that no barrier separates; after one it starts anew. wgpu 30 decides by what
//! it knows of whole buffers and textures, whatever ranges are bound: a dispatch finds each resource that it binds as
//! the last dispatch of the pass left it, to be read or to be written, and unless both only read it there is a barrier
//! before it, one for all its resources together. Two dispatches that write different ranges of a buffer are separated
//! too, and a barrier that stands between two dispatches already saves no other resource its own. The parameters' uniform
//! is only ever read.
//!
//! Not counted is what stands around passes: before a pass, and around each copy.

use std::collections::HashMap;

/// What the resources of a pass were last used for.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    written: HashMap<u64, bool>,
}

impl Barriers {
    /// Notes a dispatch by the identities of the resources that it binds, and which of them it may write. True if a
    /// barrier stands before it.
    pub fn dispatch(&mut self, uses: impl Iterator<Item = (u64, bool)> + Clone) -> bool {
        let waits = |(id, writes)| self.written.get(&id).is_some_and(|&written| written || writes);
        let barrier = uses.clone().any(waits);
        self.written.extend(uses);
        barrier
    }

    /// A pass ended.
    pub fn end_pass(&mut self) {
        self.written.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AdapterChoice, Class, Gpu, Recorder, Shader, ShaderKey, uniform};
    use super::*;

    /// Which of the dispatches, each a list of resources read and of resources written, a barrier precedes.
    fn barriers<const N: usize>(dispatches: [(&[u64], &[u64]); N]) -> [bool; N] {
        let mut pass = Barriers::default();
        dispatches.map(|(read, written)| {
            let read = read.iter().map(|&id| (id, false));
            pass.dispatch(read.chain(written.iter().map(|&id| (id, true))))
        })
    }

    #[test]
    fn only_readers_of_a_buffer_run_side_by_side() {
        assert_eq!(barriers([(&[1], &[2]), (&[1], &[3]), (&[1], &[4])]), [false; 3]);
        assert_eq!(barriers([(&[1], &[2]), (&[2], &[3]), (&[2], &[4])]), [false, true, false]);
        // Written twice; written after it was read.
        assert_eq!(barriers([(&[], &[1]), (&[], &[1])]), [false, true]);
        assert_eq!(barriers([(&[1], &[2]), (&[3], &[1])]), [false, true]);
    }

    #[test]
    fn a_barrier_for_one_buffer_serves_no_other() {
        assert_eq!(barriers([(&[], &[1, 2]), (&[1], &[3]), (&[2], &[4])]), [false, true, true]);
        // Bound twice by one dispatch.
        assert_eq!(barriers([(&[], &[1, 1]), (&[1, 1], &[2])]), [false, true]);
    }

    uniform! {
        struct Params {
            step: u32,
        }
    }

    const STEP: Shader = Shader {
        stem: "step",
        text: "struct Params {
                step: u32,
            }
            @group(0) @binding(0) var<uniform> params: Params;
            @group(0) @binding(1) var<storage, read> source: array<u32>;
            @group(0) @binding(2) var<storage, read_write> target_word: array<u32>;
            @compute @workgroup_size(1) fn main() { target_word[0] = source[0] + params.step; }",
    };

    #[test]
    fn a_recorder_counts_them_by_pass() {
        let gpu = pollster::block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
        let [a, b, c] = ["a", "b", "c"].map(|label| gpu.tensor::<u32>(Class::Scratch, label, 128));
        let kernel = gpu.kernel(&ShaderKey::new(STEP)).expect("a shader");
        let mut rec = Recorder::new(&gpu);
        let step = |rec: &mut Recorder, from: &crate::gpu::Tensor<u32>, to: &crate::gpu::Tensor<u32>| {
            rec.dispatch(&kernel, &Params { step: 1 }, &[from.bind(), to.bind()], [1, 1, 1])
                .expect("recorded");
            gpu.counters().barriers
        };
        assert_eq!(step(&mut rec, &a, &b), 0);
        assert_eq!(step(&mut rec, &b, &c), 1);
        assert_eq!(step(&mut rec, &a, &c.view(64, 64)), 2, "another range of what was written");
        rec.copy(&a, 0, &b, 0, 1);
        assert_eq!(step(&mut rec, &b, &c), 2, "a copy ends the pass");
        rec.submit();
        assert_eq!(step(&mut rec, &c, &b), 2, "a submission ends the pass");
        assert_eq!(step(&mut rec, &c, &a), 2, "both read c");
        rec.submit();
        gpu.check().expect("sound");
    }
}
