//! Merging rows into kept ones: where rows are equal it changes nothing, and it survives what a cache goes through.

use std::sync::Arc;

use crate::common::testbed::{answer, gpu, greedy, load, model};
use crate::common::tiny::{Tiny, prompt};
use benben::gpu::{Family, Tuning};
use benben::kv::policy::{Budget, H2o, Joint};
use benben::weights::Value;
use benben::{KvOptions, Model, Session, SessionOptions};
use pollster::block_on;

fn session(model: &Arc<Model>, kv: KvOptions) -> Session {
    Session::new(model, &SessionOptions { kv, context: Some(512) }).expect("a session")
}

fn joint(keep: f32, merge: bool) -> KvOptions {
    KvOptions { merge, ..KvOptions::new(Joint::new(Budget::Share(keep)), benben::kv::Format::F16) }
}

fn h2o(keep: f32, merge: bool) -> KvOptions {
    KvOptions { merge, ..KvOptions::new(H2o::new(Budget::Share(keep)), benben::kv::Format::F16) }
}

/// The tiny model with hardly any positions, so that a text of one word has the same row everywhere.
fn without_positions() -> Tiny {
    Tiny::new()
        .with_meta("llama.rope.scaling.type", Value::String("linear".to_owned()))
        .with_meta("llama.rope.scaling.factor", Value::F32(1e9))
}

/// The largest difference to the full cache's losses after a text of one word, and after another turn of it.
fn differences(model: &Arc<Model>, kv: KvOptions) -> [f32; 2] {
    let (word, rest) = (vec![17; 200], prompt(2, 40));
    let losses = |kv: KvOptions| {
        let mut session = session(model, kv);
        let first = block_on(session.losses(&word, &rest)).expect("losses");
        session.clear();
        answer(&mut session, &word, 1);
        session.append(&rest).expect("room");
        (first, block_on(session.logits()).expect("logits"))
    };
    let (full, found) = (losses(KvOptions::full()), losses(kv));
    let worst = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    [worst(&full.0, &found.0), worst(&full.1, &found.1)]
}

#[test]
fn equal_rows_merge_into_the_full_cache() {
    let tiny = without_positions().file();
    for family in [Family::Lanes, Family::Groups] {
        let gpu = gpu();
        let model = load(&gpu.with_tuning(Tuning { family, ..gpu.tuning() }), &tiny);
        for kv in [joint, h2o] {
            let (merged, dropped) = (differences(&model, kv(0.3, true)), differences(&model, kv(0.3, false)));
            assert!(merged.iter().all(|&d| d < 2e-3), "{family:?}: {merged:?}");
            assert!(dropped.iter().all(|&d| d > 0.05), "dropping alone changed little: {dropped:?}");
        }
    }
}

#[test]
fn merged_rows_survive_growth_forks_and_files() {
    let kv = || joint(0.4, true);
    let mut parent = session(&model(), kv());
    answer(&mut parent, &prompt(4, 150), 5);
    let mut child = parent.fork().expect("a fork");
    let bytes = block_on(parent.to_bytes("")).expect("bytes");
    let options = SessionOptions { kv: kv(), context: Some(512) };
    let (mut restored, _) =
        block_on(Session::from_bytes(&model(), &options, "memory", &bytes)).expect("a conversation");
    let (next, whole) = (prompt(5, 60), |s: &mut Session, next: &[u32]| {
        let mut tokens = greedy(s, 20);
        tokens.extend(answer(s, next, 20));
        tokens
    });
    let wanted = whole(&mut parent, &next);
    assert_eq!(whole(&mut child, &next), wanted);
    assert_eq!(whole(&mut restored, &next), wanted);
    let mut without = session(&model(), joint(0.4, false));
    answer(&mut without, &prompt(4, 150), 5);
    assert_ne!(whole(&mut without, &next), wanted, "merging changed nothing");
}
