//! Layer profiles: measured on a tiny model, kept beside it, found again, and refused when they are not its own.

use crate::common::testbed;
use std::sync::Arc;

use crate::common::tiny::{LAYERS, Tiny, prompt};
use benben::kv::Profile;
use benben::kv::policy::{Budget, H2o, Joint, Policy};
use benben::model::Config;
use benben::weights::ModelFile;
use benben::{Error, KvOptions, Session, SessionOptions};
use pollster::block_on;

const WEIGHTS: [f32; LAYERS] = [0.5, 2.0, 0.8, 0.7];

/// A profile's file, for a model with this fingerprint.
fn profile(fingerprint: &str, weights: &str) -> Vec<u8> {
    let (model, measured) = ("tiny", "a test");
    format!(
        r#"{{"model": "{model}", "fingerprint": "{fingerprint}", "measured": "{measured}", "weights": {weights}}}"#
    )
    .into_bytes()
}

fn fingerprint(tiny: &Tiny) -> String {
    block_on(Config::read(&tiny.file())).unwrap().fingerprint
}

/// The shape of the tiny model with such a file beside it.
fn beside(json: Vec<u8>) -> Result<Config, Error> {
    block_on(Config::read(&Tiny::new().file().with_sidecar("profile.json", json)))
}

#[test]
fn a_fingerprint_is_the_models_and_not_the_files() {
    let tiny = Tiny::new();
    let mut tuned = Tiny::new();
    tuned.tensor("output_norm.weight").values[5] += 0.5;
    assert_eq!(fingerprint(&tiny), block_on(Config::read(&tiny.safetensors())).unwrap().fingerprint);
    assert_ne!(fingerprint(&tiny), fingerprint(&tuned));
    assert_eq!(block_on(Config::read(&tiny.file())).unwrap().profile, None, "nobody knows the tiny model");
}

#[test]
fn smollm2_has_a_profile_in_this_crate() {
    let Ok(path) = std::env::var("BENBEN_MODEL") else {
        eprintln!("SKIPPED: BENBEN_MODEL does not name a model file");
        return;
    };
    let config = block_on(Config::read(&ModelFile::open(path.as_ref()).expect("a model file"))).unwrap();
    if config.fingerprint != "6fdc990b713d2f09" {
        eprintln!("SKIPPED: {} is not SmolLM2-135M-Instruct", config.name);
        return;
    }
    let profile = config.profile.expect("a known profile");
    assert_eq!(profile.weights().len(), config.layers);
}

#[test]
fn rows_follow_the_profile_where_a_policy_asks_for_it() {
    let json = profile(&fingerprint(&Tiny::new()), &format!("{WEIGHTS:?}"));
    let file = Tiny::new().file().with_sidecar("profile.json", json);
    let model = testbed::load(&testbed::gpu(), &file);
    let rows = |policy: Arc<dyn Policy>| {
        let kv = KvOptions { policy, ..KvOptions::full() };
        let options = SessionOptions { kv, context: Some(700) };
        let mut session = Session::new(&model, &options).unwrap();
        session.append(&prompt(1, 600)).unwrap();
        block_on(session.logits()).unwrap();
        session.kv().rows_per_layer
    };
    // The last prompt token runs again for the head, so its row is not there yet.
    let kept = |n: [usize; LAYERS]| n.map(|n| n - 1).to_vec();
    assert_eq!(rows(Arc::new(Joint::new(Budget::Share(0.25)))), kept([75, 300, 120, 105]));
    assert_eq!(rows(Arc::new(H2o::new(Budget::Share(0.25)))), kept([150; LAYERS]));
    let exact = Joint::new(Budget::PerLayer(vec![100, 120, 140, 160]));
    assert_eq!(rows(Arc::new(exact)), kept([100, 120, 140, 160]));
    let auto = rows(KvOptions::auto(0.2).unwrap().policy);
    assert!(auto[0] < auto[3] && auto[3] < auto[2] && auto[2] < auto[1], "{auto:?}");
}

#[test]
fn a_profile_survives_its_file() {
    let gains = [0.04, 0.0001, -0.2, 0.01];
    let written = Profile::from_gains("tiny", "0123456789abcdef", "a test".to_owned(), &gains).unwrap();
    let weights = written.weights();
    assert!((weights.iter().sum::<f32>() - 4.0).abs() < 1e-5, "{weights:?}");
    // Roots 0.2, 0.01, 0 and 0.1 over their mean of 0.0775, of which none is below 0.5.
    let ratio = weights[0] / weights[3];
    assert!((ratio - 2.0).abs() < 1e-5 && weights[1] == weights[2], "{weights:?}");
    assert!((weights[0] / weights[1] - 0.2 / 0.0775 / 0.5).abs() < 1e-4, "{weights:?}");
    let read = Profile::from_json("test", written.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!((read.measured(), read.weights()), ("a test", weights));
    for nothing in [&[][..], &[0.0, -1.0], &[f64::NAN], &[f64::INFINITY, 1.0]] {
        let refused = Profile::from_gains("tiny", "", String::new(), nothing);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{nothing:?}: {refused:?}");
    }
}

#[test]
fn what_is_no_profile_of_this_model_is_one_sentence() {
    let own = fingerprint(&Tiny::new());
    assert!(beside(profile(&own, "[1, 2, 3, 4]")).unwrap().profile.is_some());
    let cases = [
        (b"".to_vec(), "no layer profile"),
        (b"[[[[".to_vec(), "no layer profile"),
        (vec![0xff; 99], "no layer profile"),
        (profile(&own, r#""many""#), "no layer profile"),
        (profile(&own, "[1, 2, 3, 1e400]"), "no layer profile"),
        (profile(&own, r#"[1, 2, 3, 4], "more": 1"#), "unknown field"),
        (profile(&own, "[]"), "0 layers"),
        (profile(&own, "[1, 2, 3]"), "3 layers"),
        (profile("0123456789abcdef", "[1, 2, 3, 4]"), "0123456789abcdef"),
        (profile(r"\u001b[2J", "[1, 2, 3, 4]"), "control characters"),
        (profile(&own, "[1, 2, 3, 0]"), "a weight of 0.0"),
        (profile(&own, "[1, 2, 3, -1]"), "a weight of -1.0"),
        (profile(&own, "[1, 2, 3, 1e30]"), "a weight of 1e30"),
    ];
    for (json, words) in cases {
        let shown = String::from_utf8_lossy(&json).into_owned();
        let message = beside(json).expect_err(&shown).to_string();
        assert!(
            message.contains(words) && message.contains("the layer profile beside"),
            "{shown}: {message}"
        );
        assert!(!message.contains(char::is_control), "{shown}: {message}");
    }
}

#[test]
fn three_prefills_measure_what_one_for_each_layer_would() {
    let model = testbed::model();
    let window = (prompt(7, 530), prompt(8, 70));
    let session =
        |kv: KvOptions| Session::new(&model, &SessionOptions { kv, context: Some(600) }).expect("a session");
    let reference = block_on(session(KvOptions::full()).reference(&window.0, &window.1)).unwrap();
    let divergence = |layer: usize, rows: usize| {
        let mut counts = vec![265; LAYERS];
        counts[layer] = rows;
        let policy = Arc::new(Joint::new(Budget::PerLayer(counts)));
        let mut session = session(KvOptions { policy, ..KvOptions::full() });
        // The prefill predicts the first token, before anything is dropped.
        let tokens = block_on(session.compare(&reference)).unwrap().tokens;
        tokens[1..].iter().map(|token| token.kl).sum::<f64>() / 69.0
    };
    let gains: Vec<f64> = (0..LAYERS).map(|l| divergence(l, 132) - divergence(l, 530)).collect();
    let wanted = Profile::from_gains("", "", String::new(), &gains).unwrap();
    let (mut steps, windows) = (Vec::new(), [window]);
    let measured = Profile::measure(&model, &windows, "a test".to_owned(), |done, total| {
        steps.push((done, total));
    });
    let found = block_on(measured).unwrap();
    assert!(wanted.weights().iter().any(|w| (w - 1.0).abs() > 0.2), "{wanted:?} says nothing");
    for (found, wanted) in found.weights().iter().zip(wanted.weights()) {
        assert!((found - wanted).abs() < 1e-3, "{found} and not {wanted}");
    }
    assert_eq!(steps, (0..=2 * LAYERS).map(|i| (i, 2 * LAYERS)).collect::<Vec<_>>());
}

#[test]
fn measuring_needs_windows_that_can_show_something() {
    let model = testbed::model();
    let refused = |windows: &[benben::engine::Window]| {
        let measured = block_on(Profile::measure(&model, windows, "a test".to_owned(), |_, _| ()));
        measured.expect_err("nothing to measure on").to_string()
    };
    assert!(refused(&[]).contains("not 0 and 0"));
    assert!(refused(&[(prompt(1, 511), prompt(2, 9))]).contains("not 511 and 9"));
    assert!(refused(&[(prompt(1, 512), prompt(2, 1))]).contains("not 512 and 1"));
}

#[cfg(feature = "cli")]
mod cli {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use super::*;

    fn benben(args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_benben"));
        // Without this variable Mesa complains on stderr, which the tests read.
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        command.args(args).output().expect("benben runs")
    }

    /// A directory of this test's own with the tiny model and a text in it.
    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("benben-profile-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("tiny.gguf"), Tiny::new().gguf()).unwrap();
        let text: String = (0..400).map(|i| format!("{} stones; ", i * i % 97)).collect();
        fs::write(directory.join("text.txt"), text).unwrap();
        directory
    }

    fn calibrate(directory: &Path, more: &[&str]) -> Output {
        let path = |name: &str| directory.join(name).to_str().expect("UTF-8").to_owned();
        let (model, text) = (path("tiny.gguf"), path("text.txt"));
        let args = ["calibrate", &model, "--text", &text, "--prefix", "512", "--continuation", "40"];
        benben(&[&args[..], more].concat())
    }

    #[test]
    fn calibrate_saves_what_info_finds() {
        let directory = directory("saves");
        let output = calibrate(&directory, &[]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(stdout.contains("2 x 512 + 40 tokens of text.txt") && stdout.contains('█'), "{stdout}");
        assert_eq!(stdout.lines().count(), 2 + LAYERS, "{stdout}");
        let model = directory.join("tiny.gguf");
        let info = benben(&["info", model.to_str().unwrap(), "--json"]).stdout;
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        let weights = info["layer_profile"]["weights"].as_array().expect("a profile");
        let weights: Vec<f64> = weights.iter().filter_map(serde_json::Value::as_f64).collect();
        assert!(weights.len() == LAYERS && (weights.iter().sum::<f64>() - 4.0).abs() < 1e-4, "{weights:?}");
        assert!(weights.iter().any(|w| (w - 1.0).abs() > 0.05), "{weights:?} says nothing");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_cannot_be_measured_or_saved_leaves_everything_as_it_was() {
        let directory = directory("refuses");
        let there = profile(&fingerprint(&Tiny::new()), "[1, 1, 1, 1]");
        fs::write(directory.join("tiny.profile.json"), &there).unwrap();
        let unwritable = directory.join("none/such.json");
        let cases = [
            (vec!["--start", "99999"], "text.txt has"),
            (vec!["--start", "18446744073709551615"], "text.txt has"),
            (vec!["--output", unwritable.to_str().unwrap()], "cannot write"),
        ];
        for (flags, words) in cases {
            let output = calibrate(&directory, &flags);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && output.stdout.is_empty(), "{flags:?}: {output:?}");
            assert!(stderr.lines().count() == 1 && stderr.contains(words), "{flags:?}: {stderr}");
        }
        assert_eq!(fs::read(directory.join("tiny.profile.json")).unwrap(), there);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3, "something was left over");
        fs::remove_dir_all(directory).unwrap();
    }
}
