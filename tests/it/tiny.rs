//! A tiny model on the device against an independent decoder in f64: dense, pruned, packed, in both families.

use std::sync::Arc;

use crate::common::reference::{Reference, Rows, loss};
use crate::common::testbed::{answer, gpu, greedy, load, model, session};
use crate::common::tiny::{LAYERS, Shape, Tiny, prompt, vocab};
use benben::gpu::{Family, Tuning};
use benben::kv::Format;
use benben::kv::policy::{
    Budget, Expected, Full, H2o, Joint, KvOnly, Policy, Pooling, Preset, Pyramid, PyramidKv, Select, SnapKv,
    Streaming, Tova, Tsp,
};
use benben::{Gpu, KvBits, KvOptions, Model, Session, SessionOptions};
use pollster::block_on;

/// Losses of the device and of the reference differ by f32 rounding, and by f16 rows rounded the other way.
const TOLERANCE: f64 = 4e-3;

fn options(policy: impl Policy + 'static) -> SessionOptions {
    options_in(policy, Format::F16)
}

fn options_in(policy: impl Policy + 'static, format: Format) -> SessionOptions {
    SessionOptions { kv: KvOptions::new(policy, format), context: Some(512) }
}

/// The losses of `continuation` after `prefix` under `policy`, by the reference.
fn expected(reference: &Reference, prefix: &[u32], continuation: &[u32], policy: &dyn Policy) -> Vec<f64> {
    let mut rows = Rows::default();
    let first = reference.prefill(&mut rows, prefix, policy).pop().expect("a last row");
    let rest = reference.run(&mut rows, &continuation[..continuation.len() - 1]);
    [first].iter().chain(&rest).zip(continuation).map(|(logits, &token)| loss(logits, token)).collect()
}

fn worst(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error = |(f, e): (&f32, &f64)| (f64::from(*f) - e).abs();
    // `max` would drop a NaN.
    found.iter().zip(expected).map(error).fold(0.0, |m, e| if e <= m { m } else { e })
}

fn assert_losses(model: &Arc<Model>, policy: impl Policy + Clone + 'static, tokens: usize) {
    assert_losses_of(model, &Reference::new(&Tiny::new().file()), policy, tokens);
}

fn assert_losses_of(
    model: &Arc<Model>,
    reference: &Reference,
    policy: impl Policy + Clone + 'static,
    tokens: usize,
) {
    let (prefix, continuation) = (prompt(1, tokens), prompt(2, 21));
    let expected = expected(reference, &prefix, &continuation, &policy);
    let mut session = Session::new(model, &options(policy.clone())).unwrap();
    let found = block_on(session.losses(&prefix, &continuation)).unwrap();
    let error = worst(&found, &expected);
    assert!(error < TOLERANCE, "{policy:?} over {tokens}: {error}\n{found:?}\n{expected:?}");
}

/// Answers with `count` tokens, each of which must be one that the reference, given the tokens before it, finds
/// the most probable; in the end the logits must be the same.
fn assert_answer(
    model: &Arc<Model>,
    reference: &Reference,
    policy: impl Policy + Clone + 'static,
    (prompt, count): (&[u32], usize),
) {
    let mut session = Session::new(model, &options(policy.clone())).unwrap();
    let tokens = answer(&mut session, prompt, count);
    assert_eq!(tokens.len(), count);
    let mut rows = Rows::default();
    let mut logits = reference.prefill(&mut rows, prompt, &policy).pop().expect("a last row");
    for (i, &token) in tokens.iter().enumerate() {
        let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let gap = best - logits[token as usize];
        assert!(gap < 0.02, "token {i} is {token}, {gap} below the best");
        logits = reference.run(&mut rows, &[token]).pop().expect("a row");
    }
    let error = worst(&block_on(session.logits()).unwrap(), &logits);
    assert!(error < 0.02, "{policy:?}: logits differ by {error}");
}

#[test]
fn the_model_is_no_trifle() {
    // A test of agreement means nothing on a model whose answers do not depend on its input.
    let reference = Reference::new(&Tiny::new().file());
    let logits = reference.run(&mut Rows::default(), &prompt(3, 40));
    let spread =
        |l: &Vec<f64>| l.iter().copied().fold(f64::MIN, f64::max) - l.iter().sum::<f64>() / l.len() as f64;
    assert!(logits.iter().all(|l| spread(l) > 5.0), "flat logits");
    let best = |l: &Vec<f64>| (0..l.len()).max_by(|&a, &b| l[a].total_cmp(&l[b])).expect("a vocabulary");
    let distinct: std::collections::BTreeSet<usize> = logits.iter().map(best).collect();
    assert!(distinct.len() > 20, "{distinct:?}");
}

#[test]
fn dense_losses_and_answers_equal_the_reference() {
    for tokens in [1, 2, 17, 131] {
        assert_losses(&model(), Full, tokens);
    }
    assert_answer(&model(), &Reference::new(&Tiny::new().file()), Full, (&prompt(4, 37), 40));
}

#[test]
fn pyramids_equal_the_reference() {
    for preset in [Preset::B7, Preset::B13, Preset::B70] {
        assert_losses(&model(), Pyramid::preset(preset), 149);
    }
    // The published ratios hardly prune four layers; these do.
    for interval in [1, 2, 3] {
        assert_losses(&model(), Pyramid::cosine(0.3, interval), 149);
    }
    for select in [Select::Own, Select::Previous] {
        assert_losses(&model(), Pyramid::exact(vec![90, 71, 40, 23], select, 11, 4), 97);
    }
    assert_losses(&model(), Pyramid::with_budget(Budget::Share(0.6)), 149);
}

#[test]
fn policies_that_keep_hidden_rows_equal_the_reference() {
    assert_losses(&model(), KvOnly::shared(Budget::PerLayer(vec![75, 90, 80, 71])), 131);
    assert_losses(&model(), KvOnly::per_head(Budget::Rows(80)), 131);
    assert_losses(&model(), Tsp::new(Budget::Share(0.7)), 131);
}

#[test]
fn evictions_equal_the_reference() {
    for budget in [Budget::Share(0.5), Budget::PerLayer(vec![75, 131, 61, 49])] {
        assert_losses(&model(), Streaming::new(budget.clone()), 131);
        assert_losses(&model(), Tova::new(budget.clone()), 131);
        assert_losses(&model(), H2o::new(budget.clone()), 131);
        assert_losses(&model(), SnapKv::new(budget.clone()), 131);
        assert_losses(&model(), SnapKv::new(budget.clone()).pooled(Pooling::Average(5)), 131);
        assert_losses(&model(), PyramidKv::new(budget.clone()), 131);
        assert_losses(&model(), Joint::new(budget.clone()), 131);
        assert_losses(&model(), Expected::new(budget.clone()), 131);
        assert_losses(&model(), Joint::new(budget).with_expected(), 131);
    }
    // Shorter than a window.
    assert_losses(&model(), SnapKv::new(Budget::Share(0.2)), 9);
}

/// Rows that run through a layer together: what longer prompts are told of their rows is added up.
const CHUNK: usize = 512;

#[test]
fn prompts_of_several_chunks_equal_the_reference() {
    // A last chunk that is shorter than any window but that of one row.
    let (two, three) = (CHUNK + 20, 2 * CHUNK + 20);
    let budget = Budget::Share(0.5);
    let reference = Reference::new(&Tiny::new().file());
    let policies: [(Arc<dyn Policy>, usize); 10] = [
        (Arc::new(Pyramid::preset(Preset::B7)), two),
        (Arc::new(Pyramid::cosine(0.3, 1)), two),
        (Arc::new(Tsp::new(Budget::Share(0.7))), three),
        (Arc::new(KvOnly::per_head(budget.clone())), two),
        (Arc::new(Tova::new(budget.clone())), two),
        (Arc::new(H2o::new(budget.clone())), two),
        (Arc::new(PyramidKv::new(budget.clone())), two),
        (Arc::new(Joint::new(budget.clone())), two),
        (Arc::new(Expected::new(budget.clone())), two),
        (Arc::new(Joint::new(budget).with_expected()), three),
    ];
    let models: Vec<_> = families().iter().take(2).map(|gpu| load(gpu, &Tiny::new().file())).collect();
    for (policy, tokens) in policies {
        let (tokens, mut rows) = (prompt(17, tokens), Rows::default());
        let expected = reference.prefill(&mut rows, &tokens, &*policy).pop().expect("a last row");
        for model in &models {
            let kv = KvOptions { policy: policy.clone(), ..KvOptions::full() };
            let mut session = Session::new(model, &SessionOptions { kv, context: Some(1200) }).unwrap();
            session.append(&tokens).unwrap();
            let found = block_on(session.logits()).unwrap();
            let (mut strangers, mut all) = (0, 0);
            for (layer, sets) in rows.rows.iter().enumerate() {
                for (set, found) in block_on(session.positions(layer)).unwrap().iter().enumerate() {
                    let wanted = sets[set].iter().map(|row| row.position as u32);
                    // The last token is pending again.
                    strangers += wanted.clone().filter(|p| !found.contains(p)).count() - 1;
                    all += wanted.count();
                }
            }
            // Scores at the cut lie close together.
            assert!(strangers * 500 <= all, "{policy:?}: {strangers} of {all} rows are others");
            let error = worst(&found, &expected);
            assert!(error < 0.05, "{policy:?}: logits differ by {error}, {strangers} other rows");
        }
    }
}

#[test]
fn evicted_rows_leave_memory() {
    let policies: [Arc<dyn Policy>; 8] = [
        Arc::new(Streaming::new(Budget::Rows(60))),
        Arc::new(Tova::new(Budget::Rows(60))),
        Arc::new(H2o::new(Budget::Rows(60))),
        Arc::new(SnapKv::new(Budget::Rows(60))),
        Arc::new(PyramidKv::new(Budget::Rows(60))),
        Arc::new(Joint::new(Budget::Rows(60))),
        Arc::new(Expected::new(Budget::Rows(60))),
        Arc::new(Joint::new(Budget::Rows(60)).with_expected()),
    ];
    for policy in policies {
        let kv = KvOptions { policy: policy.clone(), ..KvOptions::full() };
        let mut session = session(&SessionOptions { kv, context: Some(512) });
        assert_eq!(answer(&mut session, &prompt(16, 140), 1).len(), 1);
        let rows = session.kv().rows_per_layer;
        let mean = rows.iter().sum::<usize>() / LAYERS;
        assert!((60..=62).contains(&mean), "{policy:?}: {rows:?}");
        for (layer, &count) in rows.iter().enumerate() {
            for found in block_on(session.positions(layer)).unwrap() {
                assert_eq!(found.len(), count, "{policy:?}");
                assert!(found.starts_with(&[0, 1, 2, 3]) && found.ends_with(&[139]), "{policy:?}: {found:?}");
                assert!(found.is_sorted_by(|a, b| a < b), "{policy:?}: {found:?}");
            }
        }
    }
}

#[test]
fn pruned_answers_equal_the_reference() {
    let (reference, prompt) = (Reference::new(&Tiny::new().file()), prompt(5, 113));
    let own = Pyramid::exact(vec![100, 71, 50, 40], Select::Own, 16, 4);
    assert_answer(&model(), &reference, own, (&prompt, 30));
    assert_answer(&model(), &reference, Tsp::new(Budget::Share(0.7)), (&prompt, 30));
}

#[test]
fn a_pyramid_that_prunes_nothing_is_dense() {
    let prompt = prompt(6, 150);
    let mut dense = session(&options(Full));
    let mut pyramid = session(&options(Pyramid::cosine(1.0, 1)));
    // As many tokens as come before the first block of generated rows is thinned.
    assert_eq!(answer(&mut dense, &prompt, 50), answer(&mut pyramid, &prompt, 50));
    let continuation = self::prompt(7, 20);
    let losses = |session: &mut Session| block_on(session.losses(&prompt, &continuation)).unwrap();
    assert_eq!(losses(&mut dense), losses(&mut pyramid));
}

#[test]
fn every_layer_interval_decodes() {
    for interval in [1, 2, 3] {
        let mut session = session(&options(Pyramid::cosine(0.5, interval)));
        let tokens = answer(&mut session, &prompt(8, 119), 140);
        assert_eq!(tokens.len(), 140);
        let rows = session.kv().rows_per_layer;
        assert!(rows[LAYERS - 1] < rows[0], "interval {interval}: {rows:?}");
    }
}

#[test]
fn the_prompt_survives_an_answer_ten_times_as_long() {
    let prompt = prompt(9, 70);
    let policy = Pyramid::preset(Preset::B7);
    let context = Some(10 * prompt.len() + prompt.len());
    let mut session = session(&SessionOptions { context, ..options(policy) });
    let tokens = answer(&mut session, &prompt, 10 * prompt.len());
    assert_eq!(tokens.len(), 700);
    for (layer, rows) in session.kv().rows_per_layer.into_iter().enumerate() {
        let found = block_on(session.positions(layer)).unwrap();
        let present = found[0].iter().take_while(|&&p| (p as usize) < prompt.len()).count();
        // The published rule's first block begins one row early, with the prompt's last one.
        assert!(present + 1 >= prompt.len(), "layer {layer} lost all but {present} rows of the prompt");
        assert!(rows < 760, "layer {layer} was hardly thinned: {rows}");
    }
}

#[test]
fn every_row_format_stays_close() {
    let (prefix, continuation) = (prompt(10, 83), prompt(11, 40));
    let mean = |losses: Vec<f32>| losses.iter().sum::<f32>() / losses.len() as f32;
    let run = |format| {
        let mut session = session(&options_in(Full, format));
        let loss = mean(block_on(session.losses(&prefix, &continuation)).unwrap());
        session.clear();
        assert_eq!(answer(&mut session, &prefix, 5).len(), 5);
        (loss, session.kv().bytes)
    };
    let (exact, most) = run(Format::F16);
    for k in KvBits::ALL {
        for v in KvBits::ALL {
            let (loss, bytes) = run(Format { k, v });
            let allowed = match k.bits().min(v.bits()) {
                16 | 8 => 0.05,
                4 => 0.3,
                _ => 0.6,
            };
            assert!((loss - exact).abs() < allowed, "K {k:?} V {v:?}: {loss}, in f16 {exact}");
            assert_eq!(bytes < most, (k, v) != (KvBits::Sixteen, KvBits::Sixteen), "K {k:?} V {v:?}");
        }
    }
}

#[test]
fn both_kernel_families_agree() {
    for policy in [Pyramid::cosine(0.3, 1), Pyramid::cosine(1.0, 1)] {
        let prompt = prompt(12, 90);
        let answers: Vec<_> = families()
            .into_iter()
            .map(|gpu| {
                let model = load(&gpu, &Tiny::new().file());
                assert_losses(&model, policy.clone(), 90);
                answer(&mut Session::new(&model, &options(policy.clone())).unwrap(), &prompt, 30)
            })
            .collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(answers[0].len(), 30);
    }
}

/// The device, once for each kernel family, and once more where it can multiply by packed dot products.
fn families() -> Vec<Gpu> {
    let base = Tuning { subgroups: false, planes: 0, ..gpu().tuning() };
    let dots = Tuning { family: Family::Groups, subgroups: true, planes: 2, ..base };
    let plain = [Family::Lanes, Family::Groups].map(|family| Tuning { family, ..base });
    let all = plain.into_iter().chain((base.subgroup_lanes >= 8).then_some(dots));
    all.map(|tuning| gpu().with_tuning(tuning)).collect()
}

#[test]
fn odd_shapes_equal_the_reference() {
    #[rustfmt::skip]
    let shapes = [
        Shape { width: 72, query: 3, kv: 3, dim: 24, ffn: 40 },
        Shape { width: 8, query: 1, kv: 1, dim: 8, ffn: 8 },
        Shape { width: 96, query: 7, kv: 1, dim: 80, ffn: 160 },
        Shape { width: 104, query: 10, kv: 5, dim: 40, ffn: 232 },
        Shape { width: 64, query: 2, kv: 1, dim: 256, ffn: 96 },
    ];
    for shape in shapes {
        let file = Tiny::shaped(shape).file();
        let reference = Reference::new(&file);
        for gpu in families() {
            let model = load(&gpu, &file);
            assert_losses_of(&model, &reference, Pyramid::exact(vec![50, 41, 31, 19], Select::Own, 9, 2), 53);
            // Decoding has kernels of its own.
            assert_answer(&model, &reference, Full, (&prompt(3, 9), 12));
        }
    }
}

#[test]
fn safetensors_and_gguf_are_the_same_model() {
    let theirs = load(&gpu(), &Tiny::new().safetensors());
    assert_eq!(theirs.config().vocab, vocab());
    let prompt = prompt(13, 45);
    let text = "<|im_start|>user\nThe pyramid, \u{e9}\u{20ac}!<|im_end|>\n";
    let encode = |model: &Model| model.text().encode(text, benben::text::Special::Parse).unwrap();
    assert_eq!(encode(&theirs), encode(&model()));
    let losses = |model: &Arc<Model>| {
        let mut session = Session::new(model, &options(Full)).unwrap();
        block_on(session.losses(&prompt, &self::prompt(14, 30))).unwrap()
    };
    let ours: Vec<f64> = losses(&model()).into_iter().map(f64::from).collect();
    assert!(worst(&losses(&theirs), &ours) < TOLERANCE);
}

#[test]
fn layers_share_rows_where_the_config_says_so() {
    let file = Tiny::new().sharing(2).safetensors();
    let (model, reference) = (load(&gpu(), &file), Reference::new(&file));
    assert_losses_of(&model, &reference, Full, 61);
    assert_losses_of(&model, &reference, Pyramid::with_budget(Budget::Share(0.5)), 190);
    assert_losses_of(&model, &reference, Joint::new(Budget::Share(0.4)), 190);
    assert_answer(&model, &reference, Full, (&prompt(4, 37), 12));
    // A thinning answer, and one that is given up: each group of layers has one set of rows.
    let mut session = Session::new(&model, &options(Pyramid::cosine(0.3, 1))).unwrap();
    assert_eq!(answer(&mut session, &prompt(5, 113), 90).len(), 90);
    let rows = session.kv().rows_per_layer;
    assert!(rows.len() == LAYERS / 2 && rows.iter().all(|&rows| rows < 202), "{rows:?}");
}

#[test]
fn greedy_answers_repeat() {
    let mut session = session(&options(Full));
    let first = answer(&mut session, &prompt(15, 30), 12);
    session.clear();
    session.append(&prompt(15, 30)).unwrap();
    assert_eq!(greedy(&mut session, 12), first);
}
