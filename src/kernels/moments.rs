//! The mean and the covariance of rows, for each of the heads that they consist of.

use super::check::{Check, Noise, poisoned};
use crate::Result;
use crate::gpu::{Class, Family, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "moments", text: include_str!("../../shaders/moments.wgsl") };

/// Squares of four by four covariances that a workgroup takes.
const LANES: u32 = 16;

/// How many lanes share a square's rows; a software adapter's barriers would cost it more than they bring.
fn slices(family: Family) -> u32 {
    match family {
        Family::Lanes => 1,
        Family::Groups => 8,
    }
}

uniform! {
    struct Params {
        stride: u32,
        dim: u32,
        first: u32,
        count: u32,
        before: u32,
    }
}

fn key(family: Family, joined: bool) -> ShaderKey {
    let slices = slices(family);
    ShaderKey::new(SHADER)
        .with("LANES", LANES)
        .with("SLICES", slices)
        .flag("SLICED", slices > 1)
        .flag("JOINED", joined)
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    [Family::Lanes, Family::Groups]
        .into_iter()
        .flat_map(|family| [false, true].map(|joined| key(family, joined)))
        .collect()
}

/// Values that the moments of `heads` heads of `dim` values take.
pub fn moments_len(heads: usize, dim: usize) -> usize {
    heads * (1 + dim) * dim
}

/// Records the moments of rows `first..count` of `rows`, `[>= count, heads * dim]`; `first < count`, and `dim` is
/// a multiple of 4.
///
/// `out` is `[heads, 1 + dim, dim]`: a head's mean, then its covariance over the number of rows. `earlier` are the moments
/// of so many rows that came before: then `out`, another tensor, has those of all of them.
pub fn moments(
    rec: &mut Recorder,
    rows: &Tensor<f32>,
    (heads, dim): (usize, usize),
    first: usize,
    count: usize,
    earlier: Option<(&Tensor<f32>, usize)>,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&key(rec.gpu().tuning().family, earlier.is_some()))?;
    let params = Params {
        stride: (heads * dim / 4) as u32,
        dim: (dim / 4) as u32,
        first: first as u32,
        count: count as u32,
        before: earlier.map_or(0, |(_, rows)| rows) as u32,
    };
    let squares = params.dim.div_ceil(2) * (params.dim + 1);
    let grid = [squares.div_ceil(LANES), heads as u32, 1];
    let mut bindings = vec![rows.bind(), out.bind()];
    bindings.extend(earlier.map(|(moments, _)| moments.bind()));
    rec.dispatch(&kernel, &params, &bindings, grid)
}

/// The CPU twin, over the rows of one head.
pub fn twin(rows: &[&[f32]]) -> Vec<f32> {
    let dim = rows.first().map_or(0, |row| row.len());
    let average =
        |of: &dyn Fn(&[f32]) -> f64| rows.iter().map(|row| of(row)).sum::<f64>() / rows.len() as f64;
    let mean: Vec<f64> = (0..dim).map(|i| average(&|row| f64::from(row[i]))).collect();
    let off = |row: &[f32], i: usize| f64::from(row[i]) - mean[i];
    let covariance = (0..dim * dim).map(|at| average(&|row| off(row, at / dim) * off(row, at % dim)));
    mean.iter().copied().chain(covariance).map(|x| x as f32).collect()
}

async fn check(
    gpu: &Gpu,
    (heads, dim): (usize, usize),
    first: usize,
    count: usize,
    mean: f32,
    part: usize,
) -> Result<Check> {
    let rows: Vec<f32> = Noise::new(31).values(count * heads * dim).iter().map(|v| v + mean).collect();
    let mut out = [(); 2].map(|()| poisoned(gpu, moments_len(heads, dim)));
    let mut rec = Recorder::new(gpu);
    for from in (first..count).step_by(part) {
        // What stands before a part's first row must not count.
        let (end, width) = (count.min(from + part), heads * dim);
        let rows = gpu.tensor_with(Class::Scratch, "rows", &rows[(from - first) * width..end * width]);
        out.swap(0, 1);
        let earlier = (from > first).then_some((&out[1], from - first));
        moments(&mut rec, &rows, (heads, dim), first, first + end - from, earlier, &out[0])?;
    }
    let got = rec.read(&out[0], 0, out[0].len());
    rec.submit();
    let head = |head: usize| {
        let rows: Vec<&[f32]> = rows.chunks(dim).skip(first * heads + head).step_by(heads).collect();
        twin(&rows)
    };
    let want: Vec<f32> = (0..heads).flat_map(head).collect();
    let label =
        format!("moments of {heads} heads of {dim} around {mean}, rows {first} to {count}, {part} at a time");
    Ok(Check::compare(label, &got.await?, &want, 1e-5))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, (3, 24), 4, 75, 0.5, 30).await?, check(gpu, (2, 64), 0, 1, 0.0, 1).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn agrees_with_its_twin(
            heads in 1usize..5,
            dim in 1usize..18,
            first in 0usize..6,
            rows in 1usize..90,
            mean in -20.0f32..20.0,
            part in 1usize..100,
        ) {
            for gpu in families() {
                let check = check(&gpu, (heads, 4 * dim), first, first + rows, mean, part);
                assert_passed(pollster::block_on(check).map(|c| vec![c]));
            }
        }
    }
}
