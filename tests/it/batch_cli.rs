//! `benben batch` as a person meets it: what it refuses, what it writes, and how it goes on after an interruption.
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::program::{benben, refuse, temporary};
use crate::common::tiny::Tiny;
use serde_json::{Value, json};

/// The tiny model as a file.
fn model(name: &str) -> PathBuf {
    let path = temporary(name, "");
    fs::write(&path, Tiny::new().gguf()).expect("the temporary directory can be written");
    path
}

fn lines(prompts: &[&str]) -> String {
    prompts.iter().map(|prompt| json!({ "prompt": prompt }).to_string() + "\n").collect()
}

fn batch<'a>(model: &'a Path, prompts: &'a Path, out: &'a Path, flags: &'a str) -> Vec<&'a str> {
    let [model, prompts, out] = [model, prompts, out].map(|path| path.to_str().expect("UTF-8"));
    ["batch", model, prompts, "--raw", "-o", out].into_iter().chain(flags.split_whitespace()).collect()
}

fn answers(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out).expect("answers");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn answers_come_in_order_and_an_interruption_loses_none() {
    let model = model("batch.gguf");
    let texts: Vec<String> = (0..9).map(|i| "the fox and ".repeat(1 + i * 5 % 7)).collect();
    let prompts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (file, out) = (temporary("prompts.jsonl", &lines(&prompts)), temporary("answers.jsonl", ""));
    let run = |flags| {
        let output = benben(&batch(&model, &file, &out, flags), "");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && output.stdout.is_empty(), "{stderr}");
        stderr
    };
    assert!(run("--max-tokens 8 --max-sequences 3").contains("9 answers"));
    let whole = fs::read_to_string(&out).unwrap();
    for (answer, prompt) in answers(&out).iter().zip(&prompts) {
        assert_eq!(answer["prompt"], *prompt);
        assert!(answer["text"].is_string() && answer["tokens"].as_array().is_some_and(|t| t.len() <= 8));
    }
    // Cut amid the sixth line, as a power failure would; other numbers of sequences change nothing.
    let sixth = whole.match_indices('\n').nth(4).unwrap().0 + 7;
    fs::write(&out, &whole[..sixth]).unwrap();
    assert!(run("--max-tokens 8 --max-sequences 2 --step-tokens 16").contains("4 answers"));
    assert_eq!(fs::read_to_string(&out).unwrap(), whole);
    assert!(run("--max-tokens 8").contains("all 9 answers are in"));
    assert_eq!(fs::read_to_string(&out).unwrap(), whole);

    // The answers to other prompts are nobody's to overwrite.
    let others = temporary("others.jsonl", &lines(&["something else"]));
    refuse(&batch(&model, &others, &out, ""), 1, "line 1 of");
    assert_eq!(fs::read_to_string(&out).unwrap(), whole);
    for path in [model, file, out, others] {
        let _ = fs::remove_file(path);
    }
}

#[test]
fn a_prompt_that_cannot_be_answered_says_why_and_stops_nobody() {
    let model = model("batch-long.gguf");
    let long = "the fox and ".repeat(60);
    let file = temporary("long.jsonl", &lines(&["one", &long, "two"]));
    let out = temporary("long-answers.jsonl", "");
    let output = benben(&batch(&model, &file, &out, "--max-tokens 4 --context 40"), "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("1 of 3 prompts could not be answered"), "{stderr}");
    let answers = answers(&out);
    assert!(answers[0]["text"].is_string() && answers[2]["text"].is_string());
    assert!(answers[1]["error"].as_str().is_some_and(|error| error.contains("the context holds 40")));
    for path in [model, file, out] {
        let _ = fs::remove_file(path);
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let none = Path::new("no-such.gguf");
    let (out, broken) =
        (temporary("none.jsonl", ""), temporary("broken.jsonl", "{\"prompt\": \"a\"}\n{\"text\": 1}\n"));
    let empty = temporary("empty.jsonl", "\n");
    refuse(&batch(none, Path::new("no-such.jsonl"), &out, ""), 1, "cannot read no-such.jsonl");
    refuse(&batch(none, &broken, &out, ""), 1, "line 2 is not a JSON object with a \"prompt\"");
    refuse(&batch(none, &empty, &out, ""), 1, "has no prompt");
    refuse(&batch(none, &broken, &out, "--max-sequences 0"), 2, "from 1");
    let sound = temporary("sound.jsonl", &lines(&["a"]));
    refuse(
        &batch(none, &sound, Path::new("/no/such/folder/out.jsonl"), ""),
        1,
        "cannot write /no/such/folder",
    );
    refuse(&batch(none, &sound, &out, ""), 1, "cannot read no-such.gguf");
    for path in [out, broken, empty, sound] {
        let _ = fs::remove_file(path);
    }
}
