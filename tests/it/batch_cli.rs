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
    let first = answers(&out);
    assert!(first[0]["text"].is_string() && first[2]["text"].is_string());
    assert!(first[1]["error"].as_str().is_some_and(|error| error.contains("the context holds 40")));

    // It is tried again, and again in vain; with room for it, it takes its place among the others.
    let again = benben(&batch(&model, &file, &out, "--max-tokens 4 --context 40"), "");
    assert_eq!((again.status.code(), answers(&out)), (Some(1), first.clone()));
    let roomy = benben(&batch(&model, &file, &out, "--max-tokens 4"), "");
    let stderr = String::from_utf8_lossy(&roomy.stderr);
    assert!(roomy.status.success() && stderr.contains("1 answers"), "{stderr}");
    let last = answers(&out);
    assert_eq!((last.len(), &last[0], &last[2]), (3, &first[0], &first[2]));
    assert!(last[1]["prompt"] == *long && last[1]["text"].is_string() && last[1].get("error").is_none());
    for path in [model, file, out] {
        let _ = fs::remove_file(path);
    }
}

#[test]
fn nobody_elses_file_is_written_over() {
    let model = model("batch-own.gguf");
    let file = temporary("own-prompts.jsonl", &lines(&["a", "b"]));
    for theirs in [
        "{\"important\": \"notes that exist only here\"}",
        "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n",
        "{\"prompt\":\"a\",\"text\":\"x\",\"tokens\":[1]}\n{\"prompt\":\"c\"",
        "\n\nnotes",
    ] {
        let out = temporary("own-answers.jsonl", theirs);
        refuse(&batch(&model, &file, &out, ""), 1, "choose another --out");
        assert_eq!(fs::read_to_string(&out).unwrap(), theirs);
    }
    refuse(&batch(&model, &file, &file, ""), 1, "choose another --out");
    refuse(&batch(&model, &file, &std::env::temp_dir(), ""), 1, "cannot write");
    let locked = temporary("own-answers.jsonl", "");
    let other = fs::OpenOptions::new().write(true).open(&locked).unwrap();
    other.lock().unwrap();
    refuse(&batch(&model, &file, &locked, ""), 1, "another program writes it");
    for path in [model, file, locked] {
        let _ = fs::remove_file(path);
    }
}

#[test]
fn equal_prompts_draw_different_answers_and_the_same_in_every_run() {
    let model = model("batch-seeds.gguf");
    let file = temporary("seeds.jsonl", &format!("\u{feff}{}", lines(&["Tell me"; 4])));
    let run = |name: &str, flags: &str| {
        let out = temporary(name, "");
        let flags = format!("--max-tokens 6 --temperature 2 --seed 7 {flags}");
        let output = benben(&batch(&model, &file, &out, &flags), "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: Vec<Value> = answers(&out).iter().map(|answer| answer["tokens"].clone()).collect();
        let _ = fs::remove_file(out);
        found
    };
    let first = run("seeds-1.jsonl", "");
    assert!((1..4).all(|i| !first[..i].contains(&first[i])), "{first:?}");
    assert_eq!(run("seeds-2.jsonl", "--max-sequences 1"), first);
    for path in [model, file] {
        let _ = fs::remove_file(path);
    }
}

#[test]
fn fields_that_are_not_read_are_told() {
    let model = model("batch-fields.gguf");
    let file = temporary("fields.jsonl", "{\"prompt\": \"a\", \"system\": \"Be brief.\"}\n");
    let out = temporary("fields-answers.jsonl", "");
    let output = benben(&batch(&model, &file, &out, "--max-tokens 2"), "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.contains("only \"prompt\" is read, and not system"),
        "{stderr}"
    );
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
