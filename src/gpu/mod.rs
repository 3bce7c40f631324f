//! The device: the only room that names wgpu.
//!
//! ```text
//! Gpu ── device, queue, limits, byte accounts        (adapter.rs, device.rs, account.rs)
//!  ├─ Tensor<T>   a typed buffer of one class         (tensor.rs, arena.rs)
//!  ├─ Texture     words by texels                     (texture.rs)
//!  ├─ Kernel      a compiled pipeline, by ShaderKey   (kernel.rs, shader.rs, uniform.rs, workers.rs)
//!  ├─ Recorder    many dispatches, one submission     (recorder.rs)
//!  ├─ Pending     a read-back that resolves later     (readback.rs)
//!  └─ a folder    what later programs start with      (folder.rs, pipeline_cache.rs, tuning_file.rs)
//! ```
//!
//! Nothing here knows what a language model is, and nothing here blocks.

mod account;
mod adapter;
mod arena;
mod barriers;
mod device;
mod folder;
mod kernel;
mod pipeline_cache;
mod readback;
mod recorder;
mod shader;
mod tensor;
mod texture;
mod timer;
mod tuning;
mod tuning_file;
mod uniform;
mod workers;

pub use account::{Bytes, Class, Counters};
pub use adapter::{
    AdapterChoice, AdapterSummary, adapters, matrix_features, optional_features, required_limits,
};
pub use arena::Arena;
pub use device::Gpu;
pub use folder::cache_folder;
pub use kernel::Kernel;
pub use readback::Pending;
pub use recorder::{MOST_JOBS, Recorder};
pub use shader::{Access, Shader, ShaderKey, assemble, binding_access};
pub use tensor::{Binding, Element, Tensor, VIEW_ALIGNMENT};
pub use texture::{Texel, Texture};
pub use timer::Submission;
pub use tuning::{Family, Tuning, TuningSource};
pub use uniform::Uniform;
pub(crate) use uniform::uniform;
