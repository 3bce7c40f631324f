//! `benben eval kv` as a person meets it: what it refuses, what it reports, and how it goes on after an interruption.
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::program::{refuse, succeed, temporary};
use crate::common::tiny::Tiny;
use serde_json::Value;

/// Sizes at which a run takes seconds.
const SMALL: &str =
    "--windows 1 --prefix 96 --continuation 24 --trials 1 --multi-trials 1 --haystack 90 --contexts 70";

/// A text that is not the same everywhere.
fn text(lines: usize) -> String {
    let line = |i: usize| {
        format!(
            "On day {i} the {} crossed the river, and {} boats followed.\n",
            ["king", "cook", "fox"][i % 3],
            i * 7 % 31
        )
    };
    (0..lines).map(line).collect()
}

/// The tiny model as a file.
fn model(name: &str) -> PathBuf {
    let path = temporary(name, "");
    fs::write(&path, Tiny::new().gguf()).expect("the temporary directory can be written");
    path
}

fn eval<'a>(model: &'a str, text: &'a Path, out: &'a Path, flags: &'a str) -> Vec<&'a str> {
    let [text, out] = [text, out].map(|path| path.to_str().expect("UTF-8"));
    ["eval", "kv", model, "--text", text, "--out", out].into_iter().chain(flags.split_whitespace()).collect()
}

#[test]
fn what_cannot_be_measured_is_refused_in_a_sentence() {
    let file = temporary("plain.txt", &text(40));
    let out = file.with_extension("out");
    let missing = Path::new("no-such.txt");
    refuse(&["eval", "kv", "no-such.gguf", "--out", "x"], 2, "required");
    refuse(&eval("no-such.gguf", &file, &out, "--kv square"), 2, "invalid value 'square'");
    refuse(&eval("no-such.gguf", &file, &out, "--share 1.5"), 2, "above 0 and at most 1");
    refuse(&eval("no-such.gguf", &file, &out, "--bits few"), 2, "8/4");
    refuse(&eval("no-such.gguf", missing, &out, ""), 1, "cannot read no-such.txt");
    refuse(&eval("no-such.gguf", &file, &file.join("within"), ""), 1, "choose another --out");
    refuse(&eval("no-such.gguf", &file, &out, ""), 1, "cannot read no-such.gguf");
    let model = model("refused.gguf");
    let with_model =
        |flags: &str, words| refuse(&eval(model.to_str().expect("UTF-8"), &file, &out, flags), 1, words);
    with_model("", "windows of 2048 tokens need more");
    with_model("--windows 0 --haystack 9000", "windows of 9000 tokens need more");
    with_model("--windows 0 --trials 0 --multi-trials 0 --contexts 9000", "cannot be timed");
    with_model(&format!("{SMALL} --bits 5"), "rows of 5 bits");
    let _ = (fs::remove_file(file), fs::remove_file(model), fs::remove_dir_all(out));
}

#[test]
fn a_report_is_made_and_an_interrupted_run_goes_on() {
    let model_file = model("tiny.gguf");
    let model = model_file.to_str().expect("UTF-8");
    let file = temporary("days.txt", &text(60));
    let out = file.with_extension("out");
    let flags = format!("{SMALL} --kv joint --share 0.2 --split tuned");
    let table = succeed(&eval(model, &file, &out, &flags), "");
    assert!(table.contains("joint 20 % 4-bit") && table.contains("report.html"), "{table}");

    let read = |name: &str| fs::read_to_string(out.join(name)).expect("it was written");
    let report: Value = serde_json::from_str(&read("report.json")).expect("JSON");
    let [full, joint] = report["rows"].as_array().expect("a list").as_slice() else { panic!("{report}") };
    let text = |row: &Value, key: &str| row["quality"][0][1]["text"][key].as_f64().expect("a number");
    assert_eq!((text(full, "ratio"), text(full, "kl"), text(full, "agrees")), (1.0, 0.0, 1.0));
    assert!(text(joint, "kl") > 0.0 && text(joint, "ratio") != 1.0, "{joint}");
    let share = joint["kv_share"].as_f64().expect("a number");
    // The first tokens in 8 bits and the centre of the keys weigh in so short a prompt.
    assert!((0.17..=0.23).contains(&share), "{share}");
    assert!(joint["rows_per_layer"][0].as_u64() < full["rows_per_layer"][0].as_u64());
    assert!(joint["speed"][0]["pool_bytes"].as_u64() < full["speed"][0]["pool_bytes"].as_u64());
    assert!(read("report.md").contains("## Quality, tuned (1 windows)"));
    assert!(read("report.html").ends_with("</html>"), "the page is whole");

    // The last line is cut, as if the machine had stopped: that cell alone is measured again.
    let cells = read("cells.jsonl");
    fs::write(out.join("cells.jsonl"), &cells[..cells.len() - 20]).expect("it can be written");
    succeed(&eval(model, &file, &out, &flags), "");
    let again = read("cells.jsonl");
    let (lines, new): (Vec<_>, Vec<_>) = (cells.lines().collect(), again.lines().collect());
    assert_eq!(lines.len(), new.len());
    assert_eq!(lines[..lines.len() - 1], new[..new.len() - 1], "finished cells stay");
    // A wider question keeps every answer.
    succeed(&eval(model, &file, &out, &format!("{flags} --share 0.12")), "");
    assert!(read("cells.jsonl").starts_with(&again));
    let _ = (fs::remove_file(file), fs::remove_file(model_file), fs::remove_dir_all(out));
}
