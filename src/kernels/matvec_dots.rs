//! Products of a matrix with one row of activations or a few by packed dot products of integers, on GPUs that have them: the
//! decode step. What the next product reads leaves them quantised.

use super::check::{Check, Noise, poisoned};
use super::grid::lines;
use super::matmul::MOST_OF_VECTORS;
use super::matrix::{Epilogue, GROUP, Matrix, RowFormat};
use super::operand::{self, Code, Operand, groups};
use super::{matvec, rms_norm};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, Tuning, uniform};

const SHADER: Shader = Shader { stem: "matvec_dots", text: include_str!("../../shaders/matvec_dots.wgsl") };

/// Input rows of one workgroup at most.
const MOST: usize = 4;

/// True where steps of so many sequences multiply so.
pub fn serves(tuning: Tuning, sequences: usize) -> bool {
    let most = if tuning.matrix_units { MOST_OF_VECTORS } else { MOST };
    tuning.can_quantise() && tuning.planes > 0 && sequences <= most
}

/// Units of a row that a lane has under way at most.
const MOST_FLIGHT: usize = 8;

/// The same of gates and of as many up rows at once, for several input rows: more leave AMD's GPUs hardly a subgroup to change
/// to, or spill registers.
const MOST_FLIGHT_GATED: usize = 4;

uniform! {
    struct Params {
        rows: u32,
        cols: u32,
        first: u32,
        stride: u32,
        count: u32,
        to_groups: u32,
        epsilon: f32,
    }
}

/// What becomes of products.
#[derive(Debug, Clone, Copy)]
pub enum To<'a> {
    /// `out = W x`, `[count, rows]`.
    Store(&'a Tensor<f32>),
    /// `stream += W x`, `[count, rows]`, and the next product's operand `stream * weight`.
    Add {
        /// The residual stream.
        stream: &'a Tensor<f32>,
        /// The weights of the norm before the next product, `[rows]`.
        weight: &'a Tensor<f32>,
        /// The operand,
        next: &'a Operand,
        /// and its code.
        code: Code,
    },
    /// The next product's operand `silu(gate x) * (up x)`.
    SwiGlu {
        /// The operand,
        next: &'a Operand,
        /// and its code.
        code: Code,
    },
}

impl To<'_> {
    fn epilogue(self) -> Epilogue {
        match self {
            Self::Store(_) => Epilogue::Store,
            Self::Add { .. } => Epilogue::Add,
            Self::SwiGlu { .. } => Epilogue::SwiGlu,
        }
    }

    fn code(self) -> Option<Code> {
        match self {
            Self::Store(_) => None,
            Self::Add { code, .. } | Self::SwiGlu { code, .. } => Some(code),
        }
    }
}

/// How the lanes of a workgroup share rows out.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Lanes of a row, all of one subgroup.
    team: usize,
    /// Lanes of the workgroup.
    lanes: usize,
}

impl Layout {
    /// On an H200 four teams are as fast as eight; a group of 32 outputs is best made by a team each, but by eight if a
    /// team reads two rows.
    fn new(subgroup_lanes: usize, most_lanes: usize, epilogue: Epilogue) -> Self {
        let team = subgroup_lanes.min(32);
        let teams = match epilogue {
            Epilogue::Store => 4,
            Epilogue::Add => 32,
            Epilogue::SwiGlu => 8,
        };
        Self { team, lanes: (teams * team).min(most_lanes) }
    }

    fn of(gpu: &Gpu, epilogue: Epilogue) -> Self {
        Self::new(gpu.tuning().subgroup_lanes as usize, gpu.max_workgroup_lanes(), epilogue)
    }
}

/// One variant: matrices of one width and format, operands of one code.
fn key(
    layout: Layout,
    (format, cols): (RowFormat, usize),
    from: Code,
    epilogue: Epilogue,
    to: Option<Code>,
    norm: bool,
    columns: usize,
) -> ShaderKey {
    let units = if format == RowFormat::F16 { cols / 8 } else { groups(cols) };
    let each = units.div_ceil(layout.team);
    let gated = epilogue == Epilogue::SwiGlu && format != RowFormat::F16 && columns > 1;
    let flight = each.div_ceil(each.div_ceil(if gated { MOST_FLIGHT_GATED } else { MOST_FLIGHT }));
    let key = ShaderKey::new(SHADER)
        .with("UNITS", units as u32)
        .with("GROUPS", groups(cols) as u32)
        .with("FLIGHT", flight as u32)
        .flag("WHOLE", units.is_multiple_of(flight * layout.team))
        .with("TEAM", layout.team as u32)
        .with("LANES", layout.lanes as u32)
        .with("COLUMNS", columns as u32)
        .flag("STORE", epilogue == Epilogue::Store)
        .flag("OPERAND", to.is_some())
        .flag("NORM", norm)
        .flag("SUBGROUPS", true);
    let key = epilogue.variant(from.read_by(format.variant(key)));
    to.map_or(key.clone(), |code| code.made_by(key))
}

/// One variant of each way to assemble the shader, on subgroups of 32 lanes and more, some in workgroups as large as a
/// device may have beyond the least that all have; and what subgroups of 8 make of it.
pub fn variants() -> Vec<ShaderKey> {
    let mut all = Vec::new();
    for format in RowFormat::ALL {
        let quantised = [Code::Bytes, Code::TwoBytes];
        for &from in if format == RowFormat::F16 { &[Code::F32][..] } else { &quantised } {
            for epilogue in Epilogue::ALL {
                let [least, most, narrow] =
                    [(32, 256), (32, 1024), (8, 256)].map(|(team, most)| Layout::new(team, most, epilogue));
                let codes =
                    if epilogue == Epilogue::Store { vec![None] } else { Code::ALL.map(Some).to_vec() };
                for to in codes {
                    let of = |layout, cols, norm, columns| {
                        key(layout, (format, cols), from, epilogue, to, norm, columns)
                    };
                    all.extend([of(most, 4096, true, 1), of(least, 576, false, 1)]);
                    all.extend([of(most, 14_336, false, MOST), of(narrow, 4096, false, 2)]);
                }
            }
        }
    }
    all
}

/// Records `W x` for the first `count` columns of an operand, in the code that [`Code::of`] says; with a norm's epsilon the
/// products of what was divided by its root mean square, which the operand's sums of squares tell.
pub fn matvec_dots(
    rec: &mut Recorder,
    matrix: &Matrix,
    x: &Operand,
    count: usize,
    norm: Option<f32>,
    to: To<'_>,
) -> Result<()> {
    let tuning = rec.gpu().tuning();
    let (epilogue, columns) = (to.epilogue(), count.next_power_of_two().min(MOST));
    let layout = Layout::of(rec.gpu(), epilogue);
    let outputs = epilogue.outputs(matrix.rows());
    for part in matrix.parts() {
        let shape = (part.format, matrix.cols());
        let from = Code::of(tuning, part.format);
        let key = key(layout, shape, from, epilogue, to.code(), norm.is_some(), columns);
        let kernel = rec.gpu().kernel(&key)?;
        let params = Params {
            rows: part.rows as u32,
            cols: matrix.cols() as u32,
            first: epilogue.outputs(part.first_row) as u32,
            stride: outputs as u32,
            count: count as u32,
            to_groups: groups(outputs) as u32,
            epsilon: norm.unwrap_or(0.0),
        };
        let mut bindings = vec![part.words.bind(), part.scales.bind(), x.words.bind()];
        let each = match to {
            To::Store(out) => {
                bindings.push(out.bind());
                layout.lanes / layout.team
            }
            To::SwiGlu { next, .. } => {
                bindings.push(next.words.bind());
                GROUP
            }
            To::Add { stream, weight, next, .. } => {
                bindings.extend([next.words.bind(), stream.bind(), weight.bind()]);
                GROUP
            }
        };
        let [x, y, _] = lines(epilogue.outputs(part.rows).div_ceil(each));
        rec.dispatch(&kernel, &params, &bindings, [x, y, count.div_ceil(columns) as u32])?;
    }
    Ok(())
}

/// Compares a product of two parts with the twins: [`operand::twin`], then [`matvec::twin`] for each column.
async fn check(
    gpu: &Gpu,
    (format, epilogue, norm): (RowFormat, Epilogue, bool),
    rows: [usize; 2],
    cols: usize,
    count: usize,
    next_code: Code,
) -> Result<Vec<Check>> {
    let mut noise = Noise::new(15);
    // Parts begin at a whole group of outputs.
    let first = rows[0].next_multiple_of(if epilogue == Epilogue::SwiGlu { 64 } else { 32 });
    let rows = [first, if epilogue == Epilogue::SwiGlu { rows[1].next_multiple_of(2) } else { rows[1] }];
    let (matrix, parts) = matvec::sample(gpu, &mut noise, format, rows, cols)?;
    let outputs = epilogue.outputs(matrix.rows());
    let (x, weight) = (noise.values(count * cols), noise.values(cols));
    let (stream, next_weight) = (noise.values(count * outputs), noise.values(outputs));
    let code = Code::of(gpu.tuning(), format);
    let device = |label: &str, values: &[f32]| gpu.tensor_with(Class::Scratch, label, values);
    let (device_x, device_weight) = (device("x", &x), device("weight", &weight));
    let (device_stream, device_next_weight) = (device("stream", &stream), device("weight", &next_weight));
    let (operand, next) = (Operand::new(gpu, count, cols), Operand::new(gpu, count, outputs));
    gpu.write(&next.words, 0, &vec![u32::MAX; next.words.len()]);
    let out = poisoned(gpu, count * outputs);
    let mut rec = Recorder::new(gpu);
    super::quantise::quantise(
        &mut rec,
        device_x.bind(),
        norm.then_some(&device_weight),
        count,
        &operand,
        code,
    )?;
    let to = match epilogue {
        Epilogue::Store => To::Store(&out),
        Epilogue::Add => {
            To::Add { stream: &device_stream, weight: &device_next_weight, next: &next, code: next_code }
        }
        Epilogue::SwiGlu => To::SwiGlu { next: &next, code: next_code },
    };
    matvec_dots(&mut rec, &matrix, &operand, count, norm.then_some(1e-5), to)?;
    let read = if epilogue == Epilogue::Add { &device_stream } else { &out };
    let got = rec.read(read, 0, count * outputs);
    let got_words = rec.read(&next.words, 0, next.words.len());
    rec.submit();

    let mut want = stream.clone();
    for (x, want) in x.chunks_exact(cols).zip(want.chunks_exact_mut(outputs)) {
        let kept = if norm {
            let weighted: Vec<f32> = x.iter().zip(&weight).map(|(x, w)| x * w).collect();
            let scale = rms_norm::twin(x, &vec![1.0; cols], 1e-5)[0] / x[0];
            operand::twin(code, &weighted).iter().map(|v| v * scale).collect()
        } else {
            operand::twin(code, x)
        };
        let (first, second) = want.split_at_mut(epilogue.outputs(rows[0]));
        matvec::twin(&parts[0], &kept, epilogue, first);
        matvec::twin(&parts[1], &kept, epilogue, second);
    }
    let label = format!(
        "matvec_dots {format:?} {epilogue:?} norm {norm}, {count} columns, {rows:?}x{cols}, then {next_code:?}"
    );
    // A value between two codes may become either.
    let tolerance = if code == Code::Bytes { 1e-3 } else { 2e-5 };
    let mut checks = Vec::new();
    if epilogue != Epilogue::SwiGlu {
        checks.push(Check::compare(label.clone(), &got.await?, &want, tolerance));
    }
    if epilogue != Epilogue::Store {
        let weight = (epilogue == Epilogue::Add).then_some(next_weight.as_slice());
        let (values, squares) = super::quantise::twin(&want, weight, outputs, next_code);
        let got = operand::unpack(next_code, outputs, count, &got_words.await?);
        let step: f32 = if next_code == Code::Bytes { 2e-2 } else { 1e-4 };
        checks.push(Check::compare(label.clone() + ", operand", &got.values, &values, step.max(tolerance)));
        if epilogue == Epilogue::Add {
            checks.push(Check::compare(label + ", squares", &got.squares, &squares, 1e-4_f32.max(tolerance)));
        }
    }
    Ok(checks)
}

/// Nothing where the tuning has no such products.
pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut out = Vec::new();
    if gpu.tuning().planes > 0 {
        let (q4, q8, f16) = (RowFormat::Q4, RowFormat::Q8, RowFormat::F16);
        out.extend(check(gpu, (q4, Epilogue::SwiGlu, true), [64, 38], 576, 1, Code::TwoBytes).await?);
        out.extend(check(gpu, (q4, Epilogue::Add, false), [64, 7], 1536, 1, Code::TwoBytes).await?);
        out.extend(check(gpu, (q8, Epilogue::Store, true), [131, 1], 96, 3, Code::F32).await?);
        out.extend(check(gpu, (f16, Epilogue::Add, false), [32, 9], 104, 2, Code::F32).await?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, families};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        #[test]
        fn agrees_with_its_twins(
            format in 0usize..3, epilogue in 0usize..3, norm: bool, code in 0usize..3,
            rows in 1usize..150, more in 1usize..70, groups in 1usize..70, count in 1usize..5,
        ) {
            let variant = (RowFormat::ALL[format], Epilogue::ALL[epilogue], norm);
            let cols = if format == 0 { 8 * groups } else { 32 * groups };
            for gpu in families().into_iter().filter(|gpu| gpu.tuning().planes > 0) {
                let check = check(&gpu, variant, [rows, more], cols, count, Code::ALL[code]);
                assert_passed(pollster::block_on(check));
            }
        }
    }

    #[test]
    fn long_rows_take_turns() {
        for gpu in families().into_iter().filter(|gpu| gpu.tuning().planes > 0) {
            let variant = (RowFormat::Q4, Epilogue::Add, true);
            assert_passed(pollster::block_on(check(&gpu, variant, [32, 3], 32 * 112, 1, Code::Bytes)));
        }
    }

    #[test]
    fn there_is_a_device_to_test_on() {
        let some = families().iter().any(|gpu| gpu.tuning().planes > 0);
        assert!(
            some || super::super::check::testing::gpu().tuning().subgroup_lanes < 8,
            "nothing was tested"
        );
    }
}
