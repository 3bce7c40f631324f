//! Rows that several conversations read: forks, and beginnings that a model keeps for sessions to come.

use std::sync::Arc;

use crate::common::testbed::{answer, gpu, greedy, load};
use crate::common::tiny::{Tiny, prompt};
use benben::kv::Format;
use benben::kv::policy::{Budget, Full, H2o, Joint, KvOnly, Pyramid, Select, Streaming};
use benben::{AdapterChoice, Gpu, KvBits, KvOptions, Model, Session, SessionOptions};
use pollster::block_on;

/// A model of the test's own: what it keeps is not another test's.
fn model() -> Arc<Model> {
    load(&gpu(), &Tiny::new().file())
}

/// A model on a device of its own, whose bytes no other test moves.
fn counted_model() -> Arc<Model> {
    load(&block_on(Gpu::open(&AdapterChoice::Best)).unwrap(), &Tiny::new().file())
}

fn session(model: &Arc<Model>, kv: &KvOptions) -> Session {
    Session::new(model, &SessionOptions { kv: kv.clone(), context: Some(1500) }).unwrap()
}

fn full() -> KvOptions {
    KvOptions::new(Full, Format::F16)
}

/// One of each kind of rows: whole, packed with a tier for the first ones, with a tail, a table for each head, thinned.
fn caches() -> Vec<KvOptions> {
    let four = Format::both(KvBits::Four);
    let joint = KvOptions::new(Joint::new(Budget::Share(0.5)), four);
    vec![
        full(),
        KvOptions::new(Full, four),
        KvOptions { tail: Some(Format::both(KvBits::Two)), ..joint.clone() },
        joint,
        KvOptions::new(KvOnly::per_head(Budget::Share(0.5)), Format::both(KvBits::Eight)),
        KvOptions::new(Streaming::new(Budget::Share(0.5)), Format::F16),
        KvOptions::new(Pyramid::cosine(0.5, 1), Format::F16),
        KvOptions::new(Pyramid::exact(vec![90, 70, 50, 30], Select::Previous, 8, 4), four),
    ]
}

/// Every position that lives, layer by layer.
fn positions(session: &mut Session) -> Vec<Vec<Vec<u32>>> {
    (0..session.kv().rows_per_layer.len()).map(|l| block_on(session.positions(l)).unwrap()).collect()
}

#[test]
fn forks_go_on_as_if_alone() {
    let model = model();
    let (world, turn) = (prompt(1, 120), prompt(2, 33));
    for kv in caches() {
        let alone = |turn: &[u32], count| {
            let mut session = session(&model, &kv);
            let first = answer(&mut session, &world, 20);
            session.append(turn).unwrap();
            let second = greedy(&mut session, count);
            (first, second, positions(&mut session))
        };
        let (first, straight_on, _) = alone(&[], 90);
        let (_, after_turn, rows) = alone(&turn, 90);

        let mut parent = session(&model, &kv);
        assert_eq!(answer(&mut parent, &world, 20), first);
        let mut child = parent.fork().unwrap();
        assert_eq!(child.tokens(), parent.tokens());
        assert_eq!(positions(&mut child), positions(&mut parent));
        let mut third = child.fork().unwrap();
        // They take turns, so that one would see what the other wrote over.
        let mut said = greedy(&mut parent, 50);
        assert_eq!(answer(&mut child, &turn, 90), after_turn, "{kv:?}, child");
        assert_eq!(positions(&mut child), rows, "{kv:?}");
        said.extend(greedy(&mut third, 90));
        assert_eq!(said[50..], straight_on, "{kv:?}, third");
        drop(child);
        if kv.policy.thinning().is_none() {
            // A policy that thins counts from where an answer begins.
            said.truncate(50);
            said.extend(greedy(&mut parent, 40));
            assert_eq!(said, straight_on, "{kv:?}, parent");
        }
    }
}

#[test]
fn a_fork_copies_no_row() {
    let model = counted_model();
    for kv in caches() {
        let before = model.gpu().bytes().kv;
        let mut parent = session(&model, &kv);
        let empty = model.gpu().bytes().kv - before;
        answer(&mut parent, &prompt(3, 900), 1);
        let before = model.gpu().bytes().kv;
        let forks: Vec<Session> = (0..3).map(|_| parent.fork().unwrap()).collect();
        let grown = model.gpu().bytes().kv - before;
        assert!(grown <= 4 * empty, "{kv:?}: {grown} more beside {:?}, empty ones take {empty}", parent.kv());
        assert!(forks.iter().all(|fork| fork.kv() == parent.kv()), "{kv:?}");
        drop((forks, parent));
    }
}

#[test]
fn what_one_side_does_is_nothing_to_the_other() {
    let model = model();
    for kv in caches() {
        let mut parent = session(&model, &kv);
        answer(&mut parent, &prompt(4, 100), 5);
        let mut child = parent.fork().unwrap();
        let whole = greedy(&mut parent.fork().unwrap(), 12);
        // Cleared, another first block sets other centres and fills the pools anew.
        parent.clear();
        answer(&mut parent, &prompt(5, 140), 30);
        assert_eq!(greedy(&mut child.fork().unwrap(), 12), whole, "{kv:?}");
        drop(parent);
        assert_eq!(greedy(&mut child, 12), whole, "{kv:?}");
    }
}

#[test]
fn forks_before_the_first_token_have_nothing_in_common() {
    let model = model();
    let kv = KvOptions::new(Full, Format::both(KvBits::Four));
    let mut parent = session(&model, &kv);
    let mut child = parent.fork().unwrap();
    let wanted = answer(&mut session(&model, &kv), &prompt(6, 60), 20);
    parent.append(&prompt(6, 60)).unwrap();
    let mut said = greedy(&mut parent, 3);
    answer(&mut child, &prompt(7, 80), 3);
    said.extend(greedy(&mut parent, 17));
    assert_eq!(said, wanted);
}

#[test]
fn a_long_line_of_forks_keeps_few_tiers() {
    let model = model();
    for kv in caches().into_iter().step_by(3) {
        let mut alone = session(&model, &kv);
        let mut last = session(&model, &kv);
        answer(&mut last, &prompt(8, 90), 4);
        answer(&mut alone, &prompt(8, 90), 4);
        for turn in 0..12 {
            let mut next = last.fork().unwrap();
            let prompt = prompt(20 + turn, 9);
            assert_eq!(answer(&mut next, &prompt, 7), answer(&mut alone, &prompt, 7), "{kv:?}, turn {turn}");
            last = next;
        }
        assert_eq!(positions(&mut last), positions(&mut alone), "{kv:?}");
    }
}

#[test]
fn answers_are_the_same_with_kept_beginnings() {
    let model = model();
    let (system, a, b) = (prompt(30, 600), prompt(31, 70), prompt(32, 44));
    let whole = |turn: &[u32]| [&system[..], turn].concat();
    let alone = [&a, &b].map(|turn| answer(&mut session(&model, &full()), &whole(turn), 15));
    model.keep_prefixes(64 << 20);
    let mut first = session(&model, &full());
    assert_eq!(answer(&mut first, &whole(&a), 15), alone[0]);
    assert_eq!(first.timing().prompt_tokens, 670);
    drop(first);
    let mut second = session(&model, &full());
    assert_eq!(answer(&mut second, &whole(&b), 15), alone[1]);
    assert_eq!(second.timing().prompt_tokens, 44, "the system prompt ran again");
    // After a reset too, and the second answer's rows are still its own.
    second.clear();
    assert_eq!(answer(&mut second, &whole(&a), 15), alone[0]);
    assert_eq!(second.timing().prompt_tokens, 1, "a whole prompt ran again");
    // Another cache has nothing in common.
    let mut other = session(&model, &KvOptions::new(H2o::new(Budget::Share(0.5)), Format::F16));
    answer(&mut other, &whole(&a), 1);
    assert_eq!(other.timing().prompt_tokens, 670);
    model.keep_prefixes(0);
    let mut last = session(&model, &full());
    answer(&mut last, &whole(&a), 1);
    assert_eq!(last.timing().prompt_tokens, 670);
}

#[test]
fn policies_that_select_share_whole_blocks() {
    let model = model();
    model.keep_prefixes(64 << 20);
    let (system, a, b) = (prompt(33, 80), prompt(34, 300), prompt(35, 310));
    let auto = KvOptions::auto(0.1).unwrap();
    let talk = |turn: &[u32]| {
        let mut session = session(&model, &auto);
        session.append_common(&system).unwrap();
        let said = answer(&mut session, turn, 12);
        (said, session.timing().prompt_tokens)
    };
    let (first, _) = talk(&a);
    talk(&b);
    assert_eq!(talk(&a), (first, 300));
    // Rows would be dropped for lack of what follows: such a beginning runs with the rest.
    let mut session = session(&model, &KvOptions::new(H2o::new(Budget::Share(0.5)), Format::F16));
    session.append_common(&system).unwrap();
    assert_eq!(session.kv().bytes, 0);
}

#[test]
fn what_is_kept_is_bounded() {
    let model = counted_model();
    let one = {
        let mut session = session(&model, &full());
        answer(&mut session, &prompt(40, 200), 1);
        session.kv().bytes
    };
    let ran = |seed| {
        let mut session = session(&model, &full());
        answer(&mut session, &prompt(seed, 200), 1);
        session.timing().prompt_tokens
    };
    let before = model.gpu().bytes().kv;
    model.keep_prefixes(3 * one);
    for seed in 41..49 {
        assert_eq!(ran(seed), 200);
    }
    assert!(model.gpu().bytes().kv - before <= 3 * one);
    assert_eq!((ran(48), ran(41)), (1, 200), "the latest is kept, the earliest is not");
}
