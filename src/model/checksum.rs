//! What tells a model from another one: rows of one mean nothing to the other.

use super::{Config, Model};
use crate::Result;
use crate::digest::Digest;
use crate::gpu::{Class, Recorder};
use crate::kernels::kv_row::Heads;
use crate::kernels::matrix::Matrix;
use crate::kernels::part::Part;

impl Model {
    /// A hash of the model's shape and of a sample of every matrix as it is on the device, so that other weights and
    /// the same ones in another format differ. 16 hexadecimal digits.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub async fn checksum(&self) -> Result<String> {
        let layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        let parts: Vec<_> = layers.chain([&self.embedding]).flat_map(Matrix::parts).collect();
        let sample =
            self.gpu.tensor::<u32>(Class::Scratch, "sample of the weights", parts.len() * Part::SAMPLE);
        let mut rec = Recorder::new(&self.gpu);
        for (i, part) in parts.iter().enumerate() {
            rec.copy(&part.sample, 0, &sample, i * Part::SAMPLE, part.sample.len());
        }
        let read = rec.read(&sample, 0, sample.len());
        rec.submit();
        let read = read.await?;
        self.gpu.check()?;
        Ok(self.config.shape().words(&read).hex())
    }
}

impl Config {
    /// A hash of what rows and activations of the model depend on besides its weights.
    fn shape(&self) -> Digest {
        let Self { layers, width, heads: Heads { query, kv, dim }, kv_sharing, ffn, vocab, .. } = *self;
        Digest::of("model/1")
            .text(&self.architecture)
            .sizes(&[layers, width, query, kv, dim, kv_sharing, ffn, vocab])
            .sizes(&[self.rope.dims, usize::from(self.rope.interleaved)])
            .numbers(&self.rope.frequencies())
            .numbers(&[self.rope.magnitude, self.epsilon])
    }

    /// What tells the model from others of its shape, however its matrices are quantised: a hash of its sizes and of its
    /// last norm's weights, which files keep in full. 16 hexadecimal digits.
    pub(super) fn fingerprint_of(&self, last_norm: &[f32]) -> String {
        let Self { layers, width, heads: Heads { query, kv, dim }, ffn, .. } = *self;
        Digest::of("fingerprint/1").sizes(&[layers, width, query, kv, dim, ffn]).numbers(last_norm).hex()
    }
}
