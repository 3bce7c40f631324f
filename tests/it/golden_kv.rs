//! Compressed caches: which rows live in which layer, against PyTorch and against the published formula; what
//! they cost; and what a warm decode step makes anew, which is nothing.

use crate::common::device;
use std::collections::BTreeSet;
use std::f64::consts::PI;

use crate::common::files::{golden_arrays, golden_json, max_error, note, skipped, u32s};
use benben::gpu::{Family, Tuning};
use benben::kv::policy::{Full, Policy, Preset, Pyramid, Select};
use benben::kv::{Format, policy::Budget};
use benben::{GenerateOptions, KvBits};
use pollster::block_on;
use serde_json::Value;

/// Logits over the golden rows themselves. Measured: 3.3e-5.
const LOGITS: f32 = 1e-4;

fn counts(list: &Value) -> Vec<usize> {
    u32s(list).into_iter().map(|n| n as usize).collect()
}

/// A golden case as a policy, or the parameters that benben has not.
fn replay(case: &Value) -> Result<Pyramid, Vec<&'static str>> {
    let params = &case["params"];
    let beyond: Vec<_> =
        ["pool", "heads", "hidden_from"].into_iter().filter(|key| !params[key].is_null()).collect();
    if !beyond.is_empty() {
        return Err(beyond);
    }
    let select = if params["select"] == "prev" { Select::Previous } else { Select::Own };
    let size = |key: &str| params[key].as_u64().expect("a count") as usize;
    Ok(Pyramid::exact(counts(&case["keep"]), select, size("recent"), size("sinks")))
}

#[test]
fn replayed_pyramids_keep_the_golden_rows() {
    let (Some(model), Some(golden), Some(prompts), Some(arrays)) = (
        device::model(),
        golden_json("pyramid.json"),
        golden_json("prompts_greedy.json"),
        golden_arrays("pyramid.safetensors"),
    ) else {
        return;
    };
    let mut replayed = String::new();
    for case in golden["cases"].as_array().expect("cases") {
        let tag = case["tag"].as_str().expect("a tag");
        let policy = match replay(case) {
            Ok(policy) => policy,
            Err(beyond) => {
                skipped(&format!("pyramid case {tag} has {beyond:?}, which benben's pyramid has not"));
                continue;
            }
        };
        let mut session = device::session(&model, policy, Format::F16);
        let prompt = case["prompt"].as_u64().expect("a number") as usize;
        session.append(&u32s(&prompts["prompts"][prompt]["ids"])).expect("the prompt fits");
        let logits = block_on(session.logits()).expect("logits");
        // The answer's first step puts the row of the last token, which was still pending, back into every layer.
        device::greedy(&mut session, 1);

        let rows = session.kv().rows_per_layer;
        assert_eq!(rows, counts(&case["cached_per_layer"]), "case {tag}");
        let mut strangers = 0;
        for (layer, rows) in rows.into_iter().enumerate() {
            let golden = BTreeSet::from_iter(arrays.u32s(&format!("{tag}.l{layer}.cache_pos")));
            let found = block_on(session.positions(layer)).expect("positions");
            assert_eq!((found.len(), found[0].len()), (1, rows), "case {tag}, layer {layer}");
            assert!(found[0].is_sorted_by(|a, b| a < b), "case {tag}, layer {layer}: not in order");
            let shared = found[0].iter().filter(|position| golden.contains(position)).count();
            assert!(shared * 100 >= rows * 98, "case {tag}, layer {layer}: {shared} of {rows} rows");
            strangers += rows - shared;
        }
        if strangers == 0 {
            let top = arrays.u32s(&format!("{tag}.top32_ids"));
            let found: Vec<f32> = top.iter().map(|&id| logits[id as usize]).collect();
            let error = max_error(&found, &arrays.f32s(&format!("{tag}.top32_logits")));
            assert!(error <= LOGITS, "case {tag}: the best 32 logits are off by {error}");
        } else {
            // Scores at the cut lie as close as 1e-8, so devices may part; other rows, other logits.
            note(&format!("case {tag}: {strangers} other rows than PyTorch, logits not compared"));
        }
        replayed.push_str(tag);
    }
    assert_eq!(replayed, "ABCD");
}

/// Rows that enter each layer under PyramidInfer's published rule with its ratio's limit at `least`.
fn published(rows: usize, layers: usize, least: f64) -> Vec<usize> {
    let protected = 1 + rows / 5;
    let mut now = rows;
    let mut entering = Vec::new();
    for layer in 0..layers {
        entering.push(now);
        let ratio = least + (1.0 - least) * (1.0 + (PI * layer as f64 / layers as f64).cos()) / 2.0;
        let kept = ((now - protected) as f64 * ratio) as usize;
        if kept > 64 {
            now = kept + protected;
        }
    }
    entering
}

#[test]
fn a_preset_keeps_the_published_rows_in_a_quarter_of_the_bytes() {
    let (Some(model), Some(prompts)) = (device::model(), golden_json("prompts_greedy.json")) else { return };
    let four = Format { k: KvBits::Four, v: KvBits::Four };
    let mut session = device::session(&model, Pyramid::preset(Preset::B7), four);
    session.append(&u32s(&prompts["prompts"][5]["ids"])[..512]).expect("the prompt fits");
    device::greedy(&mut session, 1);
    let report = session.kv();
    let wanted = published(512, 30, 0.9);
    assert_eq!(report.rows_per_layer, wanted);
    assert!(wanted[2] < 512 && wanted[29] < 256, "{wanted:?}");
    assert_eq!(report.bytes_full_f16, 512 * 23_040);
    assert!(report.bytes * 4 < report.bytes_full_f16, "{report:?}");
    assert!(report.bytes > 0);
    // What lives is what the report counts, sinks and recent rows first of all.
    let tip = block_on(session.positions(29)).expect("positions").remove(0);
    assert_eq!(tip.len(), wanted[29]);
    assert_eq!(tip[..4], [0, 1, 2, 3]);
    assert!(tip.ends_with(&(512 - 103..512).collect::<Vec<_>>()), "{tip:?}");
    assert!(block_on(session.positions(30)).is_err(), "there are 30 layers");
}

/// Runs an answer and checks that nothing but dispatches is made between its tokens `from` and `to`. Returns the rows per
/// layer and the dispatches of a token, less those that merge the parts of attention.
fn creates_nothing(policy: impl Policy + 'static, from: usize, to: usize) -> (Vec<usize>, u64) {
    let Some(model) = device::model() else { return Default::default() };
    let mut session = device::session(&model, policy, Format::F16);
    session.append(&Vec::from_iter(100..133)).expect("the prompt fits");
    // Steps run ahead of their tokens; what is left at `to` keeps the steps between the two as many as the tokens.
    let options =
        GenerateOptions { max_tokens: to + 8, stop: Some(Vec::new()), ..GenerateOptions::default() };
    let mut answer = session.generate(&options).expect("a prompt");
    let mut seen = Vec::new();
    for _ in 0..to {
        block_on(answer.next()).expect("more tokens").expect("a token");
        seen.push(model.gpu().counters());
    }
    let (before, after) = (seen[from - 1], seen[to - 1]);
    let made = [
        after.buffers - before.buffers,
        after.bind_groups - before.bind_groups,
        after.pipelines - before.pipelines,
    ];
    assert_eq!(made, [0; 3], "buffers, bind groups and pipelines");
    assert_eq!(after.pipelines, seen[1].pipelines, "everything is compiled before the second token");
    // Few rows are one part, which the lanes of a workgroup join where they have subgroups.
    let Tuning { family, subgroups, .. } = model.gpu().tuning();
    let merges = if family == Family::Lanes && subgroups { 0 } else { 30 };
    let dispatches = (after.dispatches - before.dispatches) / (to - from) as u64;
    (answer.session().kv().rows_per_layer, dispatches - merges)
}

#[test]
fn a_warm_step_creates_nothing() {
    let (rows, dispatches) = creates_nothing(Full, 2, 8);
    if rows.is_empty() {
        return;
    }
    assert!(rows.iter().all(|&n| n == rows[0]), "{rows:?}");
    assert!((30 * 6..=30 * 6 + 4).contains(&dispatches), "{dispatches} dispatches for a token");

    // The first block is thinned at the 28th token and the second one 20 later; the first one makes bind groups.
    let (rows, dispatches) = creates_nothing(Pyramid::with_budget(Budget::Share(0.8)), 30, 54);
    assert!(rows[29] + 2 * 12 < rows[0], "two blocks are thinned: {rows:?}");
    assert!((30 * 7..=30 * 7 + 6).contains(&dispatches), "{dispatches} dispatches for a token");
}
