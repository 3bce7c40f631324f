//! Words in a texture, by texels.
//!
//! A software adapter runs the load from a buffer as a loop over its lanes, and the load of a texel as straight code.

use std::sync::Arc;

use super::account::{Account, Class};
use super::device::Gpu;
use super::tensor::{Binding, Source, next_id};

/// Texels in a row; the shaders know the number too.
const WIDTH: u32 = 1024;

/// Words of a texel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Texel {
    /// One.
    One,
    /// Four, as a load of four words from a buffer would bring.
    Four,
}

impl Texel {
    /// How many.
    pub fn words(self) -> usize {
        if self == Self::One { 1 } else { 4 }
    }

    pub(super) fn format(self) -> wgpu::TextureFormat {
        if self == Self::One { wgpu::TextureFormat::R32Uint } else { wgpu::TextureFormat::Rgba32Uint }
    }
}

/// Texels for kernels to write once and to read then: texel `i` lies at `(i % 1024, i / 1024)`. Clones share them.
#[derive(Debug, Clone)]
pub struct Texture(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    view: wgpu::TextureView,
    id: u64,
    bytes: u64,
    class: Class,
    account: Arc<Account>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.account.remove(self.class, self.bytes);
    }
}

impl Gpu {
    /// A texture of at least `len` texels, all zero.
    pub fn texture(&self, class: Class, label: &str, len: usize, texel: Texel) -> Texture {
        let height = (len.div_ceil(WIDTH as usize) as u32).max(1);
        let texture = self.device().create_texture(&wgpu::TextureDescriptor {
            label: Some(label),
            size: wgpu::Extent3d { width: WIDTH, height, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: texel.format(),
            // What can be copied to is zeroed by a copy, and else by a render pass, after which lavapipe no longer
            // writes timestamps where they are asked for.
            usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        });
        let (bytes, account) = (u64::from(WIDTH * height) * 4 * texel.words() as u64, self.account().clone());
        account.add(class, bytes);
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Texture(Arc::new(Inner { view, id: next_id(), bytes, class, account }))
    }

    /// The most bytes of a texture with texels of four words.
    pub fn max_texture_bytes(&self) -> u64 {
        16 * u64::from(WIDTH) * u64::from(self.device().limits().max_texture_dimension_2d)
    }
}

impl Texture {
    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// All of it, for a kernel.
    pub fn bind(&self) -> Binding<'_> {
        Binding { id: self.0.id, offset: 0, size: 0, source: Source::Texture(&self.0.view) }
    }
}
