//! What a model's files may say: what is known to change nothing passes, all else is refused by its name. No GPU here.

use crate::common::tiny::{CONTEXT, LAYERS, Tiny, TinyTensor};
use benben::model::{Config, Scaling};
use benben::weights::{Dtype, ModelFile, Value};
use pollster::block_on;
use serde_json::{Value as Json, json};

fn config(tiny: &Tiny) -> benben::Result<Config> {
    block_on(Config::read(&ModelFile::from_bytes(tiny.gguf()).expect("a sound file")))
}

/// The sentence with which a file is refused; it says all of `words`.
fn refused(outcome: benben::Result<Config>, words: &[&str]) {
    let sentence = outcome.expect_err("refused").to_string();
    assert!(words.iter().all(|word| sentence.contains(word)), "{words:?}: {sentence}");
}

fn number(n: u32) -> Value {
    Value::U32(n)
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn numbers(list: &[u32]) -> Value {
    Value::Array(list.iter().map(|&n| number(n)).collect())
}

#[test]
fn keys_that_are_not_implemented_are_refused_by_name() {
    for (key, value, shown) in [
        ("llama.logit_scale", Value::F32(0.5), "0.5"),
        ("llama.expert_count", number(8), "8"),
        ("llama.attention.causal", Value::Bool(false), "false"),
        ("llama.attention.clamp_kqv", Value::F32(8.0), "8"),
        ("llama.attention.sliding_window", number(64), "64"),
        ("llama.attention.value_length", number(16), "16"),
        ("llama.rope.scaling.yarn_log_multiplier", Value::F32(0.1), "0.1"),
        ("llama.rope.dimension_sections", numbers(&[16, 24, 24, 0]), "array of 4"),
        ("llama.tensor_data_layout", string("another one"), "'another one'"),
        ("llama.hidden_activation", string("gelu"), "'gelu'"),
        ("llama.of_next_year", number(1), "1"),
    ] {
        refused(config(&Tiny::new().with_meta(key, value)), &[key, shown]);
    }
    for (key, value) in [
        ("llama.vocab_size", number(7)),
        ("llama.logit_scale", Value::F32(1.0)),
        ("llama.expert_count", number(0)),
        ("llama.attention.causal", Value::Bool(true)),
        ("llama.attention.sliding_window", number(CONTEXT as u32)),
        ("llama.attention.value_length", number(32)),
        ("llama.rope.dimension_sections", numbers(&[0; 4])),
        ("llama.tensor_data_layout", string("Meta AI original pth")),
        ("llama.rope.scaling.finetuned", Value::Bool(true)),
        ("general.of_next_year", number(1)),
        ("quantize.imatrix.file", string("a file")),
    ] {
        config(&Tiny::new().with_meta(key, value)).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[test]
fn layers_that_are_alike_may_have_numbers_of_their_own() {
    let plain = config(&Tiny::new()).expect("a model");
    for (key, n) in [("attention.head_count", 4), ("attention.head_count_kv", 2), ("feed_forward_length", 96)]
    {
        let key = format!("llama.{key}");
        let with = |list: &[u32]| config(&Tiny::new().with_meta(&key, numbers(list)));
        assert_eq!(with(&[n; LAYERS]).expect("equal numbers"), plain);
        refused(with(&[n, n, n, n + 1]), &[&key, &n.to_string()]);
        refused(with(&[n; LAYERS - 1]), &[&key, "3 numbers"]);
        refused(with(&[]), &[&key]);
    }
}

#[test]
fn positions_are_scaled_as_llama_cpp_scales_them() {
    let of = |changes: &[(&str, Value)]| {
        let with = |tiny: Tiny, (key, value): &(&str, Value)| {
            tiny.with_meta(&format!("llama.rope.{key}"), value.clone())
        };
        config(&changes.iter().fold(Tiny::new(), with)).expect("a model").rope
    };
    let four = || Value::F32(4.0);
    let linear = of(&[("scaling.type", string("linear")), ("scaling.factor", four())]);
    assert_eq!(linear.scaling, Scaling::Linear(4.0));
    assert_eq!(of(&[("scaling.factor", four())]), linear, "an absent type is linear");
    assert_eq!(of(&[("scale_linear", four())]), linear, "the older name");
    assert_eq!(
        of(&[("scale_linear", Value::F32(9.0)), ("scaling.factor", four())]),
        linear,
        "the newer one wins"
    );
    assert_eq!(of(&[("scaling.factor", Value::F32(0.0))]), of(&[]), "zero is none");
    assert_eq!(of(&[("scaling.type", string("none")), ("scaling.factor", four())]), of(&[]));
    let yarn = of(&[("scaling.type", string("yarn")), ("scaling.factor", four())]);
    assert!(matches!(yarn.scaling, Scaling::Yarn { original, .. } if original == CONTEXT as f32), "{yarn:?}");
    assert!((yarn.magnitude - 1.138_629_4).abs() < 1e-6);
    let both = [
        ("scaling.type", string("yarn")),
        ("scaling.factor", four()),
        ("scaling.attn_factor", Value::F32(2.0)),
    ];
    assert!((of(&both).magnitude - 2.277_258_9).abs() < 1e-6, "the factor comes on top");
    for (key, value) in [
        ("llama.rope.scaling.type", string("longrope")),
        ("llama.rope.scaling.factor", Value::F32(-4.0)),
        ("llama.rope.scaling.factor", Value::F32(f32::NAN)),
    ] {
        refused(config(&Tiny::new().with_meta(key, value)), &[key]);
    }
}

fn tensor(name: &str, shape: &[usize]) -> TinyTensor {
    let values = vec![2.0; shape.iter().product()];
    TinyTensor { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), values }
}

#[test]
fn tensors_that_nothing_reads_are_refused_by_name() {
    let with = |name: &str, shape: &[usize]| {
        let mut tiny = Tiny::new();
        tiny.tensors.push(tensor(name, shape));
        config(&tiny)
    };
    for name in [
        "output.bias",
        "token_embd_norm.weight",
        "position_embd.weight",
        "blk.0.attn_q.bias",
        "blk.9.ffn_up.weight",
        "x",
    ] {
        refused(with(name, &[64]), &[&format!("'{name}'")]);
    }
    refused(with("blk.0.attn_q.weight.lora_a", &[64]), &["lora_a", "adapter (LoRA)"]);
    with("blk.0.attn_rot_embd.weight", &[16]).expect("frequencies that follow from the rest");
    let divided = with("rope_freqs.weight", &[16]).expect("divisors of frequencies").rope;
    assert_eq!(divided.frequencies()[0], 0.5);
    refused(with("rope_freqs.weight", &[8]), &["rope_freqs.weight", "[8]", "[16]"]);
    let mut scaled = Tiny::new().with_meta("llama.rope.scale_linear", Value::F32(4.0));
    scaled.tensors.push(tensor("rope_freqs.weight", &[16]));
    assert_eq!(config(&scaled).expect("both").rope.frequencies()[0], 0.125);
}

#[test]
fn files_of_another_kind_say_what_they_are() {
    let kind = |key: &str, value: &str| config(&Tiny::new().with_meta(key, string(value)));
    refused(kind("general.type", "adapter"), &["adapter (LoRA)", "merge it"]);
    refused(kind("adapter.type", "lora"), &["adapter (LoRA)"]);
    refused(kind("general.type", "mmproj"), &["mmproj"]);
    refused(kind("general.architecture", "clip"), &["mmproj"]);
    refused(kind("general.type", "imatrix"), &["importance matrix"]);
    refused(kind("general.type", "of next year"), &["'of next year'"]);
    refused(kind("general.architecture", "gemma"), &["'gemma'", "Llama family"]);
    kind("general.type", "model").expect("a model");
    let part = Tiny::new().with_meta("split.no", number(1)).with_meta("split.count", number(3)).gguf();
    let sentence = ModelFile::from_bytes(part).err().expect("refused").to_string();
    assert!(sentence.contains("shard 2 of 3"), "{sentence}");
    for (start, what) in
        [(&b"tjgg____"[..], "GGJT"), (b"algg____", "LoRA"), (b"version https://git-lfs.github", "git lfs")]
    {
        let path = std::env::temp_dir().join(format!("benben-known-{}-{what}", std::process::id()));
        std::fs::write(&path, start).expect("the temporary directory can be written");
        let sentence = ModelFile::open(&path).err().expect("refused").to_string();
        let _ = std::fs::remove_file(path);
        assert!(sentence.contains(what), "{sentence}");
    }
}

#[test]
fn parts_of_models_on_disk_say_what_they_are() {
    let folder = std::env::temp_dir().join(format!("benben-known-{}-parts", std::process::id()));
    std::fs::create_dir_all(folder.join("lora")).expect("the temporary directory can be written");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("written");
    write("m-00002-of-00003.gguf", &Tiny::new().gguf());
    write("m-00002-of-00003.safetensors", b"");
    write("lora/adapter_config.json", b"{}");
    let sentence = |name: &str| ModelFile::open(&folder.join(name)).err().expect("refused").to_string();
    assert!(sentence("m-00002-of-00003.gguf").contains("shard 2 of 3"));
    assert!(sentence("m-00002-of-00003.safetensors").contains("shard 2 of 3"));
    assert!(sentence("lora").contains("adapter (LoRA"));
    // With their index, any of the shards stands for all.
    for (name, bytes) in Tiny::new().safetensors_shards(2) {
        let mark: &[u8] = if name.ends_with(".json") { b"\xef\xbb\xbf" } else { b"" };
        write(&name, &[mark, &bytes].concat());
    }
    let whole = ModelFile::open(&folder.join("model-00002-of-00002.safetensors")).expect("a model");
    assert_eq!(whole.tensors().count(), Tiny::new().tensors.len());
    block_on(Config::read(&whole)).expect("a model");
    benben::engine::read_text(&whole).expect("a tokenizer");
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn strings_need_not_be_utf8() {
    let mut bytes = Tiny::new().with_meta("general.author", string("Zoe!")).gguf();
    let at = bytes.windows(4).position(|window| window == b"Zoe!").expect("the author");
    bytes[at + 2] = 0xe9;
    let file = ModelFile::from_bytes(bytes).expect("a sound file");
    assert_eq!(file.meta().str("general.author").expect("a string"), "Zo\u{fffd}!");
    block_on(Config::read(&file)).expect("a model");
}

/// The tiny model as safetensors, with these fields in its `config.json`.
fn bent(fields: &Json) -> benben::Result<Config> {
    let mut json: Json = serde_json::from_str(&Tiny::new().config_json()).expect("JSON");
    let object = json.as_object_mut().expect("an object");
    for (name, value) in fields.as_object().expect("fields") {
        // Absence has no JSON.
        if value == "ABSENT" {
            object.remove(name)
        } else {
            object.insert(name.clone(), value.clone())
        };
    }
    let file = Tiny::new().checkpoint_with(&json.to_string());
    block_on(Config::read(&file))
}

#[test]
fn fields_that_are_not_implemented_are_refused_by_name() {
    for (name, value) in [
        ("hidden_act", json!("relu")),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("partial_rotary_factor", json!(0.5)),
        ("sliding_window", json!(64)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("residual_multiplier", json!(0.22)),
        ("of_next_year", json!(true)),
        ("vocab_size", json!(7)),
        ("num_attention_heads", json!("four")),
        ("model_type", json!("gemma")),
    ] {
        let shown = value.to_string();
        let shown = if name == "num_attention_heads" || value.is_string() {
            value.as_str().unwrap_or_default()
        } else {
            &shown
        };
        let shown = if name == "layer_types" { "sliding_attention" } else { shown };
        refused(bent(&json!({ name: value })), &[&format!("'{name}'"), shown]);
    }
    for fields in [
        json!({"hidden_act": "silu", "attention_bias": false, "mlp_bias": null, "pretraining_tp": 2}),
        json!({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "id2label": {"0": "a"}}),
        json!({"of_next_year": null, "_of_a_program": 1, "quantization_config": null, "temperature": 0.6}),
        json!({"sliding_window": CONTEXT, "partial_rotary_factor": 1.0, "layer_types": ["full_attention"]}),
    ] {
        bent(&fields).unwrap_or_else(|error| panic!("{fields}: {error}"));
    }
}

#[test]
fn absent_fields_are_what_transformers_takes_them_for() {
    let absent = |name: &str| json!({ name: "ABSENT" });
    assert_eq!(bent(&absent("rms_norm_eps")).expect("a model").epsilon, 1e-6);
    assert_eq!(bent(&absent("max_position_embeddings")).expect("a model").context, 2048);
    assert_eq!(bent(&absent("num_key_value_heads")).expect("a model").heads.kv, 4);
    let mistral = |window: Json| {
        bent(&json!({"model_type": "mistral", "sliding_window": window, "max_position_embeddings": 8192}))
    };
    refused(mistral(json!("ABSENT")), &["sliding_window", "4096"]);
    mistral(Json::Null).expect("no window");
    let untied = |tied: Json| {
        let mut tiny = Tiny::new();
        tiny.tensors.retain(|tensor| tensor.name != "output.weight");
        let mut json: Json = serde_json::from_str(&tiny.config_json()).expect("JSON");
        json["tie_word_embeddings"] = tied;
        block_on(Config::read(&tiny.checkpoint_with(&json.to_string())))
    };
    untied(json!(true)).expect("the embedding is the head");
    refused(untied(json!(false)), &["tie_word_embeddings", "lm_head.weight"]);
    refused(untied(Json::Null), &["tie_word_embeddings"]);
}

#[test]
fn scalings_of_config_json_are_those_of_transformers() {
    let rope = |scaling: Json| bent(&json!({"rope_scaling": scaling})).map(|config| config.rope);
    let yarn = |more: Json| {
        let mut scaling =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
        more.as_object().expect("fields").iter().for_each(|(name, value)| scaling[name] = value.clone());
        rope(scaling).expect("YaRN")
    };
    let g = |mscale: f32| 0.1 * mscale * 4f32.ln() + 1.0;
    for (more, magnitude) in [
        (json!({}), g(1.0)),
        (json!({"mscale": 1.0, "mscale_all_dim": 1.0}), 1.0),
        (json!({"mscale": 0.707, "mscale_all_dim": 1.0}), g(0.707) / g(1.0)),
        (json!({"mscale": 0.707}), g(1.0)),
        (json!({"attention_factor": 1.5, "mscale": 1.0, "mscale_all_dim": 1.0}), 1.5),
    ] {
        assert!((yarn(more.clone()).magnitude - magnitude).abs() < 1e-6, "{more}");
    }
    assert!(matches!(yarn(json!({"truncate": false})).scaling, Scaling::Yarn { truncate: false, .. }));
    let four = CONTEXT as f32 / 128.0;
    assert!(matches!(yarn(json!({"factor": null})).scaling, Scaling::Yarn { factor, .. } if factor == four));
    assert_eq!(rope(json!({"type": "linear", "factor": 2.0})).expect("linear").scaling, Scaling::Linear(2.0));
    assert_eq!(rope(json!({"rope_type": "default", "factor": 1.0})).expect("none").scaling, Scaling::None);
    let gathered =
        json!({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}});
    assert_eq!(bent(&gathered).expect("a model").rope.base, 500.0, "the parameters come first");
    let refused = |scaling: Json, words: &[&str]| {
        let sentence = rope(scaling).expect_err("refused").to_string();
        assert!(words.iter().all(|word| sentence.contains(word)), "{words:?}: {sentence}");
    };
    refused(json!({"factor": 4.0}), &["'factor'", "'default'"]);
    refused(json!({"type": "linear"}), &["'factor'"]);
    refused(json!({"type": "linear", "factor": "four"}), &["'factor'", "four"]);
    refused(json!({"rope_type": "dynamic", "factor": 4.0}), &["'dynamic'"]);
    refused(json!({"rope_type": "linear", "factor": 4.0, "long_factor": [1.0]}), &["'long_factor'"]);
}
