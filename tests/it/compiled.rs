//! What loading compiles for the first prompt is all that the prompt and its answer run.

use crate::common::testbed::answer;
use crate::common::tiny::{Tiny, prompt};
use benben::kv::Format;
use benben::kv::policy::{Budget, Pyramid, Streaming};
use benben::{AdapterChoice, Gpu, KvBits, KvOptions, LoadOptions, Model, Session, SessionOptions};
use pollster::block_on;

/// Pipelines that an answer to `tokens` tokens makes after loading, with and without having been told of them.
fn pipelines(kv: &KvOptions, tokens: usize, told: Option<usize>) -> [u64; 2] {
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
    let options = LoadOptions { kv: kv.clone(), context: Some(512), prompt: told, ..LoadOptions::default() };
    let model = block_on(Model::from_file(&gpu, &Tiny::new().file(), &options, |_| ())).expect("a model");
    let loaded = gpu.counters().pipelines;
    let session = SessionOptions { kv: kv.clone(), context: Some(512) };
    let mut session = Session::new(&model, &session).expect("a session");
    assert_eq!(answer(&mut session, &prompt(1, tokens), 3).len(), 3);
    gpu.check().expect("nothing of the stand-in's is wrong");
    [loaded, gpu.counters().pipelines]
}

#[test]
fn a_first_answer_compiles_nothing_more() {
    let options = [
        KvOptions::full(),
        KvOptions::default(),
        KvOptions::new(Pyramid::with_budget(Budget::Share(0.6)), Format::both(KvBits::Eight)),
        KvOptions::new(Streaming::new(Budget::Share(0.5)), Format::F16),
    ];
    for kv in options {
        for tokens in [1, 40, 300] {
            let [loaded, answered] = pipelines(&kv, tokens, Some(tokens));
            assert!(loaded > 5, "{kv:?}: {loaded} pipelines");
            assert_eq!(loaded, answered, "{kv:?}, {tokens} tokens");
        }
    }
}

#[test]
fn nothing_is_compiled_unasked() {
    let [loaded, answered] = pipelines(&KvOptions::full(), 40, None);
    // A software adapter's weights are put into tiles, words and scales apart.
    assert!(loaded <= 2, "{loaded} pipelines");
    assert!(answered > 5);
}
