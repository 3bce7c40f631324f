//! Merges the values of rows that go into the rows that stay for them, such that attention keeps its mass.
//!
//! A row that took in others stands for more than one row: the logarithm of how many is added to its logits (the
//! remedy that KeepKV, Tian et al., arXiv 2504.09936, finds for naive merging). What a row that goes counts for is
//! the attention that it received over what the other received from the same queries, and at most one row:
//!
//! ```text
//! w_j = min(1, s_j / s_i)      v_i' = (v_i + Σ w_j v_j) / (1 + Σ w_j)      bias_i = ln(1 + Σ w_j)
//! ```
//!
//! Rows with equal keys receive equal attention: merging them changes nothing at all.

use super::check::{Check, Noise, poisoned};
use super::nearest::{Block, NOWHERE, kept_rows};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "fold", text: include_str!("../../shaders/fold.wgsl") };

uniform! {
    struct Params {
        rows: u32,
        columns: u32,
        prefix: u32,
        value_stride: u32,
        width: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![ShaderKey::new(SHADER)]
}

/// Records the merging of rows of `v` (`[prefix + rows, width]`) in place, and the biases of the rows that stay, in
/// `bias` (`[sets, rows]`), where those of the others are left as they are.
///
/// `received` (`[sets, open.end]`) is what the rows before the last ones received, `to` what
/// [`nearest`](super::nearest::nearest) found.
pub fn fold(
    rec: &mut Recorder,
    received: &Tensor<f32>,
    to: &Tensor<u32>,
    block: &Block,
    v: &Tensor<f32>,
    bias: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(&ShaderKey::new(SHADER))?;
    let params = Params {
        rows: block.rows as u32,
        columns: block.open.end as u32,
        prefix: block.prefix as u32,
        value_stride: (block.width / 4) as u32,
        width: (block.width / block.sets / 4) as u32,
    };
    let grid = [block.rows.div_ceil(64) as u32, block.sets as u32, 1];
    rec.dispatch(&kernel, &params, &[received.bind(), to.bind(), v.bind(), bias.bind()], grid)
}

/// The CPU twin: values and biases, NaN for rows that go.
pub fn twin(received: &[f32], to: &[u32], block: &Block, v: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (columns, own_width) = (block.open.end, block.width / block.sets);
    let (mut values, mut bias) = (v.to_vec(), vec![f32::NAN; block.sets * block.rows]);
    let at = |set: usize, row: usize| (block.prefix + row) * block.width + set * own_width;
    for set in 0..block.sets {
        let to = &to[set * block.rows..][..block.rows];
        for row in (0..block.rows).filter(|&row| to[row] == row as u32) {
            let weight = |other: usize| {
                let [own, other] = [row, other].map(|row| received[set * columns + row]);
                (other / own.max(1e-30)).min(1.0)
            };
            let others: Vec<usize> =
                (0..columns).filter(|&other| other != row && to[other] == row as u32).collect();
            let total = 1.0 + others.iter().map(|&other| weight(other)).sum::<f32>();
            for d in 0..own_width {
                let folded = others.iter().map(|&other| weight(other) * v[at(set, other) + d]).sum::<f32>();
                values[at(set, row) + d] = (v[at(set, row) + d] + folded) / total;
            }
            bias[set * block.rows + row] = total.ln();
        }
    }
    (values, bias)
}

async fn check(gpu: &Gpu, block: Block, kept: usize) -> Result<Vec<Check>> {
    let mut noise = Noise::new(37);
    let v = noise.values((block.prefix + block.rows) * block.width);
    let received: Vec<f32> = noise.values(block.sets * block.open.end).iter().map(|x| x.abs()).collect();
    let mut to = Vec::new();
    for list in &kept_rows(&mut noise, block.sets, block.rows, [kept, 0])[0] {
        let open: Vec<u32> =
            list.iter().copied().filter(|&row| block.open.contains(&(row as usize))).collect();
        to.extend((0..block.rows as u32).map(|row| match () {
            () if list.contains(&row) || !block.open.contains(&(row as usize)) => row,
            () if row % 5 == 0 => NOWHERE,
            () => open[noise.below(open.len() as u32) as usize],
        }));
    }
    let (device_v, device_to) =
        (gpu.tensor_with(Class::Scratch, "v", &v), gpu.tensor_with(Class::Scratch, "to", &to));
    let device_received = gpu.tensor_with(Class::Scratch, "received", &received);
    let bias = poisoned(gpu, block.sets * block.rows);
    let mut rec = Recorder::new(gpu);
    fold(&mut rec, &device_received, &device_to, &block, &device_v, &bias)?;
    let (got_v, got_bias) = (rec.read(&device_v, 0, v.len()), rec.read(&bias, 0, bias.len()));
    rec.submit();
    let (values, biases) = twin(&received, &to, &block, &v);
    let label = format!("fold into {kept}, {block:?}");
    Ok(vec![
        Check::compare(label.clone() + ", v", &got_v.await?, &values, 1e-5),
        Check::compare(label + ", bias", &got_bias.await?, &biases, 1e-5),
    ])
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let block = Block { rows: 90, prefix: 7, sets: 3, width: 192, open: 4..77 };
    let mut out = check(gpu, block, 21).await?;
    out.extend(check(gpu, Block { rows: 67, prefix: 0, sets: 1, width: 96, open: 0..60 }, 5).await?);
    Ok(out)
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
