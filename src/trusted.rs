//! The crate's only `unsafe`: what is switched off because the crate itself guarantees it.
#![allow(unsafe_code)]

/// Compiles one of the crate's own shaders without the bounds checks that wgpu adds natively.
///
/// Browsers ignore the switch. The kernels check their own grid edges, clamp token ids, and address KV rows
/// through tables that only the crate writes; their tests run the same shaders against CPU twins.
pub(crate) fn shader_module(
    device: &wgpu::Device,
    text: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    // SAFETY: see above; every loop of the shaders is bounded by a parameter.
    unsafe { device.create_shader_module_trusted(text, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// Maps a file into memory, read only.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn map_file(file: &std::fs::File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is only read. A file that another program shortens meanwhile ends this one with a bus
    // error, as with every program that maps its input; the bytes themselves are checked before use.
    unsafe { memmap2::Mmap::map(file) }
}
