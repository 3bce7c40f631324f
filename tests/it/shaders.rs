//! Every variant of every shader through naga: a shader that would fail on Metal or DX12, or in a browser's
//! limits, fails here without that hardware.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use benben::gpu::{MOST_JOBS, ShaderKey, assemble};
use benben::kernels::variants;
use naga::back::{hlsl, msl, spv, wgsl};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module};

/// True if no software adapter but a GPU can be given the variant.
fn is_for_gpus(key: &ShaderKey) -> bool {
    // Those of 8 lanes handle a whole row each.
    let lanes = |word: &str| word == "LANES=8" || word.starts_with("TEXTURES") || word.ends_with("_lanes");
    !key.to_string().split(' ').any(lanes)
}

fn uses_subgroups(key: &ShaderKey) -> bool {
    key.to_string().contains("SUBGROUPS") || key.stem() == "attention_decode_subgroups" || uses_matrices(key)
}

/// Cooperative matrices exist on Vulkan alone, as long as they are 16 by 16: naga has none for HLSL, and Metal's are 8 by
/// 8, so that what naga would write there no compiler takes.
fn uses_matrices(key: &ShaderKey) -> bool {
    assemble(key).is_ok_and(|text| text.contains("enable wgpu_cooperative_matrix"))
}

/// Parses and validates a variant with no more capabilities than its device is asked for.
fn validated(key: &ShaderKey) -> (Module, ModuleInfo) {
    let text = assemble(key).unwrap_or_else(|e| panic!("{e}"));
    let module =
        naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{key}: {}", e.emit_to_string(&text)));
    // What every WebGPU device can do: `unpack2x16float` and its like, which naga counts as extra.
    let baseline = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let subgroups = if uses_subgroups(key) { Capabilities::SUBGROUP } else { Capabilities::empty() };
    let matrices = if uses_matrices(key) {
        Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16
    } else {
        Capabilities::empty()
    };
    let mut validator = Validator::new(ValidationFlags::all(), baseline | subgroups | matrices);
    if uses_subgroups(key) {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{key}: {}", e.emit_to_string(&text)));
    (module, info)
}

/// Bytes of each variable in `space`.
fn sizes(module: &Module, space: impl Fn(AddressSpace) -> bool) -> Vec<u32> {
    let of_space = module.global_variables.iter().filter(|(_, v)| space(v.space));
    of_space.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).collect()
}

#[test]
fn every_shader_has_variants_and_every_variant_is_listed_once() {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files = fs::read_dir(shaders).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "wgsl"));
    let stems: BTreeSet<String> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let all = variants();
    assert_eq!(all.iter().map(|key| key.stem().to_owned()).collect::<BTreeSet<_>>(), stems);
    let labels: BTreeSet<String> = all.iter().map(ShaderKey::to_string).collect();
    assert_eq!(labels.len(), all.len(), "a variant is listed twice");
}

#[test]
fn every_variant_stays_within_default_limits() {
    for key in variants() {
        let (module, _) = validated(&key);
        let storage = sizes(&module, |space| matches!(space, AddressSpace::Storage { .. })).len();
        assert!(storage <= 8, "{key}: {storage} storage buffers");
        let uniforms = sizes(&module, |space| space == AddressSpace::Uniform);
        // Jobs of many sequences are a list of 80 bytes each at most.
        let most = if module.global_variables.iter().any(|(_, v)| v.name.as_deref() == Some("jobs")) {
            80 * MOST_JOBS as u32
        } else {
            256
        };
        assert!(uniforms.len() == 1 && uniforms[0] <= most, "{key}: uniforms of {uniforms:?} bytes");
        let shared: u32 = sizes(&module, |space| space == AddressSpace::WorkGroup).iter().sum();
        // Devices are tuned to matrix units only where they have more than the default of 16 KiB.
        let room = if uses_matrices(&key) { 48 << 10 } else { 16 << 10 };
        assert!(shared <= room, "{key}: {shared} bytes of workgroup memory");
        let [entry] = &module.entry_points[..] else { panic!("{key}: not one entry point") };
        let [x, y, z] = entry.workgroup_size;
        // Chosen by what the device allows.
        let lanes = if key.stem() == "matvec_dots" { 1024 } else { 256 };
        assert!(x * y * z <= lanes && y <= 256 && z <= 64, "{key}: a workgroup of {x} x {y} x {z}");
    }
}

#[test]
fn every_variant_is_written_for_every_back_end() {
    for key in variants() {
        let (module, info) = validated(&key);
        spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{key} in SPIR-V: {e}"));
        if !uses_matrices(&key) {
            let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
            msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
                .unwrap_or_else(|e| panic!("{key} in MSL: {e}"));
            let model = if uses_subgroups(&key) { hlsl::ShaderModel::V6_0 } else { hlsl::ShaderModel::V5_1 };
            let (options, pipeline) = (
                hlsl::Options { shader_model: model, ..hlsl::Options::default() },
                hlsl::PipelineOptions::default(),
            );
            hlsl::Writer::new(&mut String::new(), &options, &pipeline)
                .write(&module, &info, None)
                .unwrap_or_else(|e| panic!("{key} in HLSL: {e}"));
        }
        let text = wgsl::write_string(&module, &info, wgsl::WriterFlags::empty())
            .unwrap_or_else(|e| panic!("{key} in WGSL: {e}"));
        naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{key}, written and read again: {e}"));
    }
}

/// The SPIR-V that wgpu 30 makes of the crate's shaders on Vulkan 1.3: without run-time checks, as `trusted.rs` asks.
fn as_wgpu_writes_it(text: &str) -> Vec<u8> {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let words = spv::write_vec(&module, &info, &options, None).unwrap();
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// For `.ci/test-amd` and `tools/radv-stats`: the WGSL of what GPUs are given, and SPIR-V beside every WGSL file that lies in
/// the folder then.
#[test]
#[ignore = "writes files into the folder BENBEN_SHADERS"]
fn shaders_for_gpus_are_written_to_a_folder() {
    let folder = env::var_os("BENBEN_SHADERS").map(PathBuf::from).expect("BENBEN_SHADERS names a folder");
    fs::create_dir_all(&folder).unwrap();
    for key in variants().iter().filter(|key| is_for_gpus(key) && !uses_matrices(key)) {
        let name = key.to_string().replace(' ', ",") + ".wgsl";
        fs::write(folder.join(name), assemble(key).unwrap()).unwrap();
    }
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|e| e == "wgsl")) {
        println!("{}", path.display());
        fs::write(path.with_extension("spv"), as_wgpu_writes_it(&fs::read_to_string(&path).unwrap()))
            .unwrap();
    }
}
