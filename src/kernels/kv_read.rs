//! Unpacks the live rows of a layer's cache, for chunks of a prompt after the first.

use super::check::{Check, Noise, poisoned};
use super::kv_row::{Heads, KvBits, KvRows};
use super::kv_sample::Sample;
use super::team::{team_groups, team_key};
use crate::Result;
use crate::gpu::{Family, Gpu, Recorder, Shader, ShaderKey, Tensor};

const SHADER: Shader = Shader { stem: "kv_read", text: include_str!("../../shaders/kv_read.wgsl") };

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    kv_heads: u32,
    capacity: u32,
    sets: u32,
}

fn key(family: Family, head_dim: usize, bits: KvBits) -> ShaderKey {
    team_key(SHADER, family, head_dim).with("BITS", bits.bits())
}

/// Every width of this kernel in both families, on heads of 64.
pub fn variants() -> Vec<ShaderKey> {
    let families = [Family::Lanes, Family::Groups];
    families.into_iter().flat_map(|f| KvBits::ALL.map(|bits| key(f, 64, bits))).collect()
}

/// Records the unpacking of the first `count` live rows, in table order, into the first rows of `k` and `v`
/// (`[>= count, G * hd]`), transformed back where they were transformed.
pub fn kv_read(
    rec: &mut Recorder,
    rows: &KvRows,
    count: usize,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
) -> Result<()> {
    let family = rec.gpu().tuning().family;
    let params = Params {
        count: count as u32,
        kv_heads: rows.heads.kv as u32,
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
    };
    let grid = [team_groups(family, count), rows.heads.kv as u32, 1];
    for (bits, words, scales, out) in
        [(rows.k_bits, &rows.k_words, &rows.k_scales, k), (rows.v_bits, &rows.v_words, &rows.v_scales, v)]
    {
        let kernel = rec.gpu().kernel(&key(family, rows.heads.dim, bits))?;
        let bindings = [words.bind(), scales.bind(), rows.book.bind(), out.bind()];
        rec.dispatch(&kernel, &params, &bindings, grid)?;
    }
    Ok(())
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    (k_bits, v_bits): (KvBits, KvBits),
    capacity: usize,
    count: usize,
    sets: usize,
) -> Result<Vec<Check>> {
    let rows = KvRows::new(gpu, heads, k_bits, v_bits, capacity, sets)?;
    let sample = Sample::new(gpu, &mut Noise::new(11), rows, count);
    let len = count * heads.kv_width();
    let (k, v) = (poisoned(gpu, len), poisoned(gpu, len));
    let mut rec = Recorder::new(gpu);
    kv_read(&mut rec, &sample.rows, count, &k, &v)?;
    let (got_k, got_v) = (rec.read(&k, 0, len), rec.read(&v, 0, len));
    rec.submit();
    let label = format!("kv_read {count} of {capacity}, {k_bits:?} {v_bits:?}, {heads:?}, {sets} sets");
    Ok(vec![
        Check::compare(label.clone() + ", k", &got_k.await?, &sample.k, 1e-5),
        Check::compare(label + ", v", &got_v.await?, &sample.v, 1e-5),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let heads = |query, kv, dim| Heads { query, kv, dim };
    let mut out = check(gpu, heads(9, 3, 64), (KvBits::Sixteen, KvBits::Four), 50, 37, 3).await?;
    out.extend(check(gpu, heads(4, 2, 96), (KvBits::Eight, KvBits::Four), 9, 9, 1).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..5,
            dim in prop::sample::select(vec![32usize, 64, 96]),
            bits in (0usize..3, 0usize..3),
            (capacity, count) in (1usize..70).prop_flat_map(|c| (Just(c), 1..=c)),
            per_head in any::<bool>(),
        ) {
            let heads = Heads { query: kv, kv, dim };
            let bits = (KvBits::ALL[bits.0], KvBits::ALL[bits.1]);
            for gpu in families() {
                let sets = if per_head { kv } else { 1 };
                assert_passed(pollster::block_on(check(&gpu, heads, bits, capacity, count, sets)));
            }
        }
    }
}
