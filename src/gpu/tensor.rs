//! Typed buffers.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::account::{Account, Class};
use super::arena::Lease;

/// What a tensor can hold: the two scalar types that every WebGPU device stores.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {}
impl Element for f32 {}
impl Element for u32 {}

/// A buffer on the device, seen as `len` values of `T`. Clones share the buffer.
#[derive(Debug, Clone)]
pub struct Tensor<T> {
    pub(super) inner: Arc<Inner>,
    /// Where it begins in its buffer, in bytes.
    pub(super) offset: u64,
    len: usize,
    /// What it holds of a buffer that others have ranges of too.
    _lease: Option<Arc<Lease>>,
    kind: PhantomData<T>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub buffer: wgpu::Buffer,
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

/// A range of a tensor, or a whole texture, as a kernel sees it.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    pub(super) id: u64,
    /// In bytes.
    pub(super) offset: u64,
    /// In bytes; 0 for a texture.
    pub(super) size: u64,
    pub(super) source: Source<'a>,
}

/// What is bound.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Buffer(&'a wgpu::Buffer),
    Texture(&'a wgpu::TextureView),
}

/// Values to whose multiples views are aligned.
pub const VIEW_ALIGNMENT: usize = 64;

/// Never the same twice, so that a bind group cached for one buffer or texture cannot serve another.
pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed)
}

impl<T: Element> Tensor<T> {
    pub(super) fn new(
        device: &wgpu::Device,
        account: &Arc<Account>,
        class: Class,
        label: &str,
        len: usize,
    ) -> Self {
        // WebGPU forbids empty bindings; 16 bytes also lets a kernel view any tensor as vec4.
        let bytes = ((len * size_of::<T>()) as u64).next_multiple_of(16).max(16);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        account.add(class, bytes);
        let inner = Inner { buffer, id: next_id(), bytes, class, account: account.clone() };
        Self { inner: Arc::new(inner), offset: 0, len, _lease: None, kind: PhantomData }
    }

    /// Values it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it is for.
    pub fn class(&self) -> Class {
        self.inner.class
    }

    /// Bytes of the whole buffer on the device.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    /// `len` values from `first` on, as a tensor that shares the buffer. `first` must be a multiple of
    /// [`VIEW_ALIGNMENT`]: WebGPU binds buffers at multiples of 256 bytes.
    pub fn view(&self, first: usize, len: usize) -> Self {
        assert!(
            first.is_multiple_of(VIEW_ALIGNMENT) && first + len <= self.len,
            "view {first}+{len} of {}",
            self.len
        );
        let offset = self.offset + (first * size_of::<T>()) as u64;
        Self { offset, len, ..self.clone() }
    }

    /// The first `len` values of a range of this tensor, which is theirs until the last clone is dropped.
    pub(super) fn leased(&self, lease: Lease, len: usize) -> Self {
        let view = self.view(lease.first(), len);
        Self { _lease: Some(Arc::new(lease)), ..view }
    }

    /// The whole buffer, for a kernel, and the index in it of this tensor's first value.
    pub fn whole(&self) -> (Binding<'_>, usize) {
        (self.range(0, self.inner.bytes), self.offset as usize / size_of::<T>())
    }

    /// True when both lie in the same buffer.
    pub fn beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The tensor, for a kernel.
    pub fn bind(&self) -> Binding<'_> {
        let bytes = ((self.len * size_of::<T>()) as u64).next_multiple_of(16).max(16);
        self.range(self.offset, bytes.min(self.inner.bytes - self.offset))
    }

    fn range(&self, offset: u64, size: u64) -> Binding<'_> {
        Binding { id: self.inner.id, offset, size, source: Source::Buffer(&self.inner.buffer) }
    }
}
