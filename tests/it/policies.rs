//! The policies that evict after a dense prefill, on the real model: what they cost in loss, and that they differ.
//!
//! Which rows they keep is compared with an independent decoder on a tiny model, in `tiny.rs`.

use crate::common::device;
use std::sync::Arc;

use crate::common::files::{golden_text, note};
use benben::kv::KvOptions;
use benben::kv::policy::{Budget, Expected, Full, H2o, Joint, Policy, PyramidKv, SnapKv, Streaming, Tova};
use benben::text::Special;
use benben::{Session, SessionOptions};
use pollster::block_on;

/// A prefix of this many tokens is compressed, and the loss of as many after it measured.
const PREFIX: usize = 512;
const CONTINUATION: usize = 128;

#[test]
fn half_of_the_rows_carry_the_loss() {
    let (Some(model), Some(text)) = (device::model(), golden_text("text/alice.txt")) else { return };
    let ids = model.text().encode(&text, Special::AsText).expect("encodes");
    let (prefix, rest) = ids[2048..].split_at(PREFIX);
    let budget = || Budget::Share(0.5);
    let policies: [Arc<dyn Policy>; 9] = [
        Arc::new(Full),
        Arc::new(Streaming::new(budget())),
        Arc::new(Tova::new(budget())),
        Arc::new(H2o::new(budget())),
        Arc::new(SnapKv::new(budget())),
        Arc::new(PyramidKv::new(budget())),
        Arc::new(Joint::new(budget())),
        Arc::new(Expected::new(budget())),
        Arc::new(Joint::new(budget()).with_expected()),
    ];
    let run = |policy: &Arc<dyn Policy>| {
        let kv = KvOptions { policy: policy.clone(), ..KvOptions::full() };
        let context = Some(PREFIX + CONTINUATION + 8);
        let mut session = Session::new(&model, &SessionOptions { kv, context }).expect("a session");
        let losses = block_on(session.losses(prefix, &rest[..CONTINUATION])).expect("losses");
        let report = session.kv();
        let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        (mean, report.bytes as f64 / report.bytes_full_f16 as f64)
    };
    let (full, _) = run(&policies[0]);
    let mut found = vec![full];
    for policy in &policies[1..] {
        let (loss, share) = run(policy);
        note(&format!("{:<14} half of the rows: {:.4} of the full cache's loss", policy.name(), loss / full));
        assert!((loss / full - 1.0).abs() < 0.1, "{policy:?}: {loss}, full {full}");
        // Half of the prefix, up to half a row a layer that PyramidKV's rounding adds, and all of the rest.
        let expected = (0.5 * PREFIX as f64 + CONTINUATION as f64) / (PREFIX + CONTINUATION) as f64;
        assert!((share - expected).abs() < 0.015, "{policy:?}: {share} of the bytes, not {expected}");
        assert!(!found.contains(&loss), "{policy:?} kept what another policy keeps");
        found.push(loss);
    }
}
