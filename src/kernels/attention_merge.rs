//! Joins the parts that [`attention_decode`](super::attention_decode) leaves.

use super::attention_parts::{Left, Room, partial_len};
use super::check::{Check, Noise, poisoned};
use super::jobs::groups;
use super::kv_code::hadamard;
use super::kv_row::Heads;
use super::team::{team_groups, team_key};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader =
    Shader { stem: "attention_merge", text: include_str!("../../shaders/attention_merge.wgsl") };

/// The maximum of a part without rows.
const EMPTY: f32 = -3.4e38;

uniform! {
    struct Job {
        heads: u32,
        splits: u32,
        partials_from: u32,
        out_from: u32,
        ends_from: u32,
    }
}

/// The parts of one token.
#[derive(Debug, Clone, Copy)]
pub struct Merge {
    /// How many there are of each head.
    pub splits: usize,
    /// Transforms the output back.
    pub v_rotated: bool,
    /// Where they are, and where its ends go.
    pub left: Left,
    /// Where its values begin in `out`.
    pub out_from: usize,
}

fn key(family: Family, head_dim: usize, rotated: bool) -> ShaderKey {
    team_key(SHADER, family, head_dim).flag("ROTATED", rotated)
}

/// Both families, with and without the transform back, on heads of 64.
pub fn variants() -> Vec<ShaderKey> {
    let families = [Family::Lanes, Family::Groups];
    families.into_iter().flat_map(|f| [key(f, 64, false), key(f, 64, true)]).collect()
}

/// Records the merge of each token's parts (`[H][S][hd + 2]`), of which at least one of each head is not empty, into its
/// output (`[H * hd]` of `out`) and its ends (`[H][2]`). Parts and ends are in `rooms`.
pub fn attention_merge(
    rec: &mut Recorder,
    rooms: &Tensor<f32>,
    heads: Heads,
    merges: &[Merge],
    out: &Tensor<f32>,
) -> Result<()> {
    let family = rec.gpu().tuning().family;
    for group in groups(merges, |a, b| a.v_rotated == b.v_rotated) {
        let kernel = rec.gpu().kernel(&key(family, heads.dim, group[0].v_rotated))?;
        let job = |merge: &&Merge| Job {
            heads: heads.query as u32,
            splits: merge.splits as u32,
            partials_from: merge.left.partials_from as u32,
            out_from: merge.out_from as u32,
            ends_from: merge.left.ends_from as u32,
        };
        let jobs: Vec<Job> = group.iter().map(job).collect();
        let bindings = [rooms.bind(), out.bind()];
        rec.dispatch_jobs(&kernel, &jobs, &bindings, [team_groups(family, heads.query), 1])?;
    }
    Ok(())
}

/// The CPU twin: output and ends.
pub fn twin(partial: &[f32], heads: Heads, splits: usize, v_rotated: bool) -> (Vec<f32>, Vec<f32>) {
    let (mut out, mut ends) = (Vec::new(), Vec::new());
    for head in partial.chunks_exact(splits * (heads.dim + 2)) {
        let parts = || head.chunks_exact(heads.dim + 2);
        let top = parts().map(|p| f64::from(p[heads.dim])).fold(f64::NEG_INFINITY, f64::max);
        let weight = |p: &[f32]| (f64::from(p[heads.dim]) - top).exp();
        let total: f64 = parts().map(|p| weight(p) * f64::from(p[heads.dim + 1])).sum();
        let value = |i: usize| parts().map(|p| weight(p) * f64::from(p[i])).sum::<f64>() / total;
        let mut row: Vec<f32> = (0..heads.dim).map(|i| value(i) as f32).collect();
        if v_rotated {
            hadamard(&mut row);
        }
        out.extend(row);
        ends.extend([top as f32, total as f32]);
    }
    (out, ends)
}

async fn check(gpu: &Gpu, heads: Heads, splits: usize, v_rotated: bool) -> Result<Vec<Check>> {
    let mut noise = Noise::new(31);
    let mut parts = noise.values(2 * partial_len(heads, splits));
    for (i, part) in parts.chunks_exact_mut(heads.dim + 2).enumerate() {
        let empty = i % splits != 0 && noise.below(3) == 0;
        if empty {
            part.fill(0.0);
        }
        part[heads.dim] = if empty { EMPTY } else { 9.0 * part[heads.dim] };
        part[heads.dim + 1] = part[heads.dim + 1].abs() + if empty { 0.0 } else { 1.0 };
    }
    let (room, out) = (Room::new(heads, splits, 0), poisoned(gpu, 2 * heads.q_width()));
    let mut rooms = vec![f32::NAN; 2 * room.values()];
    let half = partial_len(heads, splits);
    for (i, parts) in parts.chunks_exact(half).enumerate() {
        rooms[room.at(i * room.values()).partials_from..][..half].copy_from_slice(parts);
    }
    let rooms = gpu.tensor_with(Class::Scratch, "rooms", &rooms);
    let mut rec = Recorder::new(gpu);
    // The second token's output has the first one's place.
    let merge = |i: usize| Merge {
        splits,
        v_rotated,
        left: room.at(i * room.values()),
        out_from: (1 - i) * heads.q_width(),
    };
    attention_merge(&mut rec, &rooms, heads, &[merge(0), merge(1)], &out)?;
    let (got_out, got) = (rec.read(&out, 0, out.len()), rec.read(&rooms, 0, rooms.len()));
    rec.submit();
    let mut want = twin(&parts, heads, splits, v_rotated);
    want.0.rotate_left(heads.q_width());
    let got = got.await?;
    let got_ends: Vec<f32> =
        got.chunks_exact(room.values()).flat_map(|room| &room[..2 * heads.query]).copied().collect();
    let label = format!("attention_merge {splits} parts, {heads:?}, rotated {v_rotated}");
    Ok(vec![
        Check::compare(label.clone() + ", out", &got_out.await?, &want.0, 1e-5),
        Check::compare(label + ", ends", &got_ends, &want.1, 1e-5),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut out = check(gpu, Heads { query: 9, kv: 3, dim: 64 }, 32, true).await?;
    out.extend(check(gpu, Heads { query: 2, kv: 1, dim: 80 }, 3, false).await?);
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
            query in 1usize..12,
            dim in prop::sample::select(vec![64usize, 80, 96, 256]),
            splits in 1usize..40,
            rotated in any::<bool>(),
        ) {
            let heads = Heads { query, kv: 1, dim };
            for gpu in families() {
                assert_passed(pollster::block_on(check(&gpu, heads, splits, rotated)));
            }
        }
    }
}
