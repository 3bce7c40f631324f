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
    /// Keep weights in textures, for the kernels of [`Family::Lanes`].
    pub textures: bool,
    /// Multiply many rows on cooperative matrices, in halves. False until such a product was compared with its twin
    /// on the device, by `kernels::units::prove`.
    pub matrix_units: bool,
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
    pub(super) fn for_device(info: &wgpu::AdapterInfo, device: &wgpu::Device) -> Self {
        // Software adapters run barriers as coroutines, which costs far more than the reads they save.
        let subgroups = device.features().contains(wgpu::Features::SUBGROUP);
        if info.device_type == wgpu::DeviceType::Cpu {
            // Here subgroups pass loaded values round, by eight.
            Self {
                family: Family::Lanes,
                subgroups: subgroups && info.subgroup_min_size >= 8,
                // A gain on lavapipe; browsers were not measured.
                textures: info.backend == wgpu::Backend::Vulkan
                    && device.limits().max_storage_textures_per_shader_stage >= 2,
                matrix_units: false,
                matrix_attention: false,
                attention_splits: 16,
            }
        } else {
            // Subgroup kernels assume at least 16 lanes; narrower ones gain nothing over shared memory.
            let wide = subgroups && info.subgroup_min_size >= 16;
            Self {
                family: Family::Groups,
                subgroups: wide,
                textures: false,
                matrix_units: false,
                matrix_attention: false,
                attention_splits: 16,
            }
        }
    }
}
