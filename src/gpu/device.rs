//! The handle to a device: open or adopt it, allocate on it, write to it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::account::{Account, Bytes, Class, Counters};
use super::adapter::{
    AdapterChoice, MATRIX_SHARED_BYTES, find, matrix_features, optional_features, required_limits,
};
use super::kernel;
use super::pipeline_cache::PipelineCache;
use super::readback::Poller;
use super::tensor::{Element, Tensor};
use super::tuning::{Tuning, TuningSource};
use super::tuning_file;
use crate::{Error, Result};

/// A device with its queue, its pipelines and its books. Clones share everything.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub(super) inner: Arc<Inner>,
    tuning: Tuning,
    tuning_source: TuningSource,
}

#[derive(Debug)]
pub(super) struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    /// Asked for at every dispatch.
    limits: wgpu::Limits,
    matrix_units: bool,
    account: Arc<Account>,
    fault: Fault,
    pub kernels: kernel::Cache,
    pub pipelines: Option<PipelineCache>,
    pub staging: Mutex<Vec<wgpu::Buffer>>,
    pub poller: Poller,
}

/// The first error that the device reported on its own, outside any call: what follows is of its making.
#[derive(Debug, Clone, Default)]
struct Fault(Arc<Mutex<Option<Report>>>);

#[derive(Debug)]
enum Report {
    OutOfMemory,
    Lost(String),
}

impl Fault {
    fn set(&self, report: Report) {
        self.lock().get_or_insert(report);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Report>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gpu {
    /// Opens an adapter of this machine with everything benben can use of it.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when none fits, [`Error::Unsupported`] when it refuses WebGPU's default limits.
    pub async fn open(choice: &AdapterChoice) -> Result<Self> {
        Self::open_with(choice, None).await
    }

    /// Opens an adapter as [`Gpu::open`] does, and uses what earlier programs left in `folder`, which is this user's:
    /// compiled pipelines, where the driver hands them out, and a tuning that [`Gpu::keep_tuning`] wrote. Pipelines
    /// are written back when the last handle to the device is dropped. A file that is missing, damaged, of another
    /// driver or writable by others is not used.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn open_remembering(choice: &AdapterChoice, folder: &Path) -> Result<Self> {
        Self::open_with(choice, Some(folder)).await
    }

    async fn open_with(choice: &AdapterChoice, folder: Option<&Path>) -> Result<Self> {
        let adapter = find(choice).await?;
        let mut descriptor = wgpu::DeviceDescriptor {
            label: Some("benben"),
            required_features: adapter.features() & (optional_features() | wgpu::Features::PIPELINE_CACHE),
            required_limits: required_limits(&adapter),
            ..Default::default()
        };
        let plain = descriptor.clone();
        let matrices = matrix_features(&adapter);
        if !matrices.is_empty() {
            descriptor.required_features |= matrices;
            descriptor.experimental_features = crate::trusted::experimental_features();
        }
        let mut opened = adapter.request_device(&descriptor).await;
        if opened.is_err() && !matrices.is_empty() {
            opened = adapter.request_device(&plain).await;
        }
        let (device, queue) = opened.map_err(|e| Error::Unsupported {
            need: "a device with WebGPU's default limits".to_owned(),
            have: format!("adapter '{}', which says: {e}", adapter.get_info().name),
        })?;
        let fault = Fault::default();
        let (on_error, on_loss) = (fault.clone(), fault.clone());
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            on_error.set(match error {
                wgpu::Error::OutOfMemory { .. } => Report::OutOfMemory,
                other => Report::Lost(other.to_string()),
            });
        }));
        device.set_device_lost_callback(move |reason, message| {
            on_loss.set(Report::Lost(format!("{reason:?}: {message}")));
        });
        let Some(folder) = folder else { return Ok(Self::new(&adapter, device, queue, fault, None)) };
        let pipelines = PipelineCache::open(&device, &adapter.get_info(), folder).await;
        let mut gpu = Self::new(&adapter, device, queue, fault, pipelines);
        if let Some(tuning) = tuning_file::load(gpu.info(), folder, gpu.tuning) {
            (gpu.tuning, gpu.tuning_source) = (tuning, TuningSource::Measured);
        }
        Ok(gpu)
    }

    /// Uses a device that somebody else opened and goes on using: a game, a desktop app.
    ///
    /// Ask the adapter for [`required_limits`] and whatever of [`optional_features`] it has; those of
    /// [`matrix_features`] are used where the host asked for them too. The host keeps its own handlers for device
    /// errors and loss.
    pub fn adopt(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::new(adapter, device, queue, Fault::default(), None)
    }

    fn new(
        adapter: &wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        fault: Fault,
        pipelines: Option<PipelineCache>,
    ) -> Self {
        let info = adapter.get_info();
        let tuning = Tuning::for_device(&info, &device);
        let matrices = matrix_features(adapter);
        // A host that opened the device may have asked for less than the adapter has.
        let room = device.limits().max_compute_workgroup_storage_size >= MATRIX_SHARED_BYTES;
        let matrix_units = !matrices.is_empty() && room && device.features().contains(matrices);
        let inner = Inner {
            limits: device.limits(),
            poller: Poller::new(device.clone()),
            device,
            queue,
            info,
            matrix_units,
            account: Arc::default(),
            fault,
            kernels: kernel::Cache::default(),
            pipelines,
            staging: Mutex::default(),
        };
        Self { inner: Arc::new(inner), tuning, tuning_source: TuningSource::Adapter }
    }

    /// The same device with other kernel choices, for tests and measurements.
    pub fn with_tuning(&self, tuning: Tuning) -> Self {
        Self { inner: self.inner.clone(), tuning, tuning_source: TuningSource::Caller }
    }

    /// The same device with choices that were proven on it, whoever made the others.
    pub(crate) fn retuned(&self, tuning: Tuning) -> Self {
        Self { tuning, ..self.clone() }
    }

    /// True if the device was opened with the cooperative matrices that kernels multiply with.
    pub fn has_matrix_units(&self) -> bool {
        self.inner.matrix_units
    }

    /// The kernel choices of this device.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// The kernel choices that the kind of the adapter suggests.
    pub fn default_tuning(&self) -> Tuning {
        Tuning::for_device(self.info(), self.device())
    }

    /// Where the choices in force come from.
    pub fn tuning_source(&self) -> TuningSource {
        self.tuning_source
    }

    /// Writes the kernel choices to `folder`, as what was measured on this adapter and driver:
    /// [`Gpu::open_remembering`] takes them from there. Returns the file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep_tuning(&mut self, folder: &Path) -> io::Result<PathBuf> {
        let path = tuning_file::store(self.info(), folder, self.tuning)?;
        self.tuning_source = TuningSource::Measured;
        Ok(path)
    }

    /// The adapter's name, kind, driver and back end.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.inner.info
    }

    /// Name, driver and back end in one line.
    pub fn describe(&self) -> String {
        let info = self.info();
        format!("{} ({}, {})", info.name, info.backend, info.driver_info)
    }

    /// True for an adapter that is a program on the CPU and shares its memory.
    pub fn is_software(&self) -> bool {
        self.info().device_type == wgpu::DeviceType::Cpu
    }

    /// The largest range one binding can cover, in bytes.
    pub fn max_binding_bytes(&self) -> u64 {
        let limits = &self.inner.limits;
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
    }

    /// The most lanes that a workgroup can have.
    pub fn max_workgroup_lanes(&self) -> usize {
        let limits = &self.inner.limits;
        limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x) as usize
    }

    /// A tensor of `len` zeros.
    pub fn tensor<T: Element>(&self, class: Class, label: &str, len: usize) -> Tensor<T> {
        Tensor::new(self.device(), &self.inner.account, class, label, len)
    }

    /// A tensor with these values.
    pub fn tensor_with<T: Element>(&self, class: Class, label: &str, values: &[T]) -> Tensor<T> {
        let tensor = self.tensor(class, label, values.len());
        self.write(&tensor, 0, values);
        tensor
    }

    /// Writes `values` from index `first` on, before anything submitted later runs.
    pub fn write<T: Element>(&self, tensor: &Tensor<T>, first: usize, values: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let offset = tensor.offset + (first * size_of::<T>()) as u64;
        self.queue().write_buffer(&tensor.inner.buffer, offset, bytes);
    }

    /// Hands pending writes to the device, so that their staging memory can be freed.
    pub fn flush(&self) {
        self.inner.poller.watch(self.queue().submit([]), Vec::new());
    }

    /// Fails if the device reported an error since it was opened.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when it could not allocate, else [`Error::DeviceLost`] with its words.
    pub fn check(&self) -> Result<()> {
        match &*self.inner.fault.lock() {
            Some(Report::OutOfMemory) => Err(Error::OutOfMemory { held: self.bytes().total() }),
            Some(Report::Lost(message)) => Err(Error::DeviceLost(message.clone())),
            None => Ok(()),
        }
    }

    /// Lets [`Gpu::check`] fail from now on, after an error that only a lost device gives.
    pub(super) fn note_loss(&self, error: &Error) {
        if let Error::DeviceLost(message) = error {
            self.inner.fault.set(Report::Lost(message.clone()));
        }
    }

    /// Bytes held now, by class, and their peak.
    pub fn bytes(&self) -> Bytes {
        self.inner.account.bytes()
    }

    /// Lets the peak start anew from what is held now.
    pub fn reset_peak(&self) {
        self.inner.account.reset_peak();
    }

    /// Device objects created so far.
    pub fn counters(&self) -> Counters {
        self.inner.account.counters()
    }

    /// Destroys the device, as a driver reset would; everything on it is lost.
    pub fn destroy(&self) {
        self.device().destroy();
    }

    pub(super) fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.inner.account
    }

    pub(super) fn pipeline_cache(&self) -> Option<wgpu::PipelineCache> {
        self.inner.pipelines.as_ref().map(|kept| kept.cache.clone())
    }

    pub(super) fn count_pipeline(&self) {
        self.inner.account.pipelines.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}
