//! For each row that is not kept, the kept row whose key is most like its own: D2O's choice (Wan et al., arXiv
//! 2406.13035), by the cosine of the rotated keys, since those are what later queries meet.

use std::ops::Range;

use super::check::{Check, Noise};
use crate::Result;
use crate::gpu::{Binding, Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "nearest", text: include_str!("../../shaders/nearest.wgsl") };

/// What a row that is not kept has where no kept row is like it.
pub const NOWHERE: u32 = u32::MAX;

uniform! {
    struct Params {
        rows: u32,
        prefix: u32,
        key_stride: u32,
        width: u32,
        open: u32,
        end: u32,
        listed: u32,
        more: u32,
        least: f32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// A block whose rows are merged.
#[derive(Debug, Clone)]
pub struct Block {
    /// Its rows.
    pub rows: usize,
    /// Rows of K and V before them.
    pub prefix: usize,
    /// Sets of kept rows: 1, or one for each KV head.
    pub sets: usize,
    /// Values of a row's keys in all heads, a multiple of four times `sets`.
    pub width: usize,
    /// The rows that may go into others or take others in; the first and the last ones do neither.
    pub open: Range<usize>,
}

/// Records, for each row of the block in each set, which row its value goes to, in `to` (`[sets, rows]`): its own
/// where it is kept or not open, else the open kept row with the largest cosine above `least`, of equals the one
/// listed first, else [`NOWHERE`].
///
/// `k` is `[prefix + rows, width]`; each list of kept rows (`[sets, count]`) stands beside its count.
pub fn nearest(
    rec: &mut Recorder,
    k: &Tensor<f32>,
    block: &Block,
    kept: [(Binding<'_>, usize); 2],
    least: f32,
    to: &Tensor<u32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let [(listed, listed_count), (more, more_count)] = kept;
    let params = Params {
        rows: block.rows as u32,
        prefix: block.prefix as u32,
        key_stride: (block.width / 4) as u32,
        width: (block.width / block.sets / 4) as u32,
        open: block.open.start as u32,
        end: block.open.end as u32,
        listed: listed_count as u32,
        more: more_count as u32,
        least,
    };
    let grid = [block.rows.div_ceil(64) as u32, block.sets as u32, 1];
    rec.dispatch(&kernel, &params, &[k.bind(), listed, more, to.bind()], grid)
}

/// The CPU twin; one list of kept rows for each set.
pub fn twin(k: &[f32], block: &Block, kept: &[Vec<u32>], least: f32) -> Vec<u32> {
    let own_width = block.width / block.sets;
    let key =
        |set: usize, row: usize| &k[(block.prefix + row) * block.width + set * own_width..][..own_width];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let target = |set: usize, row: usize| {
        if !block.open.contains(&row) || kept[set].contains(&(row as u32)) {
            return row as u32;
        }
        let own = key(set, row);
        let open = kept[set].iter().filter(|&&other| block.open.contains(&(other as usize)));
        let cosine = |other: &u32| {
            let other = key(set, *other as usize);
            dot(own, other) / (dot(own, own) * dot(other, other)).sqrt().max(1e-30)
        };
        let better = |best: (f64, u32), other: &u32| {
            let found = cosine(other);
            if found > best.0 { (found, *other) } else { best }
        };
        open.fold((f64::from(least), NOWHERE), better).1
    };
    (0..block.sets)
        .flat_map(|set| (0..block.rows).map(move |row| (set, row)))
        .map(|(s, r)| target(s, r))
        .collect()
}

/// Ascending rows for each set, the last of `rows` always among them, in two lists.
pub(super) fn kept_rows(
    noise: &mut Noise,
    sets: usize,
    rows: usize,
    counts: [usize; 2],
) -> [Vec<Vec<u32>>; 2] {
    let mut lists = [Vec::new(), Vec::new()];
    for _ in 0..sets {
        let mut order: Vec<u32> = (0..rows as u32 - 1).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, noise.below(i as u32 + 1) as usize);
        }
        let mut main = order[..counts[0] - 1].to_vec();
        main.push(rows as u32 - 1);
        let mut tail = order[counts[0]..][..counts[1]].to_vec();
        main.sort_unstable();
        tail.sort_unstable();
        lists[0].push(main);
        lists[1].push(tail);
    }
    lists
}

async fn check(gpu: &Gpu, block: Block, counts: [usize; 2], least: f32) -> Result<Check> {
    let mut noise = Noise::new(31);
    let k = noise.values((block.prefix + block.rows) * block.width);
    let lists = kept_rows(&mut noise, block.sets, block.rows, counts);
    let upload = |lists: &[Vec<u32>]| gpu.tensor_with(Class::Scratch, "kept", &lists.concat());
    let (device_k, main, tail) =
        (gpu.tensor_with(Class::Scratch, "k", &k), upload(&lists[0]), upload(&lists[1]));
    let to = gpu.tensor_with(Class::Scratch, "to", &vec![77_777; block.sets * block.rows]);
    let mut rec = Recorder::new(gpu);
    let kept = [(main.bind(), counts[0]), (tail.bind(), counts[1])];
    nearest(&mut rec, &device_k, &block, kept, least, &to)?;
    let got = rec.read(&to, 0, to.len());
    rec.submit();
    let both: Vec<Vec<u32>> = lists[0].iter().zip(&lists[1]).map(|(a, b)| [&a[..], b].concat()).collect();
    let label = format!("nearest of {counts:?}, {block:?}");
    Ok(Check::equal(label, &got.await?, &twin(&k, &block, &both, least)))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let block = Block { rows: 90, prefix: 7, sets: 3, width: 192, open: 4..77 };
    let together = Block { rows: 67, prefix: 0, sets: 1, width: 96, open: 0..60 };
    Ok(vec![check(gpu, block, [11, 6], 0.05).await?, check(gpu, together, [9, 0], -1.0).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;

    #[test]
    fn agrees_with_its_twin() {
        assert_passed(pollster::block_on(checks(&gpu())));
    }
}
