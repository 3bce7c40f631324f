//! The crate's only `unsafe`: what is switched off because the crate itself guarantees it.
#![allow(unsafe_code)]

/// Compiles one of the crate's own shaders without the bounds checks that wgpu adds natively.
///
/// Browsers ignore the switch. The kernels check their own grid edges, clamp token ids, and address KV rows
/// through tables that only the crate writes; their tests run the same shaders against CPU twins, and with BENBEN_CHECKED
/// set, keep the checks: an index beyond its array then names another element than it does without.
pub(crate) fn shader_module(
    device: &wgpu::Device,
    text: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    #[cfg(test)]
    if std::env::var_os("BENBEN_CHECKED").is_some() {
        return device.create_shader_module(text);
    }
    // SAFETY: see above; every loop of the shaders is bounded by a parameter.
    unsafe { device.create_shader_module_trusted(text, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// Leave to ask a device for features that wgpu still tries out; `gpu/adapter.rs` asks for cooperative matrices alone.
pub(crate) fn experimental_features() -> wgpu::ExperimentalFeatures {
    // SAFETY: only the crate's own shaders use them, where every subgroup runs the same operations on tiles within their
    // arrays, and only after `kernels/units.rs` had their outputs compared with the twins' on the device.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// A pipeline cache that begins with `data`, which a cache of the same adapter and driver gave out.
pub(crate) fn pipeline_cache(device: &wgpu::Device, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
    // SAFETY: `gpu/pipeline_cache.rs` hands on only what it wrote for the adapter and driver, in a file that nobody else
    // may write; wgpu compares its own header, and the driver the one behind it.
    unsafe { device.create_pipeline_cache(&descriptor) }
}

/// Maps a file into memory, read only.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn map_file(file: &std::fs::File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is only read. A file that another program shortens meanwhile ends this one with a bus
    // error, as with every program that maps its input; the bytes themselves are checked before use.
    unsafe { memmap2::Mmap::map(file) }
}
