//! Which family of kernels suits a device.

/// Two ways to lay work over a device; every hot kernel exists for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Software adapters: one lane per output row, wide loads, a uniform second operand, no barriers.
    Lanes,
    /// Real GPUs: a workgroup per few output rows, shared memory, neighbouring lanes on neighbouring words.
    Groups,
}

/// Choices made once per device; kernels take them as shader defines, never as run-time branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuning {
    /// The kernel family.
    pub family: Family,
    /// Use subgroup operations where a kernel has such a variant.
    pub subgroups: bool,
    /// Lanes of the device's smallest subgroups, a power of two; 0 where kernels must do without subgroup operations.
    pub subgroup_lanes: u32,
    /// Decode products multiply activations of 8 bits, in so many planes (1 or 2), by packed dot products of integers. 0 where
    /// the device has none, or none that is an instruction of its own: then products are of f32.
    pub planes: u32,
    /// `storageBarrier` orders what all workgroups see, not only its own: one that comes last may read what others left.
    pub wide_barriers: bool,
    /// Keep weights in textures, for the kernels of [`Family::Lanes`].
    pub textures: bool,
    /// Multiply many rows on cooperative matrices, in halves. False until such a product was compared with its twin
    /// on the device, by `kernels::units::prove`.
    pub matrix_units: bool,
    /// Multiply a few rows on them by a kernel of their own, likewise; never without [`Tuning::matrix_units`].
    pub matrix_few: bool,
    /// Attend in prefill on cooperative matrices, likewise.
    pub matrix_attention: bool,
    /// Decode attention: how many parts the rows of a head are split into at most.
    pub attention_splits: u32,
}

/// Parts of a head's rows beyond which merging them costs more than any device gains.
pub(super) const MOST_SPLITS: u32 = 64;

/// Where a [`Tuning`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TuningSource {
    /// The kind of the adapter.
    Adapter,
    /// A measurement on this adapter and driver.
    Measured,
    /// The caller of [`Gpu::with_tuning`](super::Gpu::with_tuning).
    Caller,
}

impl Tuning {
    /// True where products may read activations that were quantised: lanes exchange values by eight for that.
    pub fn can_quantise(self) -> bool {
        self.family == Family::Groups && self.subgroup_lanes >= 8
    }

    pub(super) fn for_device(info: &wgpu::AdapterInfo, device: &wgpu::Device) -> Self {
        // Software adapters run barriers as coroutines, which costs far more than the reads they save.
        let subgroups = device.features().contains(wgpu::Features::SUBGROUP);
        let subgroup_lanes = if subgroups { info.subgroup_min_size } else { 0 };
        // WGSL promises no such order. What naga writes for Vulkan has the scope of the device.
        let wide_barriers = info.backend == wgpu::Backend::Vulkan;
        if info.device_type == wgpu::DeviceType::Cpu {
            // Here subgroups pass loaded values round, by eight.
            Self {
                family: Family::Lanes,
                subgroups: subgroup_lanes >= 8,
                subgroup_lanes,
                planes: 0,
                wide_barriers,
                // A gain on lavapipe; browsers were not measured.
                textures: info.backend == wgpu::Backend::Vulkan
                    && device.limits().max_storage_textures_per_shader_stage >= 2,
                matrix_units: false,
                matrix_few: false,
                matrix_attention: false,
                attention_splits: 16,
            }
        } else {
            // Subgroup kernels assume at least 16 lanes; narrower ones gain nothing over shared memory.
            let wide = subgroup_lanes >= 16;
            Self {
                family: Family::Groups,
                subgroups: wide,
                subgroup_lanes,
                planes: if subgroup_lanes >= 8 && has_packed_dots(info) { 2 } else { 0 },
                wide_barriers,
                textures: false,
                matrix_units: false,
                matrix_few: false,
                matrix_attention: false,
                attention_splits: 16,
            }
        }
    }
}

/// True where a packed dot product of integers is one instruction. wgpu does not say, so this goes by what is known: NVIDIA's
/// and Intel's GPUs of the last years have it; AMD's before RDNA 2 spell it out in a dozen, and `doctor --tune` measures
/// those; Metal has none. Browsers do not tell the adapter.
fn has_packed_dots(info: &wgpu::AdapterInfo) -> bool {
    const NVIDIA: u32 = 0x10DE;
    const INTEL: u32 = 0x8086;
    matches!(info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Dx12)
        && [NVIDIA, INTEL].contains(&info.vendor)
}
