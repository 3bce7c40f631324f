//! Rows on the host: what leaves the device, what comes back, and that nobody can tell when.

use std::sync::Arc;
use std::time::Duration;

use crate::common::testbed::{answer, gpu, greedy, load};
use crate::common::tiny::{LAYERS, Tiny, prompt};
use benben::kv::Format;
use benben::kv::policy::{Budget, H2o, Joint, KvOnly, SnapKv, Streaming, Tsp};
use benben::{
    AdapterChoice, Error, GenerateOptions, Gpu, HostReport, KvBits, KvOptions, Model, Session, SessionOptions,
};
use pollster::block_on;

fn session(model: &Arc<Model>, kv: &KvOptions) -> Session {
    Session::new(model, &SessionOptions { kv: kv.clone(), context: Some(1200) }).unwrap()
}

fn share() -> Budget {
    Budget::Share(0.3)
}

/// Joint with a bounded recall.
fn few(rows: usize) -> KvOptions {
    KvOptions { offload: Some(rows), ..KvOptions::new(Joint::new(share()), Format::F16) }
}

fn host(session: &Session) -> HostReport {
    session.kv().host.expect("rows go to the host")
}

fn positions(session: &mut Session) -> Vec<Vec<Vec<u32>>> {
    (0..LAYERS).map(|l| block_on(session.positions(l)).unwrap()).collect()
}

/// The same answer, in pieces of a frame.
fn framed(session: &mut Session, count: usize) -> Vec<u32> {
    let options = GenerateOptions { max_tokens: count, stop: Some(Vec::new()), ..Default::default() };
    let mut answer = session.generate(&options).unwrap();
    let mut tokens = Vec::new();
    loop {
        let step = answer.step(Duration::from_millis(5)).unwrap();
        tokens.extend(step.tokens);
        if step.finished {
            return tokens;
        }
        std::thread::yield_now();
    }
}

#[test]
fn with_room_for_all_rows_nothing_is_lost() {
    let model = load(&gpu(), &Tiny::new().file());
    let (prefix, rest, turn) = (prompt(1, 300), prompt(2, 40), prompt(3, 50));
    let four = Format::both(KvBits::Four);
    for kv in [
        KvOptions::new(Joint::new(share()), Format::F16),
        KvOptions::new(H2o::new(share()), four),
        KvOptions::new(SnapKv::new(share()), Format { k: KvBits::Eight, v: KvBits::Three }),
        KvOptions::new(KvOnly::per_head(share()), Format::F16),
        KvOptions::new(Streaming::new(share()), Format::F16),
    ] {
        let full = KvOptions { format: kv.format, ..KvOptions::full() };
        let kv = KvOptions { offload: Some(1200), ..kv };
        let [mut all, mut back] = [&full, &kv].map(|kv| session(&model, kv));
        let [a, b] = [&mut all, &mut back].map(|s| block_on(s.losses(&prefix, &rest)).unwrap());
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3, "{kv:?}: losses differ by {worst}");
        assert!(host(&back).rows > 500, "{kv:?}: {:?}", host(&back));
        let [a, b] = [&full, &kv].map(|kv| {
            let mut session = session(&model, kv);
            (answer(&mut session, &prefix, 30), answer(&mut session, &turn, 30))
        });
        assert_eq!(a, b, "{kv:?}");
    }
}

#[test]
fn queries_call_back_a_bounded_number_of_rows() {
    let model = load(&block_on(Gpu::open(&AdapterChoice::Best)).unwrap(), &Tiny::new().file());
    let bytes = |kv: &KvOptions| {
        let before = model.gpu().bytes().kv;
        let mut session = session(&model, kv);
        let said = answer(&mut session, &prompt(4, 1000), 40);
        let kept = positions(&mut session);
        (said, kept, model.gpu().bytes().kv - before, session.kv())
    };
    let (alone, kept, gone, _) = bytes(&KvOptions { offload: None, ..few(64) });
    let (said, with, some, report) = bytes(&few(64));
    let (_, _, all, _) = bytes(&KvOptions::full());
    assert_ne!(said, alone, "what came back changes nothing");
    assert_eq!(bytes(&few(64)).0, said, "another run says something else");
    for (kept, with) in kept.iter().flatten().zip(with.iter().flatten()) {
        assert_eq!(with.len(), kept.len() + 64);
        assert!(kept.iter().all(|at| with.contains(at)));
        assert!(with.is_sorted_by(|a, b| a < b), "a row is there twice: {with:?}");
    }
    assert!(some < (gone + all) / 2, "{gone} without the host, {some} with it, {all} for all rows");
    let host = report.host.unwrap();
    assert!(host.rows > 2000 && host.recalls >= 4 * LAYERS && host.hits > 0, "{host:?}");
}

#[test]
fn frames_and_interruptions_say_the_same() {
    let model = load(&gpu(), &Tiny::new().file());
    let (world, turn) = (prompt(5, 300), prompt(6, 80));
    let mut straight = session(&model, &few(48));
    let said = (answer(&mut straight, &world, 25), answer(&mut straight, &turn, 25));

    let mut in_frames = session(&model, &few(48));
    in_frames.append(&world).unwrap();
    let first = framed(&mut in_frames, 25);
    in_frames.append(&turn).unwrap();
    assert_eq!((first, framed(&mut in_frames, 25)), said);
    assert_eq!(positions(&mut in_frames), positions(&mut straight));

    // Both prompts are given up between two layers, then asked again.
    let mut stopped = session(&model, &few(48));
    let give_up = |session: &mut Session| {
        let options = GenerateOptions::default();
        let rows = host(session).rows;
        let mut answer = session.generate(&options).unwrap();
        while host(answer.session()).rows == rows {
            answer.step(Duration::ZERO).unwrap();
        }
        drop(answer);
        assert_eq!(host(session).rows, rows, "a prompt that was given up left rows");
    };
    stopped.append(&world).unwrap();
    give_up(&mut stopped);
    let first = greedy(&mut stopped, 25);
    stopped.append(&turn).unwrap();
    give_up(&mut stopped);
    assert_eq!((first, greedy(&mut stopped, 25)), said);

    stopped.clear();
    assert_eq!(host(&stopped).rows, 0);
    assert_eq!(answer(&mut stopped, &world, 25), said.0, "another conversation's rows came back");
}

#[test]
fn what_cannot_take_rows_along_says_so() {
    let model = load(&gpu(), &Tiny::new().file());
    let mut session = session(&model, &few(32));
    assert!(session.fork().is_ok(), "nothing is on the host yet");
    answer(&mut session, &prompt(7, 300), 2);
    let refused = |error: Error| assert!(error.to_string().contains("rows on the host"), "{error}");
    refused(session.fork().unwrap_err());
    refused(block_on(session.to_bytes("")).unwrap_err());
    for kv in [few(8), KvOptions { offload: Some(64), ..KvOptions::new(Tsp::new(share()), Format::F16) }] {
        let made = Session::new(&model, &SessionOptions { kv, context: Some(1200) });
        assert!(matches!(made, Err(Error::Invalid(_))), "{made:?}");
    }
}
