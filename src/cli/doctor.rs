//! `benben doctor`: what the adapters are, whether the kernels compute rightly on one of them, and how fast.
//!
//! Its output is meant to be pasted into a bug report.

use std::path::Path;

use benben::Gpu;
use benben::gpu::{AdapterSummary, Family, Tuning, TuningSource, adapters, cache_folder};
use benben::kernels::check::{self, Check};
use benben::kernels::tune::{Trial, Tuned, tune};
use benben::kernels::units::prove_aloud;
use serde_json::{Value, json};

use super::args::DeviceArgs;
use super::measure::{Ceilings, matvec_rate};
use super::report;
use super::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Measure which kernels suit the adapter best, and keep that for later runs
    #[arg(long)]
    tune: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &DoctorArgs) -> Outcome {
    let found = adapters().await;
    let text = |text: String| if args.json { Ok(()) } else { report::say(&text) };
    text(overview(&found))?;

    let mut gpu = args.device.open().await?;
    if args.tune {
        let tuned = tune(&gpu).await?;
        gpu = gpu.with_tuning(tuned.tuning);
        text(format!("\nmeasured on {}\n{}", gpu.describe(), trial_lines(&tuned)))?;
        keep(&mut gpu, cache_folder().as_deref())?;
    }
    let (gpu, refused) = prove_aloud(&gpu).await;
    for why in refused {
        text(format!("\nmatrix units are not used for all that they could be: {why}\n"))?;
    }
    text(format!("\ntuning\n  {}, {}\n", tuning(gpu.tuning()), source(&gpu)))?;
    let checks = check::all(&gpu).await?;
    gpu.check()?;
    text(format!("\nkernels on {}\n{}", gpu.describe(), check_lines(&checks)))?;

    let (ceilings, matvec) = (Ceilings::measure(&gpu).await?, matvec_rate(&gpu).await?);
    text(format!("\nwhat it reaches\n{ceilings}  mat-vec, 4 bit  {matvec:.1} GB/s\n"))?;
    if args.json {
        report::json(&json_report(&found, &gpu, &checks, &ceilings, matvec))?;
    }
    let failed = checks.iter().filter(|check| !check.passed()).count();
    if failed > 0 {
        return Err(Failure::Checks { failed, total: checks.len(), adapter: gpu.describe() });
    }
    Ok(())
}

/// Keeps the tuning of `gpu` in `folder`.
fn keep(gpu: &mut Gpu, folder: Option<&Path>) -> Outcome {
    let Some(folder) = folder else {
        report::note("not kept: there is no cache folder, because neither BENBEN_CACHE nor HOME is set");
        return Ok(());
    };
    let saved = gpu.keep_tuning(folder);
    saved.map(drop).map_err(|error| Failure::save(folder, error))
}

fn tuning(tuning: Tuning) -> String {
    let family = match tuning.family {
        Family::Lanes => "kernels for software adapters",
        Family::Groups => "kernels for real GPUs",
    };
    let units = match (tuning.matrix_units, tuning.matrix_attention) {
        (true, true) => ", matrix units",
        (true, false) => ", matrix units for products alone",
        (false, true) => ", matrix units for attention alone",
        (false, false) => "",
    };
    format!(
        "{family}, {}{units}, decode products {}, decode attention in up to {} parts",
        subgroups(tuning),
        planes(tuning),
        tuning.attention_splits
    )
}

fn source(gpu: &Gpu) -> &'static str {
    match gpu.tuning_source() {
        TuningSource::Adapter => "by the kind of the adapter",
        TuningSource::Measured => "as measured on it",
        TuningSource::Caller => "as asked for",
    }
}

fn trial_lines(tuned: &Tuned) -> String {
    let lines = |work: &str, trials: &[Trial], choice: &dyn Fn(Tuning) -> String| -> String {
        let line = |trial: &Trial| {
            format!("  {work}, {:<19}  {:>8.3} ms\n", choice(trial.tuning), 1e3 * trial.best.as_secs_f64())
        };
        trials.iter().map(line).collect()
    };
    let parts = |tuning: Tuning| format!("{} parts", tuning.attention_splits);
    lines("matrix products", &tuned.subgroups, &|tuning| subgroups(tuning).to_owned())
        + &lines("decode products", &tuned.planes, &planes)
        + &lines("decode attention", &tuned.attention_splits, &parts)
}

fn planes(tuning: Tuning) -> String {
    match tuning.planes {
        0 => "in f32".to_owned(),
        planes => format!("in {} bits", 8 * planes),
    }
}

fn subgroups(tuning: Tuning) -> &'static str {
    if tuning.subgroups { "with subgroups" } else { "without subgroups" }
}

fn overview(found: &[AdapterSummary]) -> String {
    let (version, os, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let adapters: String = found.iter().enumerate().map(|(i, adapter)| describe(i, adapter)).collect();
    format!("benben {version} on {os} {arch}\n\nadapters\n{adapters}")
}

fn describe(index: usize, adapter: &AdapterSummary) -> String {
    let (info, limits) = (&adapter.info, &adapter.limits);
    let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
    let features =
        adapter.features.iter().map(|(name, there)| format!("{name} {}", if *there { "yes" } else { "no" }));
    format!(
        "  [{index}] {}\n      {:?}, {}, driver {} {}\n      {}\n      binding {}, buffer {}, workgroup memory {} KiB, \
         workgroup size {}, storage buffers {}\n",
        info.name,
        info.device_type,
        info.backend,
        info.driver,
        info.driver_info,
        features.collect::<Vec<_>>().join(", "),
        mebibytes(limits.max_storage_buffer_binding_size),
        mebibytes(limits.max_buffer_size),
        limits.max_compute_workgroup_storage_size >> 10,
        limits.max_compute_invocations_per_workgroup,
        limits.max_storage_buffers_per_shader_stage,
    )
}

/// One line a check, its label last: some are long.
fn check_lines(checks: &[Check]) -> String {
    let line = |check: &Check| {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        let Check { label, error, tolerance, values } = check;
        format!("  {verdict:<6}  {error:>7.1e}  {tolerance:>9.1e}  {values:>6}  {label}\n")
    };
    let head = format!("  {:<6}  {:>7}  {:>9}  {:>6}  kernel\n", "", "error", "tolerance", "values");
    head + &checks.iter().map(line).collect::<String>()
}

fn json_report(
    found: &[AdapterSummary],
    gpu: &Gpu,
    checks: &[Check],
    ceilings: &Ceilings,
    matvec: f64,
) -> Value {
    let adapter = |summary: &AdapterSummary| {
        let (info, limits) = (&summary.info, &summary.limits);
        json!({
            "name": info.name,
            "kind": format!("{:?}", info.device_type),
            "backend": info.backend.to_string(),
            "driver": info.driver,
            "driver_info": info.driver_info,
            "features": summary.features.iter().map(|&(name, there)| (name.to_owned(), there.into()))
                .collect::<serde_json::Map<_, _>>(),
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_buffer_size": limits.max_buffer_size,
            "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
            "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
            "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
        })
    };
    let check = |check: &Check| {
        json!({
            "label": check.label,
            "values": check.values,
            "error": check.error,
            "tolerance": check.tolerance,
            "passed": check.passed(),
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "adapters": found.iter().map(adapter).collect::<Vec<_>>(),
        "adapter": gpu.describe(),
        "tuning": {
            "family": format!("{:?}", gpu.tuning().family).to_lowercase(),
            "subgroups": gpu.tuning().subgroups,
            "matrix_units": gpu.tuning().matrix_units,
            "matrix_few": gpu.tuning().matrix_few,
            "matrix_attention": gpu.tuning().matrix_attention,
            "planes": gpu.tuning().planes,
            "attention_splits": gpu.tuning().attention_splits,
            "source": format!("{:?}", gpu.tuning_source()).to_lowercase(),
        },
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
        "passed": checks.iter().all(Check::passed),
        "read_gb_per_second": ceilings.read_gb_per_second,
        "copy_gb_per_second": ceilings.copy_gb_per_second,
        "multiply_gflop_per_second": ceilings.multiply_gflop_per_second,
        "matrix_gflop_per_second": ceilings.matrix_gflop_per_second,
        "matvec_gb_per_second": matvec,
    })
}
