//! Hostile models, impossible requests and a lost device: one clear error each, never a panic, never a hang.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::testbed::{answer, gpu, load, model, session};
use crate::common::tiny::{LAYERS, Tiny, prompt};
use benben::kv::policy::{Budget, KvOnly, Policy, Pyramid, Tsp};
use benben::weights::{ModelFile, Value};
use benben::{
    AdapterChoice, Error, GenerateOptions, Gpu, KvOptions, LoadOptions, Model, Result, Session,
    SessionOptions,
};
use pollster::block_on;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn try_load(file: &ModelFile) -> Result<Arc<Model>> {
    block_on(Model::from_file(&gpu(), file, &LoadOptions::default(), |_| ()))
}

fn try_bytes(bytes: Vec<u8>) -> Result<Arc<Model>> {
    try_load(&ModelFile::from_bytes(bytes)?)
}

/// The sentence with which a model is refused; it names what is wrong.
fn refusal(tiny: &Tiny) -> String {
    let sentence = try_bytes(tiny.gguf()).expect_err("the model is accepted").to_string();
    assert!(sentence.len() < 300 && !sentence.contains('\n'), "{sentence}");
    sentence
}

/// Loads what may be loaded, and runs it.
fn exercise(bytes: Vec<u8>) {
    let Ok(model) = try_bytes(bytes) else { return };
    let options = SessionOptions { context: Some(64), ..SessionOptions::default() };
    let Ok(mut session) = Session::new(&model, &options) else { return };
    if session.append(&[1, 2, 3, 4, 5]).is_err() {
        return;
    }
    let generated = session.generate(&GenerateOptions { max_tokens: 3, ..GenerateOptions::default() });
    let Ok(mut answer) = generated else { return };
    let mut text = model.text().stream();
    while let Some(Ok(token)) = block_on(answer.next()) {
        let _ = text.push(token);
    }
}

#[test]
fn truncated_files_are_refused() {
    let bytes = Tiny::new().gguf();
    for end in (0..bytes.len()).step_by(bytes.len() / 90) {
        let refused = try_bytes(bytes[..end].to_vec());
        assert!(refused.is_err(), "{end} of {} bytes were accepted", bytes.len());
    }
    let path = std::env::temp_dir().join(format!("benben-truncated-{}.gguf", std::process::id()));
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let sentence =
        block_on(Model::load(&gpu(), &path, &LoadOptions::default(), |_| ())).unwrap_err().to_string();
    fs::remove_file(&path).unwrap();
    assert!(sentence.contains("benben-truncated"), "{sentence}");
    let absent = block_on(Model::load(&gpu(), &path, &LoadOptions::default(), |_| ()));
    assert!(matches!(absent, Err(Error::File { .. })));
}

#[test]
fn mutated_headers_never_panic() {
    let bytes = Tiny::new().gguf();
    let tensors = Tiny::new().tensors.iter().map(|t| t.encode().len().next_multiple_of(32)).sum::<usize>();
    let header = bytes.len() - tensors;
    let config = ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(11), ..ProptestConfig::default() };
    let mutation = proptest::collection::vec((0..header, any::<u8>()), 1..4);
    proptest!(config, |(mutations in mutation)| {
        let mut bytes = bytes.clone();
        mutations.into_iter().for_each(|(at, value)| bytes[at] = value);
        exercise(bytes);
    });
}

#[test]
fn missing_pieces_are_named() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.context_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
    ] {
        let sentence = refusal(&Tiny::new().without_meta(key));
        assert!(sentence.contains(key), "{key}: {sentence}");
    }
    for tensor in Tiny::new().tensors.iter().map(|t| t.name.clone()).filter(|n| n != "output.weight") {
        let mut tiny = Tiny::new();
        tiny.tensors.retain(|t| t.name != tensor);
        let sentence = refusal(&tiny);
        assert!(sentence.contains(&tensor), "{tensor}: {sentence}");
    }
}

#[test]
fn wrong_shapes_are_named() {
    for (name, shape) in [
        ("blk.1.attn_q.weight", vec![64, 128]),
        ("blk.3.ffn_down.weight", vec![96, 64]),
        ("blk.0.attn_norm.weight", vec![1, 64]),
        ("blk.2.attn_k.weight", vec![2, 32, 64]),
        ("output.weight", vec![59, 320]),
    ] {
        let mut tiny = Tiny::new();
        tiny.tensor(name).shape = shape.clone();
        let refused = try_bytes(tiny.gguf()).unwrap_err();
        let Error::Shape { tensor, found, .. } = refused else { panic!("{name}: {refused}") };
        assert_eq!((tensor.as_str(), found), (name, shape));
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    for (name, value) in [
        ("blk.1.ffn_down.weight", f32::NAN),
        ("blk.2.ffn_up.weight", f32::INFINITY),
        ("token_embd.weight", f32::NAN),
        ("blk.0.attn_norm.weight", f32::NAN),
        ("output_norm.weight", f32::NEG_INFINITY),
    ] {
        let mut tiny = Tiny::new();
        tiny.tensor(name).values[37] = value;
        let sentence = refusal(&tiny);
        assert!(sentence.contains(name), "{name}: {sentence}");
    }
}

#[test]
fn tensors_that_would_be_left_out_are_refused() {
    for name in ["blk.1.attn_q.bias", "blk.0.attn_k_norm.weight", "blk.2.ffn_gate_inp.weight"] {
        let mut tiny = Tiny::new();
        let mut extra = tiny.tensor("output_norm.weight").clone();
        extra.name = name.to_owned();
        tiny.tensors.push(extra);
        let sentence = refusal(&tiny);
        assert!(sentence.contains(name), "{sentence}");
    }
}

#[test]
fn absurd_numbers_are_refused() {
    let absurd = [0, 1, 3, 7, 1 << 10, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, u64::MAX];
    for key in [
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.rope.dimension_count",
        "llama.expert_count",
    ] {
        for value in absurd {
            let tiny = Tiny::new().with_meta(key, Value::U64(value));
            // What the rest of the file does not contradict may load.
            let sound = key.contains("expert") && value == 0;
            assert_eq!(try_bytes(tiny.gguf()).is_ok(), sound, "{key} = {value}");
        }
    }
    // Products of two of them.
    let tiny = Tiny::new()
        .with_meta("llama.attention.head_count", Value::U64(1 << 62))
        .with_meta("llama.attention.head_count_kv", Value::U64(1 << 62))
        .with_meta("llama.attention.key_length", Value::U64(1 << 62));
    refusal(&tiny);
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-30] {
        let tiny = Tiny::new().with_meta("llama.rope.freq_base", Value::F32(value));
        refusal(&tiny);
    }
    // A divisor of zero among those that a file may bring for each pair.
    let mut tiny = Tiny::new();
    let mut divisors = tiny.tensor("output_norm.weight").clone();
    (divisors.name, divisors.shape) = ("rope_freqs.weight".to_owned(), vec![16]);
    divisors.values = vec![1.0; 15];
    divisors.values.push(0.0);
    tiny.tensors.push(divisors);
    refusal(&tiny);
    for value in [-1.0, 1.0, f32::NAN, f32::INFINITY] {
        let tiny = Tiny::new().with_meta("llama.attention.layer_norm_rms_epsilon", Value::F32(value));
        refusal(&tiny);
    }
}

#[test]
fn absurd_contexts_are_refused() {
    for context in [0, 1 << 31, 1 << 40, u64::MAX] {
        let tiny = Tiny::new().with_meta("llama.context_length", Value::U64(context));
        refusal(&tiny);
    }
    let policies: [Arc<dyn Policy>; 4] = [
        KvOptions::full().policy,
        Arc::new(Pyramid::cosine(0.9, 1)),
        Arc::new(KvOnly::per_head(Budget::Share(0.5))),
        Arc::new(Tsp::new(Budget::Rows(100))),
    ];
    for policy in policies {
        let kv = KvOptions { policy, ..KvOptions::full() };
        for context in [0, 1, 1_000_000_000, 1 << 32, usize::MAX] {
            let refused = Session::new(&model(), &SessionOptions { kv: kv.clone(), context: Some(context) });
            assert!(refused.is_err(), "a session over {context}, {:?}", kv.policy);
            let options = LoadOptions { context: Some(context), kv: kv.clone(), ..LoadOptions::default() };
            let loaded = block_on(Model::from_file(&gpu(), &Tiny::new().file(), &options, |_| ()));
            assert!(loaded.is_err(), "a model with room for {context}, {:?}", kv.policy);
        }
    }
}

#[test]
fn plans_that_do_not_fit_are_refused_with_advice() {
    let file = Tiny::new().file();
    for (memory, context) in [(0, 64), (1, 2048), (400_000, 2048), (1 << 36, 1_000_000_000)] {
        let options = LoadOptions { memory: Some(memory), context: Some(context), ..LoadOptions::default() };
        let refused = block_on(Model::from_file(&gpu(), &file, &options, |_| ())).unwrap_err();
        let Error::DoesNotFit { need, limit, advice, .. } = &refused else { panic!("{refused}") };
        assert!(need > limit && !advice.is_empty(), "{refused}");
    }
}

#[test]
fn absurd_policies_are_refused_or_run() {
    let policies: [Arc<dyn Policy>; 6] = [
        Arc::new(Pyramid::cosine(f64::NAN, 0)),
        Arc::new(Pyramid::cosine(-3.0, usize::MAX)),
        Arc::new(Pyramid::cosine(1e300, 1)),
        Arc::new(Pyramid::exact(vec![0; LAYERS], benben::kv::policy::Select::Own, 0, 0)),
        Arc::new(Pyramid::exact(
            vec![usize::MAX; LAYERS],
            benben::kv::policy::Select::Previous,
            usize::MAX,
            usize::MAX,
        )),
        Arc::new(KvOnly::shared(Budget::PerLayer(vec![usize::MAX; LAYERS]))),
    ];
    for policy in policies {
        let kv = KvOptions { policy: policy.clone(), ..KvOptions::full() };
        let Ok(mut session) = Session::new(&model(), &SessionOptions { kv, context: Some(200) }) else {
            continue;
        };
        session.append(&prompt(1, 100)).unwrap();
        if let Ok(mut answer) = session.generate(&GenerateOptions::default()) {
            let _ = block_on(answer.next());
        };
    }
}

#[test]
fn prompts_beyond_the_context_are_refused() {
    let mut session = session(&SessionOptions { context: Some(50), ..SessionOptions::default() });
    let refused = session.append(&prompt(1, 50)).unwrap_err();
    assert!(matches!(refused, Error::ContextFull { need: 51, context: 50, trained: 2048 }), "{refused}");
    assert_eq!(answer(&mut session, &prompt(1, 49), 5).len(), 1);
}

#[test]
fn an_adapter_that_is_not_there_is_named() {
    for choice in [AdapterChoice::Named("no such".to_owned()), AdapterChoice::Index(99)] {
        let refused = block_on(Gpu::open(&choice)).unwrap_err();
        let Error::NoAdapter { wanted, found } = &refused else { panic!("{refused}") };
        assert!(wanted.contains("no such") || wanted.contains("99"), "{refused}");
        assert!(found.contains(&gpu().info().name), "{refused}");
    }
}

#[test]
fn a_lost_device_ends_an_answer() {
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).unwrap();
    let model = load(&gpu, &Tiny::new().file());
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    session.append(&prompt(1, 60)).unwrap();
    let started = Instant::now();
    let mut answer = session
        .generate(&GenerateOptions { max_tokens: 500, stop: Some(vec![]), ..GenerateOptions::default() })
        .unwrap();
    block_on(answer.next()).expect("a token").unwrap();
    gpu.destroy();
    let mut arrived = 1;
    let error = loop {
        match block_on(answer.next()) {
            Some(Ok(_)) => arrived += 1,
            Some(Err(error)) => break error,
            None => panic!("the answer ended after {arrived} tokens as if nothing had happened"),
        }
    };
    assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    assert!(arrived <= 3, "{arrived} tokens came from a device that is gone");
    assert!(block_on(answer.next()).is_none());
    assert!(answer.step(Duration::from_millis(1)).is_err());
    drop(answer);
    session.append(&[1]).unwrap();
    let again =
        session.generate(&GenerateOptions::default()).and_then(|mut a| block_on(a.next()).transpose());
    assert!(matches!(again, Err(Error::DeviceLost(_))), "{again:?}");
    assert!(block_on(Model::from_file(&gpu, &Tiny::new().file(), &LoadOptions::default(), |_| ())).is_err());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
