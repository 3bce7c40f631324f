//! Which adapters there are, which one to take, and what to ask of it.

use crate::{Error, Result};

/// Which adapter to open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The fastest kind present: discrete, integrated, virtual, software.
    #[default]
    Best,
    /// The adapter at this place of [`adapters`]'s list.
    Index(usize),
    /// The first adapter whose name contains this text, whatever the case.
    Named(String),
}

impl std::str::FromStr for AdapterChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(index) => Self::Index(index),
            Err(_) => Self::Named(text.to_owned()),
        })
    }
}

/// What `benben doctor` says of one adapter.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// The adapter's own description: name, kind, driver, back end.
    pub info: wgpu::AdapterInfo,
    /// Features that benben uses when they are there, and whether they are.
    pub features: Vec<(&'static str, bool)>,
    /// Its limits.
    pub limits: wgpu::Limits,
}

/// Features that make benben faster or better measured; none is required.
pub fn optional_features() -> wgpu::Features {
    wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY
}

/// Shared memory of a workgroup that kernels on matrix units have room in.
pub(super) const MATRIX_SHARED_BYTES: u32 = 48 << 10;

/// What kernels on matrix units ask of a device: cooperative matrices, in an experimental feature of wgpu, halves and
/// subgroups. Empty where the adapter lacks one of them, products of 16 by 16 halves summed in f32, subgroups of 32
/// lanes, or shared memory for a tile; and on back ends other than Vulkan, where naga cannot write such kernels.
pub fn matrix_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let wanted = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP;
    let info = adapter.get_info();
    let lanes = [info.subgroup_min_size, info.subgroup_max_size] == [32, 32];
    let room = adapter.limits().max_compute_workgroup_storage_size >= MATRIX_SHARED_BYTES;
    let usable = info.backend == wgpu::Backend::Vulkan
        && lanes
        && room
        && adapter.cooperative_matrix_properties().iter().any(is_usable);
    if usable && adapter.features().contains(wanted) { wanted } else { wgpu::Features::empty() }
}

fn is_usable(shape: &wgpu::CooperativeMatrixProperties) -> bool {
    let types = (shape.ab_type, shape.cr_type);
    [shape.m_size, shape.n_size, shape.k_size] == [16; 3]
        && types == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32)
        && !shape.saturating_accumulation
}

/// The limits to request from an adapter before handing its device to [`super::Gpu::adopt`]: WebGPU's
/// defaults, with the buffer and binding sizes raised to what the adapter has.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let has = adapter.limits();
    wgpu::Limits {
        max_buffer_size: has.max_buffer_size,
        max_storage_buffer_binding_size: has.max_storage_buffer_binding_size,
        max_compute_workgroup_storage_size: has.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: has.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: has.max_compute_workgroup_size_x,
        ..wgpu::Limits::default()
    }
}

/// Every adapter of this machine, in the driver's order.
pub async fn adapters() -> Vec<AdapterSummary> {
    enumerate().await.iter().map(summary).collect()
}

async fn enumerate() -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::PRIMARY).await
}

fn summary(adapter: &wgpu::Adapter) -> AdapterSummary {
    let has = adapter.features();
    let named = [
        ("subgroups", wgpu::Features::SUBGROUP),
        ("shader-f16", wgpu::Features::SHADER_F16),
        ("timestamps", wgpu::Features::TIMESTAMP_QUERY),
        ("pipeline-cache", wgpu::Features::PIPELINE_CACHE),
        ("cooperative-matrix", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ];
    AdapterSummary {
        info: adapter.get_info(),
        features: named.map(|(name, feature)| (name, has.contains(feature))).to_vec(),
        limits: adapter.limits(),
    }
}

/// Finds the adapter that `choice` names.
pub(super) async fn find(choice: &AdapterChoice) -> Result<wgpu::Adapter> {
    let mut all = enumerate().await;
    let names: Vec<String> = all.iter().map(|a| format!("'{}'", a.get_info().name)).collect();
    let place = match choice {
        AdapterChoice::Best => (0..all.len()).min_by_key(|&i| rank(all[i].get_info().device_type)),
        AdapterChoice::Index(index) => (*index < all.len()).then_some(*index),
        AdapterChoice::Named(text) => {
            names.iter().position(|n| n.to_lowercase().contains(&text.to_lowercase()))
        }
    };
    let wanted = match choice {
        AdapterChoice::Best => "at all".to_owned(),
        AdapterChoice::Index(index) => format!("with index {index}"),
        AdapterChoice::Named(text) => format!("named '{text}'"),
    };
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    place.map(|i| all.swap_remove(i)).ok_or(Error::NoAdapter { wanted, found })
}

fn rank(kind: wgpu::DeviceType) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shape_of_the_kernel_is_usable() {
        let (half, single) = (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
        let shape = |[m_size, n_size, k_size]: [u32; 3], ab_type, cr_type| {
            let saturating_accumulation = false;
            wgpu::CooperativeMatrixProperties {
                m_size,
                n_size,
                k_size,
                ab_type,
                cr_type,
                saturating_accumulation,
            }
        };
        assert!(is_usable(&shape([16; 3], half, single)));
        for other in
            [shape([16, 8, 16], half, single), shape([16; 3], half, half), shape([8; 3], single, single)]
        {
            assert!(!is_usable(&other), "{other:?}");
        }
    }
}
