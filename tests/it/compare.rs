//! A compressed cache's logits beside the full one's, on a tiny model: against itself, and against an independent
//! decoder in f64.

use crate::common::reference::{Reference, Rows, loss};
use crate::common::testbed;
use crate::common::tiny::{Tiny, prompt};
use benben::kv::Format;
use benben::kv::policy::{Budget, Full, Joint, Policy};
use benben::{Error, KvOptions, Session, SessionOptions};
use pollster::block_on;

/// More rows than logits exist for at a time, and no multiple of them.
const CONTINUATION: usize = 150;

fn session(policy: impl Policy + 'static) -> Session {
    let kv = KvOptions::new(policy, Format::F16);
    testbed::session(&SessionOptions { kv, context: Some(512) })
}

/// The f64 decoder's logits for every token of `continuation`.
fn logits(decoder: &Reference, prefix: &[u32], continuation: &[u32], policy: &dyn Policy) -> Vec<Vec<f64>> {
    let mut rows = Rows::default();
    let first = decoder.prefill(&mut rows, prefix, policy).pop().expect("a last row");
    let rest = decoder.run(&mut rows, &continuation[..continuation.len() - 1]);
    [first].into_iter().chain(rest).collect()
}

#[test]
fn the_full_cache_does_not_differ_from_itself() {
    let (prefix, continuation) = (prompt(1, 70), prompt(2, CONTINUATION));
    let mut session = session(Full);
    let reference = block_on(session.reference(&prefix, &continuation)).unwrap();
    let comparison = block_on(session.compare(&reference)).unwrap();
    let losses = block_on(session.losses(&prefix, &continuation)).unwrap();
    assert_eq!(comparison.tokens.len(), CONTINUATION);
    for (token, loss) in comparison.tokens.iter().zip(losses) {
        assert!(token.kl == 0.0 && token.agrees, "{token:?}");
        assert!((token.nll - f64::from(loss)).abs() < 1e-5, "{token:?}, on the device {loss}");
    }
    let itself = reference.itself();
    assert_eq!((itself.tokens, itself.kv), (comparison.tokens, comparison.kv.clone()));
    // The prefix alone, though the session holds the continuation too.
    assert!(comparison.kv.rows_per_layer.iter().all(|&rows| rows == 70), "{:?}", comparison.kv);
    assert_eq!(comparison.kv.bytes, comparison.kv.bytes_full_f16);
    assert!(!comparison.prefill.is_zero());
}

#[test]
fn divergences_are_those_of_an_independent_decoder() {
    let (prefix, continuation) = (prompt(3, 90), prompt(4, CONTINUATION));
    let policy = Joint::new(Budget::Share(0.5));
    let reference = block_on(session(Full).reference(&prefix, &continuation)).unwrap();
    let comparison = block_on(session(policy.clone()).compare(&reference)).unwrap();
    let decoder = Reference::new(&Tiny::new().file());
    let wanted = logits(&decoder, &prefix, &continuation, &Full);
    let found = logits(&decoder, &prefix, &continuation, &policy);
    let (mut largest, mut agree, mut hits) = (0f64, 0, 0);
    for (i, token) in comparison.tokens.iter().enumerate() {
        let vocab = wanted[i].len() as u32;
        let kl: f64 = (0..vocab)
            .map(|id| (loss(&wanted[i], id), loss(&found[i], id)))
            .map(|(wanted, found)| (-wanted).exp() * (found - wanted))
            .sum();
        assert!((token.kl - kl).abs() < 2e-4 + 0.02 * kl, "token {i}: {} and not {kl}", token.kl);
        assert!((token.nll - loss(&found[i], continuation[i])).abs() < 4e-3, "token {i}: {token:?}");
        let best = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        agree += usize::from(token.agrees == (best(&wanted[i]) == best(&found[i])));
        hits += usize::from(token.hits == (best(&found[i]) == Some(continuation[i] as usize)));
        largest = largest.max(kl);
    }
    assert!(largest > 0.01, "the policy changed nothing: {largest}");
    // Two logits may be closer than the device's rounding.
    assert!(agree >= CONTINUATION - 2 && hits >= CONTINUATION - 2, "{agree} and {hits} of {CONTINUATION}");
    assert!(comparison.kv.rows_per_layer.iter().all(|&rows| rows == 45), "{:?}", comparison.kv);
}

#[test]
fn a_continuation_of_one_token_and_of_none() {
    let (prefix, mut session) = (prompt(5, 40), session(Full));
    let reference = block_on(session.reference(&prefix, &[7])).unwrap();
    assert_eq!(reference.continuation(), [7]);
    let comparison = block_on(session.compare(&reference)).unwrap();
    assert_eq!((comparison.tokens.len(), comparison.tokens[0].kl), (1, 0.0));
    assert!(matches!(block_on(session.reference(&prefix, &[])), Err(Error::Invalid(_))));
    assert!(matches!(block_on(session.reference(&prefix, &[u32::MAX])), Err(Error::Invalid(_))));
    assert!(matches!(block_on(session.reference(&prompt(6, 511), &[1, 2])), Err(Error::ContextFull { .. })));
}
