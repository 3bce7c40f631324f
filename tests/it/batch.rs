//! What an engine promises: an answer is the same whoever else runs, and everybody gets on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::common::testbed::{gpu, greedy, load, model};
use crate::common::tiny::{LAYERS, Tiny, prompt};
use benben::gpu::{Family, Tuning};
use benben::kv::Format;
use benben::kv::policy::{Budget, H2o, Pyramid, SnapKv, Streaming, Tova};
use benben::{
    AdapterChoice, Answer, Engine, EngineOptions, Error, GenerateOptions, Gpu, KvBits, KvOptions, Model,
    Request, Sampling, Session, SessionOptions,
};
use futures_core::Stream;
use pollster::block_on;

fn generate(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, stop: Some(Vec::new()), ..GenerateOptions::default() }
}

fn request(seed: u64, tokens: usize, answer: usize, kv: KvOptions) -> Request {
    Request { prompt: prompt(seed, tokens), kv, generate: generate(answer), ..Request::default() }
}

fn auto(share: f32) -> KvOptions {
    KvOptions::auto(share).expect("a share")
}

fn engine(model: &Arc<Model>, max_sequences: usize, step_tokens: usize) -> Engine {
    let options = EngineOptions { max_sequences, step_tokens, ..EngineOptions::default() };
    Engine::new(model, &options).expect("an engine")
}

fn rest(answer: &mut Answer) -> Vec<u32> {
    let mut tokens = Vec::new();
    while let Some(token) = block_on(answer.next()) {
        tokens.push(token.expect("a token"));
    }
    tokens
}

fn submit(engine: &Engine, requests: &[Request]) -> Vec<Answer> {
    requests.iter().map(|request| engine.submit(request.clone()).expect("a sound request")).collect()
}

fn all(engine: &Engine, requests: &[Request]) -> Vec<Vec<u32>> {
    submit(engine, requests).iter_mut().map(rest).collect()
}

/// What a session of its own answers.
fn alone(model: &Arc<Model>, request: &Request) -> Vec<u32> {
    let context = request.prompt.len() + request.generate.max_tokens;
    let options = SessionOptions { kv: request.kv.clone(), context: Some(context) };
    let mut session = Session::new(model, &options).unwrap();
    session.append(&request.prompt).unwrap();
    greedy(&mut session, request.generate.max_tokens)
}

/// Lengths, policies and formats of every kind, several of each, and a prompt of one token.
fn mixed() -> Vec<Request> {
    let rows = || Budget::Rows(48);
    let coarse = KvOptions {
        tail: Some(Format::both(KvBits::Two)),
        ..KvOptions::new(H2o::new(rows()), Format::both(KvBits::Four))
    };
    let merged = KvOptions { merge: true, ..KvOptions::new(SnapKv::new(rows()), Format::F16) };
    let kinds = [
        KvOptions::full(),
        auto(0.2),
        KvOptions::new(
            Pyramid::with_budget(Budget::Share(0.5)),
            Format { k: KvBits::Eight, v: KvBits::Three },
        ),
        KvOptions::new(Streaming::new(rows()), Format::F16),
        KvOptions::new(Tova::new(rows()), Format::both(KvBits::Eight)),
        coarse,
        merged,
    ];
    let mut requests = vec![request(90, 1, 30, KvOptions::full())];
    for (i, kv) in kinds.iter().cycle().take(13).enumerate() {
        requests.push(request(i as u64, 20 + 37 * i % 150, 12 + 7 * i % 40, kv.clone()));
    }
    requests
}

#[test]
fn nobody_notices_the_others() {
    let requests = mixed();
    let together = all(&engine(&model(), 6, 40), &requests);
    for (request, together) in requests.iter().zip(together) {
        assert_eq!(together.len(), request.generate.max_tokens);
        assert_eq!(
            together,
            all(&engine(&model(), 6, 1000), std::slice::from_ref(request))[0],
            "{request:?}"
        );
        assert_eq!(together, alone(&model(), request), "{request:?}");
    }
}

#[test]
fn both_families_of_kernels_agree() {
    let requests = &mixed()[..5];
    let lanes = all(&engine(&model(), 5, 64), requests);
    let gpu = gpu().with_tuning(Tuning { family: Family::Groups, ..gpu().tuning() });
    let groups = load(&gpu, &Tiny::new().file());
    assert_eq!(all(&engine(&groups, 5, 64), requests), lanes);
}

#[test]
fn an_exact_engine_computes_as_a_session_does() {
    let groups = gpu().with_tuning(Tuning { family: Family::Groups, ..gpu().tuning() });
    for model in [model(), load(&groups, &Tiny::new().file())] {
        let options =
            EngineOptions { max_sequences: 5, step_tokens: 64, exact: true, ..EngineOptions::default() };
        let engine = Engine::new(&model, &options).expect("an engine");
        let requests = &mixed()[..9];
        for (request, together) in requests.iter().zip(all(&engine, requests)) {
            assert_eq!(together, alone(&model, request), "{request:?}");
        }
        assert!(engine.report().most_sequences > 1);
    }
}

#[test]
fn samplers_keep_to_themselves() {
    let hot =
        |seed| Sampling { temperature: 1.1, top_k: 30, repetition_penalty: 1.2, seed, ..Sampling::default() };
    let with = |sampling| {
        let mut request = request(3, 40, 25, KvOptions::full());
        request.generate.sampling = sampling;
        request
    };
    let requests = [with(Sampling::default()), with(hot(1)), with(hot(2)), with(hot(1))];
    let together = all(&engine(&model(), 4, 256), &requests);
    assert_eq!(together[1], together[3]);
    assert_ne!(together[1], together[2]);
    for (request, together) in requests.iter().zip(together) {
        assert_eq!(together, all(&engine(&model(), 4, 256), std::slice::from_ref(request))[0]);
    }
}

#[test]
fn a_stop_token_ends_one_answer_alone() {
    let mut requests = [request(5, 30, 40, KvOptions::full()), request(6, 30, 40, KvOptions::full())];
    let whole = all(&engine(&model(), 2, 256), &requests);
    let stop = whole[0][17];
    requests[0].generate.stop = Some(vec![stop]);
    let end = whole[0].iter().position(|&token| token == stop).unwrap();
    assert_eq!(all(&engine(&model(), 2, 256), &requests), [whole[0][..end].to_vec(), whole[1].clone()]);
}

#[test]
fn who_no_longer_polls_holds_nobody_up() {
    let engine = engine(&model(), 2, 32);
    let requests = [request(7, 300, 20, KvOptions::full()), request(8, 300, 20, KvOptions::full())];
    let mut answers = submit(&engine, &requests);
    let mut second = answers.pop().unwrap();
    let mut first = answers.pop().unwrap();
    let waits = std::thread::spawn(move || rest(&mut first));
    // Polled by somebody who then forgets it, and in the end gives it up.
    for _ in 0..5 {
        let _ = Pin::new(&mut second).poll_next(&mut Context::from_waker(Waker::noop()));
        std::thread::sleep(Duration::from_millis(3));
    }
    drop(second);
    assert_eq!(waits.join().unwrap(), alone(&model(), &requests[0]));
    assert_eq!((engine.report().sequences, engine.report().waiting), (0, 0));
}

#[test]
fn who_polls_first_leaves_the_others_their_turn() {
    let engine = engine(&model(), 3, 256);
    let requests: Vec<_> = (0..3).map(|i| request(i, 20, 30, KvOptions::full())).collect();
    let mut answers = submit(&engine, &requests);
    let mut seen = [0; 3];
    let mut cx = Context::from_waker(Waker::noop());
    while seen.iter().any(|&tokens| tokens < 30) {
        for (answer, seen) in answers.iter_mut().zip(&mut seen) {
            // As tasks of an executor with one thread: each goes on until it has to wait.
            while let Poll::Ready(Some(token)) = Pin::new(&mut *answer).poll_next(&mut cx) {
                token.unwrap();
                *seen += 1;
            }
        }
        let [most, least] = [seen.iter().max().unwrap(), seen.iter().min().unwrap()];
        assert!(most - least <= 3, "{seen:?}");
    }
}

#[test]
fn more_requests_than_places_wait_their_turn() {
    let engine = engine(&model(), 2, 256);
    let requests: Vec<_> = (0..7).map(|i| request(i, 20, 5 + i as usize, KvOptions::full())).collect();
    let mut answers = submit(&engine, &requests);
    assert_eq!(engine.report().waiting, 7);
    // Taken back before its turn.
    drop(answers.remove(4));
    for (i, answer) in answers.iter_mut().enumerate() {
        let request = &requests[if i < 4 { i } else { i + 1 }];
        assert_eq!(rest(answer), alone(&model(), request));
        assert!(engine.report().sequences <= 2);
    }
    assert_eq!(engine.report().most_sequences, 2);
}

#[test]
fn a_long_prompt_does_not_stall_an_answer() {
    let engine = engine(&model(), 2, 32);
    let mut short = engine.submit(request(1, 10, 200, KvOptions::full())).unwrap();
    block_on(short.next()).unwrap().unwrap();
    let mut long = engine.submit(request(2, 600, 4, auto(0.2))).unwrap();
    let before = short.timing().answer_tokens;
    block_on(long.next()).unwrap().unwrap();
    let others = short.timing().answer_tokens - before;
    // A step is done with one layer of the prompt, so every layer lets a token through.
    assert!(others >= LAYERS, "{others} tokens while a prompt of 600 came in");
    assert_eq!(rest(&mut long).len(), 3);
}

#[test]
fn random_rows_are_as_many_as_those_of_the_prompt() {
    for kv in [
        KvOptions::full(),
        auto(0.12),
        KvOptions::new(Streaming::new(Budget::Rows(48)), Format::F16),
        KvOptions::new(Pyramid::with_budget(Budget::Share(0.5)), Format::both(KvBits::Eight)),
    ] {
        let ran = request(3, 600, 40, kv);
        let random = Request { random_rows: true, ..ran.clone() };
        let held = |request: Request| {
            let engine = engine(&model(), 1, 256);
            let mut answer = engine.submit(request).unwrap();
            let mut tokens = vec![block_on(answer.next()).unwrap().unwrap()];
            let held = engine.report().kv_bytes;
            tokens.extend(rest(&mut answer));
            (tokens, held)
        };
        let ((tokens, held_of_prompt), (others, held_at_random)) = (held(ran), held(random));
        assert_eq!((tokens.len(), others.len()), (40, 40));
        assert_ne!(tokens, others, "the rows are others");
        // A policy may plan for the last token of the prompt otherwise than for the first one of the answer.
        let difference = held_at_random.abs_diff(held_of_prompt);
        assert!(difference <= 2 * full_row(), "{held_at_random} and {held_of_prompt}");
    }
}

/// Bytes of a token's row of halves in all layers.
fn full_row() -> u64 {
    LAYERS as u64 * Format::F16.bytes_per_token(model().config().heads)
}

#[test]
fn memory_decides_who_runs() {
    // A device of its own: others allocate on the shared one meanwhile.
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).unwrap();
    let model = load(&gpu, &Tiny::new().file());
    let one = |kv: KvOptions| {
        let engine = engine(&model, 8, 256);
        let mut answer = engine.submit(request(4, 600, 20, kv)).unwrap();
        block_on(answer.next()).unwrap().unwrap();
        engine.report().kv_bytes_reserved
    };
    let memory = 2 * one(KvOptions::full());
    let most = |kv: KvOptions| {
        let options = EngineOptions { max_sequences: 12, memory: Some(memory), ..EngineOptions::default() };
        let engine = Engine::new(&model, &options).unwrap();
        let requests: Vec<_> = (0..12).map(|i| request(i, 600, 20, kv.clone())).collect();
        let before = gpu.bytes().kv;
        let mut answers = submit(&engine, &requests);
        for (answer, request) in answers.iter_mut().zip(&requests) {
            assert_eq!(rest(answer).len(), request.generate.max_tokens);
            let report = engine.report();
            assert!(report.kv_bytes <= report.kv_bytes_reserved && report.kv_bytes_reserved <= memory);
            // Each layer's buffers are cut at multiples of 256 bytes.
            assert!(
                gpu.bytes().kv - before <= memory + memory / 4,
                "{} of {memory}",
                gpu.bytes().kv - before
            );
        }
        engine.report().most_sequences
    };
    assert_eq!(most(KvOptions::full()), 2);
    assert!(most(auto(0.1)) >= 8);
}

#[test]
fn a_warm_step_creates_nothing() {
    // A device of its own: others create things on the shared one meanwhile.
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).unwrap();
    let engine = engine(&load(&gpu, &Tiny::new().file()), 4, 256);
    let requests: Vec<_> =
        (0..4).map(|i| request(i, 30, 60, KvOptions::new(H2o::new(Budget::Rows(24)), Format::F16))).collect();
    let mut answers = submit(&engine, &requests);
    let warm = |answers: &mut [Answer], count| {
        for _ in 0..count {
            answers.iter_mut().for_each(|answer| assert!(block_on(answer.next()).unwrap().is_ok()));
        }
    };
    warm(&mut answers, 25);
    let before = gpu.counters();
    warm(&mut answers, 20);
    let after = gpu.counters();
    assert_eq!(
        (after.buffers, after.bind_groups, after.pipelines),
        (before.buffers, before.bind_groups, before.pipelines)
    );
    assert!(after.dispatches > before.dispatches);
}

#[test]
fn unsound_requests_are_refused_with_numbers() {
    let engine = Engine::new(
        &model(),
        &EngineOptions { context: Some(64), memory: Some(4000), ..EngineOptions::default() },
    )
    .unwrap();
    let refused =
        |request: Request| engine.submit(request).err().map(|error| (error.code(), error.to_string()));
    let code = |request: Request| refused(request).expect("a refusal").0;
    assert_eq!(code(request(1, 0, 4, KvOptions::full())), "invalid");
    assert_eq!(code(request(1, 4, 0, KvOptions::full())), "invalid");
    assert_eq!(code(request(1, 64, 4, KvOptions::full())), "context-full");
    assert_eq!(code(Request { prompt: vec![u32::MAX], ..request(1, 1, 4, KvOptions::full()) }), "invalid");
    assert_eq!(code(request(1, 4, 4, KvOptions { offload: Some(64), ..KvOptions::full() })), "unsupported");
    let (code, words) = refused(request(1, 60, 4, KvOptions::full())).unwrap();
    assert!(code == "does-not-fit" && words.contains("4000"), "{words}");
    assert!(Engine::new(&model(), &EngineOptions { max_sequences: 0, ..EngineOptions::default() }).is_err());
    let many = EngineOptions { max_sequences: 1 << 22, ..EngineOptions::default() };
    assert_eq!(Engine::new(&model(), &many).err().map(|error| error.code()), Some("does-not-fit"));
    // None of them is left behind.
    assert_eq!(engine.report().waiting, 0);
}

#[test]
fn a_lost_device_ends_every_answer_with_an_error() {
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).unwrap();
    let engine = engine(&load(&gpu, &Tiny::new().file()), 2, 256);
    let requests: Vec<_> = (0..3).map(|i| request(i, 20, 400, KvOptions::full())).collect();
    let mut answers = submit(&engine, &requests);
    block_on(answers[0].next()).unwrap().unwrap();
    gpu.destroy();
    for answer in &mut answers {
        let error = loop {
            match block_on(answer.next()) {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("an answer ended without a word"),
            }
        };
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
        assert!(matches!(
            Pin::new(answer).poll_next(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(None)
        ));
    }
}

/// Dispatches of a decode step of `count` like sequences, on average over 64 steps, in which rows leave every layer.
fn dispatches(model: &Arc<Model>, count: usize, kv: &KvOptions) -> f64 {
    let engine = engine(model, count, 10_000);
    let requests: Vec<_> = (0..count).map(|i| request(i as u64, 600, 100, kv.clone())).collect();
    let mut answers = submit(&engine, &requests);
    let mut step = || answers.iter_mut().for_each(|answer| drop(block_on(answer.next()).expect("a token")));
    (0..8).for_each(|_| step());
    let (before, steps) = (model.gpu().counters().dispatches, engine.report().steps);
    (0..64).for_each(|_| step());
    let made = model.gpu().counters().dispatches - before;
    made as f64 / (engine.report().steps - steps) as f64
}

#[test]
fn like_sequences_share_their_dispatches() {
    // Nobody else counts on this device.
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
    let model = load(&gpu, &Tiny::new().file());
    let pyramid = KvOptions::new(Pyramid::with_budget(Budget::Share(0.5)), Format::F16);
    for kv in [KvOptions::full(), auto(0.12), pyramid] {
        let [few, many] = [2, 7].map(|count| dispatches(&model, count, &kv));
        assert_eq!(few, many, "{}", kv.policy.name());
    }
}
