//! Multiplies matrices in registers: the yardstick for the arithmetic that a kernel on matrix units can reach.

use super::check::{Check, Noise, poisoned};
use super::grid::lines;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader =
    Shader { stem: "multiply_matrix", text: include_str!("../../shaders/multiply_matrix.wgsl") };

/// Subgroups of a workgroup.
const TEAMS: usize = 4;
/// Rows of `left`, columns of `right`, and what they have in common.
const SHAPE: [usize; 3] = [32, 64, 16];

uniform! {
    struct Params {
        count: u32,
        rounds: u32,
    }
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![key()]
}

/// The only variant.
pub fn key() -> ShaderKey {
    ShaderKey::new(SHADER)
}

/// Values of `left` and of `right`, and of an output.
pub fn sizes() -> [usize; 3] {
    let [rows, columns, inner] = SHAPE;
    [rows * inner, inner * columns, rows * columns]
}

/// Multiplications and additions of `count` outputs of `rounds` rounds.
pub fn operations(count: usize, rounds: u32) -> u64 {
    2 * (count * SHAPE.iter().product::<usize>()) as u64 * u64::from(rounds)
}

/// Records `rounds` products of `left` (`[32, 16]`) and `right` (`[16, 64]`), both rounded to halves, and their sum in
/// f32, for each of `count` outputs (`[count, 32, 64]`). The device must have matrix units.
pub fn multiply_matrix(
    rec: &mut Recorder,
    left: &Tensor<f32>,
    right: &Tensor<f32>,
    rounds: u32,
    count: usize,
    out: &Tensor<f32>,
) -> Result<()> {
    record(rec, &key(), [left, right], rounds, count, out)
}

/// [`multiply_matrix`] by a kernel of any choice.
fn record(
    rec: &mut Recorder,
    key: &ShaderKey,
    [left, right]: [&Tensor<f32>; 2],
    rounds: u32,
    count: usize,
    out: &Tensor<f32>,
) -> Result<()> {
    let kernel = rec.gpu().kernel(key)?;
    let params = Params { count: count as u32, rounds };
    rec.dispatch(&kernel, &params, &[left.bind(), right.bind(), out.bind()], lines(count.div_ceil(TEAMS)))
}

/// The CPU twin: one output.
pub fn twin(left: &[f32], right: &[f32], rounds: u32) -> Vec<f32> {
    let [rows, columns, inner] = SHAPE;
    let product = |at: usize| {
        let (row, column) = (at / columns, at % columns);
        let terms =
            (0..inner).map(|k| f64::from(left[row * inner + k]) * f64::from(right[k * columns + column]));
        (f64::from(rounds) * terms.sum::<f64>()) as f32
    };
    (0..rows * columns).map(product).collect()
}

async fn check(gpu: &Gpu, key: &ShaderKey, count: usize, rounds: u32) -> Result<Check> {
    let mut noise = Noise::new(8);
    let [lefts, rights, outputs] = sizes();
    // Halves as they are.
    let mut halves = |len| (0..len).map(|_| noise.below(64) as f32 / 32.0 - 1.0).collect::<Vec<f32>>();
    let (left, right) = (halves(lefts), halves(rights));
    let operands = [&left, &right].map(|values| gpu.tensor_with(Class::Scratch, "operand", values));
    let out = poisoned(gpu, (count + 1) * outputs);
    let mut rec = Recorder::new(gpu);
    record(&mut rec, key, [&operands[0], &operands[1]], rounds, count, &out)?;
    let got = rec.read(&out, 0, out.len());
    rec.submit();
    let mut want = twin(&left, &right, rounds).repeat(count);
    want.extend(vec![f32::NAN; outputs]);
    Ok(Check::compare(format!("multiply_matrix {rounds} rounds of {count}"), &got.await?, &want, 1e-6))
}

/// Nothing where the tuning does not say that there are matrix units.
pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    if !gpu.tuning().matrix_units {
        return Ok(Vec::new());
    }
    Ok(vec![check(gpu, &key(), 1, 1).await?, check(gpu, &key(), 7, 5).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;

    /// Fragments as WebGPU's own language can have them: a lane holds eight neighbouring sums.
    const FRAGMENTS: &str = "
        var<private> lane_of_team: u32;
        fn multiply_add(a: u32, b: u32, sums: array<f32, 8>) -> array<f32, 8> {
            var next = sums;
            for (var i = 0u; i < 8u; i++) {
                let row = (8u * lane_of_team + i) / 16u;
                let column = (8u * lane_of_team + i) % 16u;
                for (var k = 0u; k < 16u; k++) {
                    next[i] += tile_left[a + 4u * row + k / 4u][k % 4u]
                        * tile_right[b + 16u * k + column / 4u][column % 4u];
                }
            }
            return next;
        }
        fn keep(sums: array<f32, 8>, at: u32) {
            for (var i = 0u; i < 8u; i++) {
                let element = 8u * lane_of_team + i;
                out[at + 64u * (element / 16u) + element % 16u] = sums[i];
            }
        }
        @compute";

    /// The kernel with its fragments and its halves replaced by what any device has.
    fn emulated() -> ShaderKey {
        let mut text = SHADER.text.to_owned();
        for (from, to) in [
            ("enable f16;", ""),
            ("enable wgpu_cooperative_matrix;", ""),
            (
                "    @builtin(subgroup_id) team: u32,\n) {",
                ") {\nlet team = lane / 32u;\nlane_of_team = lane % 32u;",
            ),
            ("coopLoadT<coop_mat16x16<f16, A>>(&tile_left[", "u32("),
            ("], 4)", ")"),
            ("coopLoadT<coop_mat16x16<f16, B>>(&tile_right[", "u32("),
            ("], 16)", ")"),
            ("coop_mat16x16<f32, C>()", "array<f32, 8>()"),
            ("coopMultiplyAdd(", "multiply_add("),
            ("coopStoreT(", "keep("),
            ("&out[place_#{i}#{j}], 64", "place_#{i}#{j}"),
            ("f16>", "f32>"),
            ("@compute", FRAGMENTS),
        ] {
            assert!(text.contains(from), "the shader has no `{from}`");
            text = text.replace(from, to);
        }
        ShaderKey::new(Shader { stem: "multiply_fragments", text: text.leak() })
    }

    #[test]
    fn all_but_the_units_agrees_with_the_twin() {
        let (gpu, key) = (gpu(), emulated());
        for (count, rounds) in [(1, 1), (7, 5), (64, 2)] {
            let check = check(&gpu, &key, count, rounds);
            assert_passed(pollster::block_on(check).map(|c| vec![c]));
        }
    }
}
