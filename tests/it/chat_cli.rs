//! `benben chat` as a person meets it: what it saves, when, and what it leaves alone.
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use crate::common::program::{benben, command, refuse, temporary};
use crate::common::tiny::Tiny;

/// A folder with the tiny model in it.
fn folder(name: &str) -> (PathBuf, String) {
    let path = std::env::temp_dir().join(format!("benben-chat-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the temporary directory can be written");
    let model = path.join("model.gguf");
    fs::write(&model, Tiny::new().gguf()).expect("the temporary directory can be written");
    let model = model.to_str().expect("UTF-8").to_owned();
    (path, model)
}

fn chat<'a>(model: &'a str, save: &'a Path) -> [&'a str; 6] {
    ["chat", model, "--max-tokens", "3", "--save", save.to_str().expect("UTF-8")]
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Says a line and waits until the answer to it begins.
fn ask(child: &mut Child, line: &str) {
    child.stdin.as_mut().expect("stdin is piped").write_all(line.as_bytes()).expect("benben reads");
    let mut beginning = [0];
    child.stdout.as_mut().expect("stdout is piped").read_exact(&mut beginning).expect("an answer begins");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill runs");
}

fn resumed(model: &str, path: &Path) -> Output {
    benben(&["chat", model, "--max-tokens", "3", "--resume", path.to_str().expect("UTF-8")], "and then\n")
}

#[test]
fn what_cannot_be_saved_is_refused_before_the_first_answer() {
    let (folder, model) = folder("refused");
    fs::create_dir(folder.join("sub")).expect("a folder");
    let before = names(&folder);
    refuse(&chat(&model, &folder.join("sub")), 1, "it is a folder");
    refuse(&chat(&model, &folder.join("no/such")), 1, "there is no folder");
    refuse(&chat(&model, Path::new("/dev/null")), 1, "no plain file");
    refuse(&chat(&model, Path::new(&model)), 1, "not a conversation of benben's");
    assert_eq!(names(&folder), before, "nothing is left behind");
    let notes = temporary("notes.txt", "notes that exist only here");
    refuse(&chat(&model, &notes), 1, "choose another name");
    assert_eq!(fs::read_to_string(&notes).expect("they are there"), "notes that exist only here");
    let _ = fs::remove_file(notes);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn a_conversation_is_saved_over_an_older_one_and_goes_on() {
    let (folder, model) = folder("saved");
    let path = folder.join("talk");
    for turns in ["hello\n", "hello\nagain\n"] {
        let output = benben(&chat(&model, &path), turns);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(names(&folder), ["model.gguf", "talk"]);
    assert!(resumed(&model, &path).status.success());
    // A second chat may not save to the same place, and /save may.
    let mut first = command(&chat(&model, &path)).spawn().expect("benben starts");
    ask(&mut first, "hello\n");
    refuse(&chat(&model, &path), 1, "another program writes it");
    let there = format!("/save {}\n/save {}\n", path.display(), folder.join("other").display());
    first.stdin.take().expect("stdin is piped").write_all(there.as_bytes()).expect("benben reads");
    let output = first.wait_with_output().expect("benben ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(names(&folder), ["model.gguf", "other", "talk"]);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn an_interrupted_measurement_leaves_nothing_behind() {
    let (folder, _) = folder("interrupted");
    let json = format!("--json={}", folder.join("report").display());
    let mut child =
        command(&["bench", "--synthetic", "tiny", "--runs", "100000", &json]).spawn().expect("benben starts");
    while names(&folder).len() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    signal(&child, "-INT");
    assert!(!child.wait().expect("benben ends").success());
    assert_eq!(names(&folder), ["model.gguf"]);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn signals_save_the_conversation() {
    let (folder, model) = folder("signals");
    for (name, tokens) in [("-INT", "3"), ("-TERM", "3"), ("-TERM", "2000"), ("-HUP", "3")] {
        let path = folder.join(format!("talk{name}{tokens}"));
        let mut flags = chat(&model, &path);
        flags[3] = tokens;
        let mut child = command(&flags).spawn().expect("benben starts");
        ask(&mut child, "hello\n");
        if tokens == "3" {
            // Until it is over: no answer is under way then.
            let mut rest = vec![0; 2];
            let stdout = child.stdout.as_mut().expect("stdout is piped");
            while !rest.ends_with(b"\n") {
                rest.push(0);
                let end = rest.len() - 1;
                stdout.read_exact(&mut rest[end..]).expect("the answer goes on");
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        signal(&child, name);
        // Its stdin stays open: the signal alone ends it.
        let stdin = child.stdin.take();
        let output = child.wait_with_output().expect("benben ends");
        drop(stdin);
        assert!(output.status.success(), "{name}: {output:?}");
        let resumed = resumed(&model, &path);
        assert!(resumed.status.success(), "{name}: {}", String::from_utf8_lossy(&resumed.stderr));
    }
    let _ = fs::remove_dir_all(folder);
}
