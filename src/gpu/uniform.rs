//! Parameters of kernels: a struct here and the same one in WGSL, whose fields are compared when a debug build dispatches.

/// A uniform whose fields are those of its shader's struct: words in the same order, under the same names.
pub trait Uniform: bytemuck::Pod {
    /// Names and types as WGSL writes them.
    const FIELDS: &'static [&'static str];
}

/// Declares a [`Uniform`], field by field as its shader does.
macro_rules! uniform {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$note:meta])* $field_vis:vis $field:ident: $type:ident,)*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $($(#[$note])* $field_vis $field: $type,)*
        }

        impl $crate::gpu::Uniform for $name {
            const FIELDS: &'static [&'static str] =
                &[$(concat!(stringify!($field), ": ", stringify!($type)),)*];
        }
    };
}
pub(crate) use uniform;

/// The fields of an assembled shader's uniform, as [`Uniform::FIELDS`] has them.
#[cfg(debug_assertions)]
pub(super) fn fields_of(wgsl: &str) -> Vec<String> {
    let plain: String = wgsl.lines().flat_map(|line| [line.split("//").next().unwrap_or(""), "\n"]).collect();
    let name = if plain.contains("var<uniform> jobs") { "struct Job {" } else { "struct Params {" };
    let body = plain.split_once(name).and_then(|(_, rest)| rest.split_once('}'));
    let fields = body.map_or("", |(body, _)| body).split(',').map(str::trim);
    fields
        .filter(|field| !field.is_empty())
        .map(|field| field.trim_start_matches("@align(16) ").to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    uniform! {
        /// What a test dispatches with.
        struct Params {
            count: u32,
            /// With a note.
            scale: f32,
        }
    }

    #[test]
    fn fields_are_those_of_the_shader() {
        let text = "struct Params {\n    count: u32,   // of rows, all of them\n    scale: f32,\n}\n\
                    @group(0) @binding(0) var<uniform> params: Params;";
        assert_eq!(fields_of(text), Params::FIELDS);
        let job = "struct Job { @align(16) count: u32, scale: f32 }\nvar<uniform> jobs: array<Job, 4>;";
        assert_eq!(fields_of(job), Params::FIELDS);
        assert_ne!(fields_of(&text.replace("f32", "u32")), Params::FIELDS);
    }
}
