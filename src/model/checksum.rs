//! What tells a model from another one: rows of one mean nothing to the other.

use super::Model;
use crate::Result;
use crate::gpu::{Class, Recorder};
use crate::kernels::matrix::Matrix;
use crate::kernels::part::Part;

impl Model {
    /// A hash of the model's shape and of a sample of every matrix as it is on the device, so that other weights and
    /// the same ones in another format differ.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    pub async fn checksum(&self) -> Result<u64> {
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
        let shape = super::Config { name: String::new(), profile: None, ..self.config.clone() };
        Ok(hash(format!("{shape:?}").bytes().chain(read.into_iter().flat_map(u32::to_le_bytes))))
    }
}

/// FNV-1a, the same on every machine and in every version.
pub(super) fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
