//! Recording: many dispatches, one encoder, one submission.
//!
//! Parameters of all dispatches of a submission travel in one uniform buffer, addressed by dynamic offset, so a
//! bind group depends on nothing but the buffers it names. It is made once and found again by their identities:
//! a decode step that was recorded before creates nothing.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use super::barriers::Barriers;
use super::device::Gpu;
use super::kernel::{JOB_BYTES, JOBS_BYTES, Kernel, PARAMS_BYTES};
use super::readback::{Pending, Signal};
use super::tensor::{Binding, Element, Source, Tensor};
use super::timer::{Submission, Timer};
use super::uniform::Uniform;
use crate::{Error, Result};

/// Parameters that one submission can hold before the recorder submits on its own.
const ARENA_BYTES: u64 = 2048 * PARAMS_BYTES;

/// Sequences that one dispatch of a kernel with jobs serves at most; `shaders/shared/jobs.wgsl` says the same.
pub const MOST_JOBS: usize = 64;

/// Records commands and submits them together.
#[derive(Debug)]
pub struct Recorder {
    gpu: Gpu,
    arena: wgpu::Buffer,
    params: Vec<u8>,
    commands: Vec<Command>,
    reads: Vec<(wgpu::Buffer, u64, Signal)>,
    groups: HashMap<Box<[u64]>, wgpu::BindGroup>,
    key: Vec<u64>,
    timer: Option<Timer>,
    barriers: Barriers,
}

#[derive(Debug)]
enum Command {
    Dispatch { kernel: Kernel, group: wgpu::BindGroup, params: u32, grid: [u32; 3] },
    Copy { from: wgpu::Buffer, from_offset: u64, to: wgpu::Buffer, to_offset: u64, bytes: u64 },
}

impl Recorder {
    /// A recorder with an empty list.
    pub fn new(gpu: &Gpu) -> Self {
        let device = gpu.device();
        let arena = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            // Kernels with jobs bind room for all of them, wherever theirs begin.
            size: ARENA_BYTES + JOBS_BYTES,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Self {
            gpu: gpu.clone(),
            arena,
            params: Vec::new(),
            commands: Vec::new(),
            reads: Vec::new(),
            groups: HashMap::new(),
            key: Vec::new(),
            timer: Timer::new(device),
            barriers: Barriers::default(),
        }
    }

    /// The device it records for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Records one dispatch. `bindings` follow the shader's storage bindings from 1 on; `params` is its uniform.
    /// A grid with a zero is recorded as nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when a binding or the grid exceeds the device's limits.
    pub fn dispatch<P: Uniform>(
        &mut self,
        kernel: &Kernel,
        params: &P,
        bindings: &[Binding<'_>],
        grid: [u32; 3],
    ) -> Result<()> {
        debug_assert!(size_of::<P>() as u64 <= PARAMS_BYTES, "{}: parameters too large", kernel.label());
        #[cfg(debug_assertions)]
        assert_eq!(kernel.inner.fields, P::FIELDS, "{}: the shader has other parameters", kernel.label());
        self.record(kernel, bytemuck::bytes_of(params), bindings, grid)
    }

    /// Records what a kernel does for each of `jobs`, which it finds as an array in its uniform; the grid has a layer
    /// for each. As many dispatches as that takes.
    ///
    /// # Errors
    /// As [`Recorder::dispatch`].
    pub fn dispatch_jobs<P: Uniform>(
        &mut self,
        kernel: &Kernel,
        jobs: &[P],
        bindings: &[Binding<'_>],
        [x, y]: [u32; 2],
    ) -> Result<()> {
        let stride = size_of::<P>().next_multiple_of(16);
        debug_assert!(stride as u64 <= JOB_BYTES, "{}: a job is too large", kernel.label());
        #[cfg(debug_assertions)]
        assert_eq!(kernel.inner.fields, P::FIELDS, "{}: the shader has other jobs", kernel.label());
        for jobs in jobs.chunks(MOST_JOBS) {
            let mut bytes = vec![0; stride * jobs.len()];
            for (to, job) in bytes.chunks_exact_mut(stride).zip(jobs) {
                to[..size_of::<P>()].copy_from_slice(bytemuck::bytes_of(job));
            }
            self.record(kernel, &bytes, bindings, [x, y, jobs.len() as u32])?;
        }
        Ok(())
    }

    fn record(
        &mut self,
        kernel: &Kernel,
        params: &[u8],
        bindings: &[Binding<'_>],
        grid: [u32; 3],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.check_limits(kernel, bindings, grid)?;
        if (self.params.len() + params.len()) as u64 > ARENA_BYTES {
            self.submit();
        }
        let writes = kernel.inner.access.iter().map(|access| access.writes());
        if self.barriers.dispatch(bindings.iter().map(|b| b.id).zip(writes)) {
            self.gpu.account().barriers.fetch_add(1, Relaxed);
        }
        let group = self.group(kernel, bindings);
        let offset = self.params.len();
        self.params.extend_from_slice(params);
        self.params.resize(self.params.len().next_multiple_of(PARAMS_BYTES as usize), 0);
        let kernel = kernel.clone();
        self.commands.push(Command::Dispatch { kernel, group, params: offset as u32, grid });
        self.gpu.account().dispatches.fetch_add(1, Relaxed);
        Ok(())
    }

    fn check_limits(&self, kernel: &Kernel, bindings: &[Binding<'_>], grid: [u32; 3]) -> Result<()> {
        debug_assert_eq!(
            kernel.inner.access.len(),
            bindings.len(),
            "{}: wrong number of bindings",
            kernel.label()
        );
        let limit = self.gpu.max_binding_bytes();
        if let Some(large) = bindings.iter().find(|b| b.size > limit) {
            return Err(Error::Unsupported {
                need: format!("{} binds {} bytes at once", kernel.label(), large.size),
                have: format!("a limit of {limit} bytes"),
            });
        }
        match grid.iter().find(|&&n| n > 65_535) {
            Some(n) => Err(Error::Unsupported {
                need: format!("{} needs {n} workgroups in a row", kernel.label()),
                have: "a limit of 65535".to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn group(&mut self, kernel: &Kernel, bindings: &[Binding<'_>]) -> wgpu::BindGroup {
        self.key.clear();
        self.key.push(kernel.inner.id as u64);
        self.key.extend(bindings.iter().flat_map(|b| [b.id, b.offset, b.size]));
        if let Some(group) = self.groups.get(&self.key[..]) {
            return group.clone();
        }
        let buffer = |buffer, offset, size| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: std::num::NonZeroU64::new(size),
            })
        };
        let params = buffer(&self.arena, 0, kernel.inner.params_bytes);
        let storage = bindings.iter().map(|b| match b.source {
            Source::Buffer(from) => buffer(from, b.offset, b.size),
            Source::Texture(view) => wgpu::BindingResource::TextureView(view),
        });
        let numbered = std::iter::once(params).chain(storage).enumerate();
        let entries: Vec<_> = numbered
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding: binding as u32, resource })
            .collect();
        let group = self.gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.label()),
            layout: &kernel.inner.layout,
            entries: &entries,
        });
        self.gpu.account().bind_groups.fetch_add(1, Relaxed);
        self.groups.insert(self.key.clone().into_boxed_slice(), group.clone());
        group
    }

    /// Records a copy of `count` values between tensors, which must not be the same one.
    pub fn copy<T: Element>(
        &mut self,
        from: &Tensor<T>,
        first: usize,
        to: &Tensor<T>,
        at: usize,
        count: usize,
    ) {
        let size = size_of::<T>() as u64;
        self.barriers.end_pass();
        self.commands.push(Command::Copy {
            from: from.inner.buffer.clone(),
            from_offset: from.offset + first as u64 * size,
            to: to.inner.buffer.clone(),
            to_offset: to.offset + at as u64 * size,
            bytes: count as u64 * size,
        });
    }

    /// Records a read-back of `count` values from `first` on; it resolves after the submission has run.
    pub fn read<T: Element>(&mut self, tensor: &Tensor<T>, first: usize, count: usize) -> Pending<T> {
        let size = size_of::<T>() as u64;
        self.read_bytes(&tensor.inner.buffer, tensor.offset + first as u64 * size, count as u64 * size)
    }

    fn read_bytes<T>(&mut self, from: &wgpu::Buffer, offset: u64, bytes: u64) -> Pending<T> {
        let to = self.staging(bytes);
        let (from, buffer, signal) = (from.clone(), to.clone(), Signal::default());
        self.barriers.end_pass();
        self.commands.push(Command::Copy { from, from_offset: offset, to: to.clone(), to_offset: 0, bytes });
        self.reads.push((to, bytes, signal.clone()));
        Pending { gpu: self.gpu.clone(), buffer: Some(buffer), bytes, signal, kind: std::marker::PhantomData }
    }

    fn staging(&self, bytes: u64) -> wgpu::Buffer {
        let size = bytes.next_power_of_two().max(16);
        let mut pool = self.gpu.inner.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = pool.iter().position(|b| b.size() == size) {
            return pool.swap_remove(place);
        }
        self.gpu.account().buffers.fetch_add(1, Relaxed);
        self.gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Forgets every bind group, and with them the buffers that nothing else holds any more.
    pub fn forget(&mut self) {
        self.groups.clear();
    }

    /// Submits what was recorded.
    pub fn submit(&mut self) {
        self.send(false);
    }

    /// Submits what was recorded, as something to wait for and to time.
    pub fn submit_timed(&mut self) -> Submission {
        let started = web_time::Instant::now();
        let stamps = self.send(true);
        let signal = Signal::default();
        let done = signal.clone();
        self.gpu.queue().on_submitted_work_done(move || done.set(Ok(())));
        self.gpu.inner.poller.watch(self.gpu.queue().submit([]), vec![signal.clone()]);
        Submission { signal, started, stamps }
    }

    fn send(&mut self, timed: bool) -> Option<(Pending<u32>, f32)> {
        let timer = self.timer.take_if(|_| timed);
        let stamps = timer.as_ref().map(|t| {
            let size = t.resolved.size();
            (self.read_bytes(&t.resolved, 0, size), self.gpu.queue().get_timestamp_period())
        });
        self.gpu.queue().write_buffer(&self.arena, 0, &self.params);
        self.params.clear();
        self.barriers.end_pass();
        let mut encoder =
            self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.encode(&mut encoder, timer.as_ref());
        let index = self.gpu.queue().submit([encoder.finish()]);
        let signals = self.reads.iter().map(|(_, _, signal)| signal.clone()).collect();
        for (buffer, bytes, signal) in self.reads.drain(..) {
            let done = move |outcome: Result<(), wgpu::BufferAsyncError>| {
                signal.set(outcome.map_err(|e| e.to_string()))
            };
            buffer.map_async(wgpu::MapMode::Read, ..bytes, done);
        }
        self.gpu.inner.poller.watch(index, signals);
        if timer.is_some() {
            self.timer = timer;
        }
        stamps
    }

    fn encode(&mut self, encoder: &mut wgpu::CommandEncoder, timer: Option<&Timer>) {
        let mut pass: Option<wgpu::ComputePass<'static>> = None;
        if let Some(timer) = timer {
            encoder.begin_compute_pass(&timer.stamp(0));
        }
        let last = self.commands.len().saturating_sub(usize::from(timer.is_some()));
        for (i, command) in self.commands.drain(..).enumerate() {
            if let (true, Some(timer)) = (i == last, timer) {
                pass = None;
                encoder.begin_compute_pass(&timer.stamp(1));
                encoder.resolve_query_set(&timer.queries, 0..2, &timer.resolved, 0);
            }
            match command {
                Command::Dispatch { kernel, group, params, grid: [x, y, z] } => {
                    let pass = pass.get_or_insert_with(|| {
                        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime()
                    });
                    pass.set_pipeline(&kernel.inner.pipeline);
                    pass.set_bind_group(0, &group, &[params]);
                    pass.dispatch_workgroups(x, y, z);
                }
                Command::Copy { from, from_offset, to, to_offset, bytes } => {
                    pass = None;
                    encoder.copy_buffer_to_buffer(&from, from_offset, &to, to_offset, bytes);
                }
            }
        }
    }
}
