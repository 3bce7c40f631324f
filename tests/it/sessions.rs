//! What a session promises beside its numbers: pieces, turns, cancelled answers, limits.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::common::testbed::{answer, greedy, model, session};
use crate::common::tiny::{prompt, vocab};
use benben::kv::Format;
use benben::kv::policy::{Budget, Full, KvOnly, Policy, Pyramid, Select};
use benben::{Error, GenerateOptions, KvOptions, Message, Session, SessionOptions};
use pollster::block_on;

fn options(policy: impl Policy + 'static, context: usize) -> SessionOptions {
    let kv = KvOptions::new(policy, Format::F16);
    SessionOptions { kv, context: Some(context) }
}

fn full() -> Session {
    session(&options(Full, 1500))
}

fn unstopped(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, stop: Some(Vec::new()), ..GenerateOptions::default() }
}

/// Answers within frames of `budget`, as a game would.
fn by_frames(session: &mut Session, count: usize, budget: Duration) -> Vec<u32> {
    let mut answer = session.generate(&unstopped(count)).unwrap();
    let (mut tokens, started) = (Vec::new(), Instant::now());
    loop {
        let step = answer.step(budget).unwrap();
        tokens.extend(step.tokens);
        if step.finished {
            return tokens;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the answer stands still at {}", tokens.len());
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn a_prompt_in_pieces_is_the_same_prompt() {
    let prompt = prompt(1, 83);
    let whole = answer(&mut full(), &prompt, 20);
    let mut session = full();
    for piece in prompt.chunks(13) {
        session.append(piece).unwrap();
    }
    assert_eq!(greedy(&mut session, 20), whole);
}

#[test]
fn a_prompt_longer_than_a_block_is_the_same_prompt() {
    // 700 rows run as two blocks; run as two turns, the cut lies elsewhere.
    let prompt = prompt(2, 700);
    let whole = answer(&mut full(), &prompt, 12);
    let mut session = full();
    assert!(answer(&mut session, &prompt[..301], 0).is_empty());
    drop(session.generate(&unstopped(1)).unwrap());
    assert_eq!(answer(&mut session, &prompt[301..], 12), whole);
}

#[test]
fn an_answer_in_pieces_is_the_same_answer() {
    let prompt = prompt(3, 41);
    let whole = answer(&mut full(), &prompt, 24);
    let mut session = full();
    let mut pieces = answer(&mut session, &prompt, 1);
    for count in [0, 1, 2, 7, 13] {
        pieces.extend(greedy(&mut session, count));
    }
    assert_eq!(pieces, whole);
    assert_eq!(session.tokens(), [prompt, whole].concat());
}

#[test]
fn frames_bring_the_same_answer() {
    let prompt = prompt(4, 61);
    let whole = answer(&mut full(), &prompt, 15);
    for budget in [Duration::ZERO, Duration::from_millis(2), Duration::MAX] {
        let mut session = full();
        session.append(&prompt).unwrap();
        assert_eq!(by_frames(&mut session, 15, budget), whole, "{budget:?}");
    }
}

#[test]
fn turns_reuse_what_was_cached() {
    let (text, mut session) = (model(), full());
    let text = text.text();
    let first = text.prompt(&[Message::user("Who built the pyramids?")]).unwrap();
    let reply = answer(&mut session, &first, 17);
    let second: Vec<u32> = text.raw_prompt("<|im_end|>\n<|im_start|>user\nAnd when?<|im_end|>\n").unwrap();
    let cached = session.kv().rows_per_layer[0];
    session.append(&second).unwrap();
    let turns = greedy(&mut session, 17);
    assert_eq!(cached, first.len() + reply.len() - 1);
    assert_eq!(turns, answer(&mut full(), &[first, reply, second].concat(), 17));
    assert_eq!(session.timing().answer_tokens, 17);
}

#[test]
fn a_dropped_answer_never_happened() {
    let prompt = prompt(5, 77);
    let whole = answer(&mut full(), &prompt, 20);
    let mut session = full();
    session.append(&prompt).unwrap();
    // Dropped before anything ran, in the middle of the prompt, and in the middle of later tokens.
    for calls in [0, 1, 2, 3, 5, 9, 14] {
        let mut answer = session.generate(&unstopped(20)).unwrap();
        let mut arrived = 0;
        for _ in 0..calls {
            arrived += answer.step(Duration::ZERO).unwrap().tokens.len();
            std::thread::sleep(Duration::from_millis(3));
        }
        drop(answer);
        assert_eq!(session.tokens()[prompt.len()..], whole[..session.tokens().len() - prompt.len()]);
        assert!(arrived <= session.tokens().len() - prompt.len());
    }
    let rest = 20 - (session.tokens().len() - prompt.len());
    greedy(&mut session, rest);
    assert_eq!(session.tokens()[prompt.len()..], whole);
}

#[test]
fn an_answer_dropped_with_tokens_under_way_goes_on() {
    let prompt = prompt(6, 50);
    let whole = answer(&mut full(), &prompt, 12);
    let mut session = full();
    session.append(&prompt).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < 12 {
        let mut answer = session.generate(&unstopped(12)).unwrap();
        tokens.push(block_on(answer.next()).expect("a token").unwrap());
    }
    assert_eq!(tokens, whole);
}

#[test]
fn an_answer_dropped_while_it_thins_leaves_whole_rows() {
    let mut session = session(&options(Pyramid::cosine(0.5, 1), 1500));
    session.append(&prompt(7, 101)).unwrap();
    for _ in 0..3 {
        let mut answer = session.generate(&unstopped(400)).unwrap();
        let mut most = 0;
        // A frame without a budget submits one layer: stop right after the first one that was thinned.
        loop {
            let rows = answer.session().kv().rows_per_layer[0];
            if rows < most {
                break;
            }
            most = rows;
            assert!(!answer.step(Duration::ZERO).unwrap().finished, "nothing was thinned");
            std::thread::sleep(Duration::from_micros(100));
        }
        drop(answer);
        assert_in_order(&mut session);
    }
}

#[test]
fn a_prompt_that_is_watched_is_the_same_prompt_and_can_be_left() {
    for policy in [Arc::new(Full) as Arc<dyn Policy>, Arc::new(Pyramid::with_budget(Budget::Share(0.5)))] {
        let kv = KvOptions { policy, ..KvOptions::full() };
        let mut session = session(&SessionOptions { kv, context: Some(1500) });
        let prompt = prompt(21, 700);
        let whole = answer(&mut session, &prompt, 12);

        // Left after the first of its pieces, it can be run again from where it still stands.
        session.clear();
        session.append(&prompt).unwrap();
        let mut left = session.generate(&unstopped(12)).unwrap();
        let first = Cell::new(None);
        let mut watched =
            Box::pin(left.prefill(Duration::ZERO, |done, total| first.set(Some((done, total)))));
        while first.get().is_none() {
            let poll = watched.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(poll.is_pending(), "{poll:?} {first:?}");
            std::thread::sleep(Duration::from_micros(100));
        }
        drop(watched);
        drop(left);
        assert!(first.get().is_some_and(|(done, total)| done < 700 && total == 700), "{first:?}");

        let mut seen = Vec::new();
        let mut answer = session.generate(&unstopped(12)).unwrap();
        block_on(answer.prefill(Duration::ZERO, |done, total| seen.push((done, total)))).unwrap();
        let mut tokens = vec![block_on(answer.next()).unwrap().unwrap()];
        let amid = block_on(answer.positions()).unwrap();
        while let Some(token) = block_on(answer.next()) {
            tokens.push(token.unwrap());
        }
        drop(answer);
        assert_eq!(tokens, whole);
        assert!(seen.is_sorted() && seen.len() >= 4, "{seen:?}");
        let &(done, total) = seen.last().unwrap();
        assert_eq!(done, total, "{seen:?}");
        assert!(amid.iter().all(|sets| sets[0].is_sorted_by(|a, b| a < b) && sets[0][..4] == [0, 1, 2, 3]));
        let by_layer: Vec<_> =
            (0..amid.len()).map(|layer| block_on(session.positions(layer)).unwrap()).collect();
        assert_eq!(block_on(session.all_positions()).unwrap(), by_layer);
    }
}

/// Live rows stand in order of position, each once, and none is of a token that the session has not.
fn assert_in_order(session: &mut Session) {
    let tokens = session.tokens().len() as u32;
    for layer in 0..session.kv().rows_per_layer.len() {
        for set in block_on(session.positions(layer)).unwrap() {
            assert!(set.windows(2).all(|w| w[0] < w[1]), "layer {layer}: {set:?}");
            assert!(set.last().is_none_or(|&p| p + 1 < tokens), "layer {layer}: {set:?} of {tokens}");
        }
    }
}

#[test]
fn turns_of_every_policy_go_on() {
    let policies: [Arc<dyn Policy>; 4] = [
        Arc::new(Pyramid::cosine(0.5, 2)),
        Arc::new(Pyramid::exact(vec![90, 70, 50, 30], Select::Previous, 8, 4)),
        Arc::new(KvOnly::per_head(Budget::Share(0.5))),
        Arc::new(KvOnly::shared(Budget::Rows(70))),
    ];
    for policy in policies {
        let kv = KvOptions { policy: policy.clone(), ..KvOptions::full() };
        let mut session = session(&SessionOptions { kv, context: Some(800) });
        for (turn, tokens) in [120, 1, 33, 2, 90].into_iter().enumerate() {
            let reply = answer(&mut session, &prompt(turn as u64, tokens), 25);
            assert_eq!(reply.len(), 25, "{policy:?}, turn {turn}");
            assert_in_order(&mut session);
        }
    }
}

#[test]
fn stop_tokens_end_an_answer_and_are_kept() {
    let prompt = prompt(8, 33);
    let whole = answer(&mut full(), &prompt, 12);
    let stop = whole[6];
    let at = whole.iter().position(|&t| t == stop).expect("the token");
    let mut session = full();
    session.append(&prompt).unwrap();
    let options = GenerateOptions { stop: Some(vec![stop]), ..unstopped(12) };
    let mut answer = session.generate(&options).unwrap();
    let mut tokens = Vec::new();
    while let Some(token) = block_on(answer.next()) {
        tokens.push(token.unwrap());
    }
    assert!(answer.is_finished() && block_on(answer.next()).is_none());
    drop(answer);
    assert_eq!(tokens, whole[..at]);
    assert_eq!(session.tokens().last(), Some(&stop));
    // What was computed beyond the stop token left no trace.
    assert_eq!(greedy(&mut session, 11 - at), whole[at + 1..]);
}

#[test]
fn limits_are_kept_and_told() {
    let mut session = session(&options(Full, 40));
    assert!(matches!(session.generate(&unstopped(3)).err(), Some(Error::Invalid(_))));
    assert!(answer(&mut session, &prompt(9, 30), 0).is_empty());
    assert_eq!(greedy(&mut session, 1).len(), 1);
    let refused = session.append(&prompt(9, 9)).unwrap_err().to_string();
    assert!(refused.contains("41") && refused.contains("40"), "{refused}");
    let refused = session.append(&[1, vocab() as u32]).unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    assert_eq!(session.tokens().len(), 31);
    assert_eq!(greedy(&mut session, 100).len(), 9);
    assert!(matches!(session.append(&[1]), Err(Error::ContextFull { need: 42, context: 40, .. })));
    assert!(greedy(&mut session, 5).is_empty());
}

#[test]
fn losses_refuse_what_they_cannot_score() {
    let mut session = session(&options(Full, 40));
    for (prefix, continuation) in [(0, 5), (5, 0), (30, 30)] {
        let refused = block_on(session.losses(&prompt(1, prefix), &prompt(2, continuation)));
        assert!(refused.is_err(), "{prefix} + {continuation}");
    }
    for bad in [[1, vocab() as u32], [u32::MAX, 1]] {
        let refused = block_on(session.losses(&prompt(1, 4), &bad)).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    }
    assert_eq!(block_on(session.losses(&prompt(1, 20), &prompt(2, 20))).unwrap().len(), 20);
}

#[test]
fn two_sessions_take_turns() {
    let prompts = [prompt(10, 44), prompt(11, 59)];
    let alone = prompts.clone().map(|p| answer(&mut full(), &p, 10));
    let mut sessions = [full(), session(&options(Full, 300))];
    let mut answers: Vec<_> = sessions
        .iter_mut()
        .zip(&prompts)
        .map(|(session, prompt)| {
            session.append(prompt).unwrap();
            session.generate(&unstopped(10)).unwrap()
        })
        .collect();
    for i in 0..10 {
        for (answer, alone) in answers.iter_mut().zip(&alone) {
            assert_eq!(block_on(answer.next()).expect("a token").unwrap(), alone[i]);
        }
    }
}

#[test]
fn blocks_submitted_together_keep_their_own_tokens() {
    // `logits` submits every layer, an answer may submit several blocks at once: both must see the same prompt.
    let prompt = prompt(5, 1300);
    let mut looked = full();
    looked.append(&prompt).unwrap();
    let logits = block_on(looked.logits()).unwrap();
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
    let whole = answer(&mut full(), &prompt, 8);
    assert_eq!(whole[0], best);
    assert_eq!(greedy(&mut looked, 8), whole);
}
