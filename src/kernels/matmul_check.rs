//! Products with many rows against their twins, by the kernel that a device chooses or by one of any choice.

use super::activations::{Values, packed, unpacked};
use super::check::{Check, Noise, poisoned};
use super::matmul::{Choice, Rows, choose, reads_halves, record};
use super::matrix::{Epilogue, RowFormat};
use super::part::Part;
use super::{matmul_few, matmul_matrix, matvec};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder};

/// A product of two parts to compare with its twin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub format: RowFormat,
    pub epilogue: Epilogue,
    pub rows: [usize; 2],
    pub cols: usize,
    pub count: usize,
    pub kind: Rows,
    /// x is f32, and so are gated outputs; else both are halves.
    pub single: bool,
}

/// Compares a product with its twin.
pub(super) async fn check(gpu: &Gpu, case: Case) -> Result<Check> {
    let tuning = gpu.tuning();
    let (size, kind) = ((case.count, case.cols), case.kind);
    check_chosen(gpu, case, |part| choose(tuning, part, size, kind, case.single)).await
}

/// [`check`] of kernels of any choice. A shader that the device refuses is this call's error.
pub(super) async fn check_chosen(gpu: &Gpu, case: Case, choose: impl Fn(&Part) -> Choice) -> Result<Check> {
    let Case { format, epilogue, rows, cols, count, kind, single } = case;
    let mut noise = Noise::new(6);
    let rows = rows.map(|r| if epilogue == Epilogue::SwiGlu { r.next_multiple_of(2) } else { r });
    let (matrix, parts) = matvec::sample(gpu, &mut noise, format, rows, cols)?;
    let mut x = noise.values(count * cols);
    let outputs = epilogue.outputs(matrix.rows());
    let mut want = vec![f32::NAN; count * outputs];
    if epilogue == Epilogue::Add {
        want = noise.values(count * outputs);
    }
    let singles = gpu.tensor_with(Class::Scratch, "x", &x);
    let halves = gpu.tensor_with(Class::Scratch, "x", &packed(&x));
    if !single {
        x = unpacked(&packed(&x));
    }
    let halves_out = !single && epilogue == Epilogue::SwiGlu;
    let out = poisoned(gpu, count * outputs);
    gpu.write(&out, 0, &want);
    let values = |binding, halves| Values { binding, halves };
    let from = if single { values(singles.bind(), false) } else { values(halves.bind(), true) };
    let to = values(out.bind(), halves_out);
    let mut most = 0;
    for part in matrix.parts() {
        let choice = choose(part);
        let (key, join) = choice.keys(part, epilogue, halves_out);
        for key in std::iter::once(key).chain(join) {
            gpu.try_kernel(&key).await?;
        }
        most = most.max(choice.slices * part.rows);
    }
    let slices = poisoned(gpu, count * most);
    let mut rec = Recorder::new(gpu);
    record(&mut rec, &matrix, from, count, epilogue, to, &slices, &choose)?;
    let got = rec.read(&out, 0, count * outputs);
    rec.submit();
    // Each row is a matrix-vector product, whose twin is this kernel's too.
    for (x, want) in x.chunks_exact(cols).zip(want.chunks_exact_mut(outputs)) {
        let (first, second) = want.split_at_mut(epilogue.outputs(rows[0]));
        matvec::twin(&parts[0], x, epilogue, first);
        matvec::twin(&parts[1], x, epilogue, second);
    }
    let mut got = got.await?;
    if halves_out {
        got = unpacked(bytemuck::cast_slice(&got[..count * outputs / 2]));
    }
    let units = [matmul_few::STEM, matmul_matrix::STEM];
    let on_units = matrix.parts().iter().any(|part| units.contains(&choose(part).key.stem()));
    let tolerance = if on_units { matmul_matrix::TOLERANCE } else { 1e-5 };
    let label = format!("matmul {format:?} {epilogue:?} {count} rows by {rows:?}x{cols}, {kind:?}");
    Ok(Check::compare(label, &got, &want, tolerance))
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let few = Rows::Batch { most: 8 };
    let cases = [
        (RowFormat::Q4, Epilogue::SwiGlu, [140, 8], 576, 21, Rows::Block),
        (RowFormat::Q4, Epilogue::Add, [67, 3], 192, 65, Rows::Block),
        (RowFormat::Q8, Epilogue::Store, [131, 1], 96, 7, Rows::Block),
        (RowFormat::F16, Epilogue::Store, [5, 9], 104, 33, Rows::Block),
        (RowFormat::Q4, Epilogue::SwiGlu, [140, 8], 1152, 3, few),
        (RowFormat::Q8, Epilogue::Add, [131, 1], 96, 2, few),
        (RowFormat::F16, Epilogue::Store, [5, 9], 104, 5, few),
    ];
    let mut all = Vec::new();
    for (format, epilogue, rows, cols, count, kind) in cases {
        let single = !reads_halves(gpu.tuning(), kind);
        all.push(check(gpu, Case { format, epilogue, rows, cols, count, kind, single }).await?);
    }
    Ok(all)
}
