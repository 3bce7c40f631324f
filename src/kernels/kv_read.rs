//! Unpacks the live rows of a layer's cache, for chunks of a prompt after the first.

use super::check::{Check, Noise, poisoned};
use super::kv_code::KvBits;
use super::kv_row::{Format, Heads, Kind, KvRows};
use super::kv_sample::Sample;
use super::team::{team_groups, team_key};
use crate::Result;
use crate::gpu::{Family, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "kv_read", text: include_str!("../../shaders/kv_read.wgsl") };

uniform! {
    struct Params {
        count: u32,
        to: u32,
        kv_heads: u32,
        capacity: u32,
        sets: u32,
    }
}

fn key(family: Family, head_dim: usize, kind: Kind, biased: bool) -> ShaderKey {
    kind.key(team_key(SHADER, family, head_dim)).flag("BIASED", biased)
}

/// Every width of this kernel in both families, on heads of 64; keys also with biases.
pub fn variants() -> Vec<ShaderKey> {
    let kinds = || Kind::all().into_iter();
    let biased = kinds().filter(|kind| !kind.values).map(|kind| (kind, true));
    let all: Vec<_> = kinds().map(|kind| (kind, false)).chain(biased).collect();
    let families = [Family::Lanes, Family::Groups].into_iter();
    families.flat_map(|f| all.clone().into_iter().map(move |(kind, b)| key(f, 64, kind, b))).collect()
}

/// Records the unpacking of the first `count` live rows, in table order, into the rows of `k` and `v`
/// (`[>= to + count, G * hd]`) from row `to` on, in the coordinates that they had before they were packed. What is
/// added to the logits of merged rows goes to the same rows of `bias` (`[>= to + count, G]`).
pub fn kv_read(
    rec: &mut Recorder,
    rows: &KvRows,
    count: usize,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    bias: &Tensor<f32>,
    to: usize,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let family = rec.gpu().tuning().family;
    let params = Params {
        count: count as u32,
        to: to as u32,
        kv_heads: rows.heads.kv as u32,
        capacity: rows.capacity as u32,
        sets: rows.sets as u32,
    };
    let grid = [team_groups(family, count), rows.heads.kv as u32, 1];
    let [keys, values] = Kind::both(rows.format, &rows.basis);
    for (kind, words, out) in [(keys, &rows.k_words, k), (values, &rows.v_words, v)] {
        let biased = rows.merged && !kind.values;
        let kernel = rec.gpu().kernel(&key(family, rows.heads.dim, kind, biased))?;
        let (steps, centre) = (rows.steps.bind(), rows.basis.centre.bind());
        let mut bindings = vec![words.bind(), steps, centre, rows.book.bind(), out.bind()];
        bindings.extend(biased.then(|| bias.bind()));
        rec.dispatch(&kernel, &params, &bindings, grid)?;
    }
    Ok(())
}

async fn check(
    gpu: &Gpu,
    heads: Heads,
    format: Format,
    rows: (usize, usize),
    (sets, merged): (usize, bool),
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(11);
    let mut sample = Sample::new(gpu, &mut noise, heads, format, rows, sets)?;
    let biases = if merged { sample.merge(gpu, &mut noise) } else { vec![f32::NAN; rows.1 * heads.kv] };
    let (to, (capacity, count)) = (3, rows);
    let (first, len) = (to * heads.kv_width(), count * heads.kv_width());
    let (k, v) = (poisoned(gpu, first + len), poisoned(gpu, first + len));
    let bias = poisoned(gpu, (to + count) * heads.kv);
    let mut rec = Recorder::new(gpu);
    kv_read(&mut rec, &sample.rows, count, &k, &v, &bias, to)?;
    let (got_k, got_v) = (rec.read(&k, 0, k.len()), rec.read(&v, 0, v.len()));
    let got_bias = rec.read(&bias, 0, bias.len());
    rec.submit();
    let label = format!("kv_read {count} of {capacity}, {format:?}, {heads:?}, {sets} sets, merged {merged}");
    let poison = vec![f32::NAN; first];
    Ok(vec![
        Check::compare(label.clone() + ", k", &got_k.await?, &[&poison[..], &sample.k].concat(), 1e-5),
        Check::compare(label.clone() + ", v", &got_v.await?, &[&poison[..], &sample.v].concat(), 1e-5),
        Check::compare(
            label + ", bias",
            &got_bias.await?,
            &[&poison[..to * heads.kv], &biases].concat(),
            0.0,
        ),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let heads = |query, kv, dim| Heads { query, kv, dim };
    let mixed = Format { k: KvBits::Sixteen, v: KvBits::Four };
    let mut out = check(gpu, heads(9, 3, 64), mixed, (50, 37), (3, true)).await?;
    let mixed = Format { k: KvBits::Three, v: KvBits::Two };
    out.extend(check(gpu, heads(4, 2, 96), mixed, (9, 9), (1, false)).await?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families, formats};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn agrees_with_its_twin(
            kv in 1usize..5,
            dim in prop::sample::select(vec![32usize, 64, 96]),
            format in formats(),
            rows in (1usize..70).prop_flat_map(|c| (Just(c), 1..=c)),
            per_head in any::<bool>(),
            merged in any::<bool>(),
        ) {
            let heads = Heads { query: kv, kv, dim };
            for gpu in families() {
                let sets = if per_head { kv } else { 1 };
                assert_passed(pollster::block_on(check(&gpu, heads, format, rows, (sets, merged))));
            }
        }
    }
}
