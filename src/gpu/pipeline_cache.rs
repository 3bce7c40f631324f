//! Compiled pipelines on disk, where the driver hands them out: a later start of the program compiles them faster.
//!
//! Drivers trust what they are given, so a file is used only if it is as it was written: by the folder's owner, for
//! this adapter and driver, and unchanged.

use std::path::{Path, PathBuf};

use super::folder;
use crate::digest::Digest;

/// More than the pipelines of all models together take.
const MOST_BYTES: u64 = 64 << 20;

/// A device's pipelines, written back when it is dropped.
#[derive(Debug)]
pub(super) struct PipelineCache {
    pub cache: wgpu::PipelineCache,
    path: PathBuf,
    /// What a file is for: the adapter and its driver.
    owner: String,
    /// The file as it was read.
    file: Option<Vec<u8>>,
}

impl PipelineCache {
    /// The device's pipelines with those in `folder`; `None` where the driver does not hand them out.
    pub async fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(wgpu::util::pipeline_cache_key(info)?);
        let owner = format!("{} {} {}", info.name, info.driver, info.driver_info);
        let file = folder::read(&path, MOST_BYTES);
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let data = file.as_deref().and_then(|file| unseal(&owner, file));
        let cache = crate::trusted::pipeline_cache(device, data);
        let refused = scope.pop().await.is_some();
        (!refused).then_some(Self { cache, path, owner, file })
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        let Some(data) = self.cache.get_data() else { return };
        let file = seal(&self.owner, data);
        if self.file.as_ref() != Some(&file) && file.len() as u64 <= MOST_BYTES {
            // Pipelines that cannot be kept cost the next start some time, and nothing else.
            let _ = folder::write(&self.path, &file);
        }
    }
}

/// Sixteen digits.
fn checksum(owner: &str, data: &[u8]) -> String {
    Digest::of("pipelines/1").text(owner).bytes(data).hex()
}

fn seal(owner: &str, mut data: Vec<u8>) -> Vec<u8> {
    let sum = checksum(owner, &data);
    data.extend(sum.into_bytes());
    data
}

fn unseal<'a>(owner: &str, file: &'a [u8]) -> Option<&'a [u8]> {
    let (data, sum) = file.split_last_chunk::<16>()?;
    (sum == checksum(owner, data).as_bytes()).then_some(data)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::folder::tests::Scratch;
    use super::super::{AdapterChoice, Gpu, Shader, ShaderKey};
    use super::*;

    #[test]
    fn a_file_is_sealed_against_change() {
        let file = seal("adapter", b"pipelines".to_vec());
        assert_eq!(unseal("adapter", &file), Some(&b"pipelines"[..]));
        assert_eq!(unseal("another", &file), None);
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert_eq!(unseal("adapter", &changed), None, "byte {at}");
            assert_eq!(unseal("adapter", &file[..at]), None, "{at} bytes");
        }
    }

    const NOTHING: Shader = Shader { stem: "nothing", text: "@compute @workgroup_size(1) fn main() {}" };

    fn open(folder: &Path) -> Gpu {
        let gpu =
            pollster::block_on(Gpu::open_remembering(&AdapterChoice::Best, folder)).expect("an adapter");
        let kernel = gpu.kernel(&ShaderKey::new(NOTHING)).expect("a shader");
        std::sync::LazyLock::force(&kernel.inner.pipeline);
        gpu.check().expect("a pipeline");
        gpu
    }

    #[test]
    fn damaged_files_are_replaced() {
        let folder = Scratch::new("pipelines");
        let gpu = open(&folder.0);
        let Some(path) = gpu.inner.pipelines.as_ref().map(|kept| kept.path.clone()) else { return };
        let owner = gpu.inner.pipelines.as_ref().map(|kept| kept.owner.clone()).unwrap_or_default();
        drop(gpu);
        let whole = fs::read(&path).expect("a file");
        let data = unseal(&owner, &whole).expect("a sealed file").to_vec();
        let mut elsewhere = data.clone();
        // The first byte of what tells adapters apart, after the magic number, two versions and the back end.
        elsewhere[17] ^= 1;
        let damaged = [
            whole[..whole.len() / 2].to_vec(),
            b"garbage".repeat(100),
            // These pass as files of ours; wgpu has to refuse them.
            seal(&owner, data[..data.len() - 1].to_vec()),
            seal(&owner, data[..9].to_vec()),
            seal(&owner, b"garbage".repeat(100)),
            seal(&owner, elsewhere),
        ];
        for file in damaged {
            folder::write(&path, &file).expect("written");
            drop(open(&folder.0));
        }
        fs::remove_file(&path).expect("removed");
        drop(open(&folder.0));
        assert_eq!(fs::read(&path).expect("a file").len(), whole.len());
    }
}
