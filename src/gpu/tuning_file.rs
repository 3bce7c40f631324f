//! A measured tuning on disk, for the adapter and driver that it was measured on.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder;
use super::tuning::{MOST_SPLITS, Tuning};

const MOST_BYTES: u64 = 4096;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
    adapter: String,
    backend: String,
    driver: String,
    subgroups: bool,
    planes: u32,
    attention_splits: u32,
}

impl Measured {
    fn new(info: &wgpu::AdapterInfo, tuning: Tuning) -> Self {
        Self {
            adapter: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info),
            subgroups: tuning.subgroups,
            planes: tuning.planes,
            attention_splits: tuning.attention_splits,
        }
    }
}

/// One file for each adapter and back end: a new driver's measurement takes the place of the old one's.
fn path(info: &wgpu::AdapterInfo, folder: &Path) -> PathBuf {
    let name = format!("{} {}", info.name, info.backend);
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    folder.join(format!("tuning-{plain}.json"))
}

/// The tuning that was measured on this adapter and driver, if it is one that `default` could be tuned to.
pub(super) fn load(info: &wgpu::AdapterInfo, folder: &Path, default: Tuning) -> Option<Tuning> {
    let bytes = folder::read(&path(info, folder), MOST_BYTES)?;
    let found: Measured = serde_json::from_slice(&bytes).ok()?;
    let Measured { subgroups, planes, attention_splits, .. } = found;
    let tuning = Tuning { subgroups, planes, attention_splits, ..default };
    let same = found == Measured::new(info, tuning);
    let quantises = planes == 0 || default.can_quantise() && planes <= 2;
    let splits = (1..=MOST_SPLITS).contains(&attention_splits);
    let possible = (default.subgroups || !subgroups) && quantises && splits;
    (same && possible).then_some(tuning)
}

/// Keeps a measured tuning.
pub(super) fn store(info: &wgpu::AdapterInfo, folder: &Path, tuning: Tuning) -> io::Result<PathBuf> {
    let path = path(info, folder);
    folder::write(&path, &serde_json::to_vec_pretty(&Measured::new(info, tuning))?)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::folder::tests::Scratch;
    use super::super::{AdapterChoice, Gpu, TuningSource};
    use super::*;

    fn open(folder: &Path) -> Gpu {
        pollster::block_on(Gpu::open_remembering(&AdapterChoice::Best, folder)).expect("an adapter")
    }

    #[test]
    fn a_kept_tuning_is_used_and_a_damaged_one_is_not() {
        let folder = Scratch::new("tuning");
        let gpu = open(&folder.0);
        let default = gpu.tuning();
        assert_eq!(gpu.tuning_source(), TuningSource::Adapter);
        let other = Tuning { attention_splits: 7, subgroups: false, ..default };
        let path = gpu.with_tuning(other).keep_tuning(&folder.0).expect("written");
        let kept = open(&folder.0);
        assert_eq!((kept.tuning(), kept.tuning_source()), (other, TuningSource::Measured));

        let whole = fs::read_to_string(&path).expect("a file");
        let changed = |from: &str, to: &str| {
            assert!(whole.contains(from), "{whole}");
            whole.replacen(from, to, 1)
        };
        let no_subgroups = Tuning { subgroups: false, ..default };
        for file in [
            whole[..whole.len() / 2].to_owned(),
            "{}".to_owned(),
            changed(": 7", ": 0"),
            changed(": 7", ": 4000000000"),
            changed(": 7", ": -1"),
            changed("\"planes\": ", "\"planes\": 3"),
            changed(&gpu.info().driver_info, "another driver"),
        ] {
            fs::write(&path, &file).expect("written");
            assert_eq!(open(&folder.0).tuning(), default, "{file}");
        }
        // What the device cannot do is not switched on by a file.
        fs::write(&path, changed("false", "true")).expect("written");
        assert_eq!(load(gpu.info(), &folder.0, no_subgroups), None);
    }
}
