//! The program `benben`, run as a person runs it.
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// `benben` with these arguments, all its streams piped.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_benben"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Without this variable Mesa complains on stderr, which the tests read.
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    // What a user's runs found out about the device is not what a test depends on.
    command.env("BENBEN_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command
}

/// Runs `benben` with `input` on stdin.
pub fn benben(args: &[&str], input: &str) -> Output {
    let mut child = command(args).spawn().expect("benben starts");
    // A program that refuses its flags may end before it reads.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("benben ends")
}

/// Runs a command that must succeed; returns its stdout.
pub fn succeed(args: &[&str], input: &str) -> String {
    let output = benben(args, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "benben {args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// Runs a command that must print one JSON object and nothing else.
pub fn json(args: &[&str]) -> Value {
    let stdout = succeed(args, "");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("benben {args:?}: {error} in {stdout}"))
}

/// Runs a command that must fail with `status` and a first line on stderr that contains `words`.
pub fn refuse(args: &[&str], status: i32, words: &str) {
    let output = benben(args, "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "benben {args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "benben {args:?} printed on stdout");
    assert!(!stderr.contains("panicked"), "benben {args:?}: {stderr}");
    let first = stderr.lines().next().unwrap_or_default();
    assert!(first.contains(words), "benben {args:?}: '{words}' is not in '{first}'");
    // Clap adds its own hints after the sentence; an error of benben's is the sentence alone.
    assert!(status == 2 || (stderr.lines().count() == 1 && first.starts_with("benben: ")), "{stderr}");
}

/// The model of the tests that need one.
pub fn model() -> Option<String> {
    let model = std::env::var("BENBEN_MODEL").ok();
    if model.is_none() {
        eprintln!("SKIPPED: BENBEN_MODEL does not name a model file");
    }
    model
}

pub fn temporary(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("benben-cli-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("the temporary directory can be written");
    path
}
