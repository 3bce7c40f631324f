//! Random rows, so that decode can be measured at depths whose prompts would take too long to run.

use half::f16;

use super::Cache;
use super::tier::TierRows;
use crate::Result;
use crate::gpu::Recorder;
use crate::kernels::fill::{Fill, fill};
use crate::kernels::kv_code::KvBits;

impl Cache {
    /// Records random rows for an empty cache, so many in each layer, and lists them as live. They read as a prompt's
    /// do: in the formats of their tiers, each in a slot of its own.
    ///
    /// # Errors
    /// What recording may refuse.
    pub fn fill_at_random(&mut self, rec: &mut Recorder, rows: &[TierRows]) -> Result<()> {
        let mut seed = 0;
        for (l, &rows) in rows.iter().enumerate() {
            for tier in self.own(l) {
                let pool = &tier.rows;
                for (words, bits) in [(&pool.k_words, pool.format.k), (&pool.v_words, pool.format.v)] {
                    seed += 1;
                    fill(rec, words, random(bits, seed))?;
                }
                if pool.format.quantised() {
                    fill(rec, &pool.steps, Fill::Constant(step(pool.format.v) | step(pool.format.k) << 16))?;
                }
                let positions: Vec<u32> = (0..rows.of(tier.role) as u32).collect();
                for set in 0..pool.sets {
                    self.gpu.write(&pool.book, (4 * set + 1) * pool.capacity, &positions);
                }
            }
            self.add(l, rows);
        }
        Ok(())
    }
}

/// Values of about one.
fn random(bits: KvBits, seed: u32) -> Fill {
    if bits.quantised() { Fill::Bits(seed) } else { Fill::Halves(seed, 1.0) }
}

/// The step that takes the codes of `bits` to ± 1.
fn step(bits: KvBits) -> u32 {
    u32::from(f16::from_f32(2.0 / (1 << bits.bits()) as f32).to_bits())
}
