//! Compiled pipelines, cached by the key of their shader.
//!
//! Natively a kernel is handed out before it is compiled: workers compile what recording asks for, several kernels at
//! once, and whoever submits waits for those that are not done, or compiles them itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::device::Gpu;
use super::recorder::MOST_JOBS;
use super::shader::{Access, ShaderKey, assemble, binding_access};
use super::texture::Texel;
use super::workers::Workers;
use crate::{Error, Result};

/// A shader variant and its pipeline. Binding 0 is a uniform with the parameters, the others are storage.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub id: usize,
    pub label: String,
    pub pipeline: LazyLock<wgpu::ComputePipeline, Compile>,
    pub layout: wgpu::BindGroupLayout,
    /// Of the bindings after the first.
    pub access: Vec<Access>,
    /// What binding 0 covers.
    pub params_bytes: u64,
    /// The fields of what it holds.
    #[cfg(debug_assertions)]
    pub fields: Vec<String>,
}

#[cfg(not(target_arch = "wasm32"))]
type Compile = Box<dyn FnOnce() -> wgpu::ComputePipeline + Send>;
#[cfg(target_arch = "wasm32")]
type Compile = Box<dyn FnOnce() -> wgpu::ComputePipeline>;

/// Room for one dispatch's parameters: WebGPU's largest alignment of a dynamic uniform offset.
pub(super) const PARAMS_BYTES: u64 = 256;
/// The most that a job may take, and what a kernel that takes a list of them binds.
pub(super) const JOB_BYTES: u64 = 80;
pub(super) const JOBS_BYTES: u64 = JOB_BYTES * MOST_JOBS as u64;

#[derive(Debug, Default)]
pub(super) struct Cache {
    made: Mutex<HashMap<ShaderKey, Kernel>>,
    described: AtomicUsize,
    workers: Workers,
}

impl Cache {
    fn lock(&self) -> MutexGuard<'_, HashMap<ShaderKey, Kernel>> {
        // A poisoned lock only means that another thread panicked between two whole entries.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel {
    /// The variant's label: its stem and defines.
    pub fn label(&self) -> &str {
        &self.inner.label
    }
}

impl Gpu {
    /// The kernel of a shader variant, whose first use starts to compile it.
    ///
    /// # Errors
    /// [`Error::Format`] for a mistake in a shader file.
    pub fn kernel(&self, key: &ShaderKey) -> Result<Kernel> {
        let mut made = self.inner.kernels.lock();
        if let Some(kernel) = made.get(key) {
            return Ok(kernel.clone());
        }
        let kernel = self.describe_kernel(key)?;
        made.insert(key.clone(), kernel.clone());
        drop(made);
        self.inner.kernels.workers.compile(kernel.clone());
        Ok(kernel)
    }

    /// Compiles a shader variant at once and keeps it. What the device reports of that is this call's error instead of
    /// the device's.
    ///
    /// # Errors
    /// [`Error::Format`] for a mistake in a shader file, [`Error::Unsupported`] for a shader that the device refuses.
    pub async fn try_kernel(&self, key: &ShaderKey) -> Result<()> {
        if self.inner.kernels.lock().contains_key(key) {
            return Ok(());
        }
        let (kernel, errors) = {
            let filters =
                [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation];
            // Scopes are a thread's own, so that this one compiles, and end in the opposite order.
            let [memory, internal, validation] = filters.map(|filter| self.device().push_error_scope(filter));
            let kernel = self.describe_kernel(key);
            if let Ok(kernel) = &kernel {
                LazyLock::force(&kernel.inner.pipeline);
            }
            let validation = validation.pop();
            let internal = internal.pop();
            (kernel, [validation, internal, memory.pop()])
        };
        let mut refused = None;
        for error in errors {
            refused = error.await.or(refused);
        }
        if let Some(error) = refused {
            let (need, have) = (format!("compile the shader '{key}'"), error.to_string());
            return Err(Error::Unsupported { need, have });
        }
        self.inner.kernels.lock().entry(key.clone()).or_insert(kernel?);
        Ok(())
    }

    fn describe_kernel(&self, key: &ShaderKey) -> Result<Kernel> {
        let text = assemble(key)?;
        let label = key.to_string();
        let device = self.device();
        let access = binding_access(&text);
        #[cfg(debug_assertions)]
        let fields = super::uniform::fields_of(&text);
        let params_bytes = if text.contains("var<uniform> jobs") { JOBS_BYTES } else { PARAMS_BYTES };
        let buffer = |ty, dynamic| wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: dynamic,
            min_binding_size: None,
        };
        let texture = |access, texel: Texel| wgpu::BindingType::StorageTexture {
            access,
            format: texel.format(),
            view_dimension: wgpu::TextureViewDimension::D2,
        };
        let storage = |&access: &Access| match access {
            Access::Read => buffer(wgpu::BufferBindingType::Storage { read_only: true }, false),
            Access::Write => buffer(wgpu::BufferBindingType::Storage { read_only: false }, false),
            Access::ReadTexels(texel) => texture(wgpu::StorageTextureAccess::ReadOnly, texel),
            Access::WriteTexels(texel) => texture(wgpu::StorageTextureAccess::WriteOnly, texel),
        };
        let params = buffer(wgpu::BufferBindingType::Uniform, true);
        let numbered = std::iter::once(params).chain(access.iter().map(storage)).enumerate();
        let entries: Vec<_> = numbered
            .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty,
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&label),
            entries: &entries,
        });
        self.count_pipeline();
        let id = self.inner.kernels.described.fetch_add(1, Ordering::Relaxed);
        let compile = compile(device.clone(), label.clone(), text, layout.clone(), self.pipeline_cache());
        let pipeline = LazyLock::new(Box::new(compile) as Compile);
        let inner = Inner {
            id,
            label,
            pipeline,
            layout,
            access,
            params_bytes,
            #[cfg(debug_assertions)]
            fields,
        };
        Ok(Kernel { inner: Arc::new(inner) })
    }
}

/// What compiles a pipeline, when it is called.
fn compile(
    device: wgpu::Device,
    label: String,
    text: String,
    layout: wgpu::BindGroupLayout,
    cache: Option<wgpu::PipelineCache>,
) -> impl FnOnce() -> wgpu::ComputePipeline {
    move || {
        let module = crate::trusted::shader_module(
            &device,
            wgpu::ShaderModuleDescriptor {
                label: Some(&label),
                source: wgpu::ShaderSource::Wgsl(text.into()),
            },
        );
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&layout),
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes its shared memory before it reads it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: cache.as_ref(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AdapterChoice, Shader};
    use super::*;

    const NAMED: Shader = Shader { stem: "named", text: "@compute @workgroup_size(#{LANES}) fn main() {}" };

    #[test]
    fn threads_that_ask_at_once_share_a_pipeline() {
        let gpu = pollster::block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
        let ask = |lanes: u32| {
            let kernel = gpu.kernel(&ShaderKey::new(NAMED).with("LANES", lanes)).expect("a shader");
            LazyLock::force(&kernel.inner.pipeline);
            kernel
        };
        let asked: Vec<[Kernel; 4]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| [1, 2, 4, 8].map(ask))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for other in &asked[1..] {
            let same = |(a, b): (&Kernel, &Kernel)| Arc::ptr_eq(&a.inner, &b.inner);
            assert!(asked[0].iter().zip(other).all(same), "a variant was compiled twice");
        }
        assert_eq!(gpu.counters().pipelines, 4);
        gpu.check().expect("sound pipelines");
    }

    #[test]
    fn what_nobody_waits_for_is_compiled_all_the_same() {
        let gpu = pollster::block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
        let kernel = gpu.kernel(&ShaderKey::new(NAMED).with("LANES", 3)).expect("a shader");
        let start = std::time::Instant::now();
        while LazyLock::get(&kernel.inner.pipeline).is_none() {
            assert!(start.elapsed().as_secs() < 60, "no thread compiles it");
            std::thread::yield_now();
        }
    }
}
