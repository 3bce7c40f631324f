//! The program as a person meets it: what it refuses and how, and what its commands print.
use std::io::{Read, Write};
use std::process::Command;

use crate::common::program::{benben, command, json, model, refuse, succeed, temporary};

#[test]
fn absurd_flags_are_usage_errors() {
    let cases = [
        ("--keep 0", "above 0 and at most 1"),
        ("--keep 2", "above 0 and at most 1"),
        ("--keep NaN", "above 0 and at most 1"),
        ("--rows 0", "from 1"),
        ("--top-p 0", "above 0 and at most 1"),
        ("--min-p 1.5", "from 0 to 1"),
        ("--temperature -1", "from 0 to 100"),
        ("--temperature nan", "from 0 to 100"),
        ("--repetition-penalty 0", "above 0"),
        ("--top-k -1", "--top-k"),
        ("--k-bits 5", "16, 8, 4, 3 or 2"),
        ("--kv-bits 1", "16, 8, 4, 3 or 2"),
        ("--max-tokens 0", "from 1"),
        ("--context 99999999999999999999", "from 1"),
        ("--memory lots", "number of bytes"),
        ("--kv square", "--kv"),
        ("--preset 3b", "--preset"),
        ("--preset 7b --keep 0.5", "--keep"),
        ("--rows 9 --keep 0.5", "--keep"),
        ("--weights q2", "--weights"),
        ("--raw --system x", "--system"),
        ("--no-such-flag", "--no-such-flag"),
    ];
    for (flags, words) in cases {
        let args: Vec<&str> =
            ["run", "no-such.gguf", "-p", "Hi"].into_iter().chain(flags.split(' ')).collect();
        refuse(&args, 2, words);
    }
    refuse(&[], 2, "");
    refuse(&["run", "no-such.gguf"], 2, "required");
    refuse(&["bench"], 2, "required");
}

#[test]
fn contradictions_and_missing_files_are_one_sentence() {
    let run = |flags: &[&'static str]| [&["run", "no-such.gguf"], flags].concat();
    refuse(&run(&["-p", ""]), 1, "the prompt is empty");
    refuse(&run(&["-p", "-"]), 1, "the prompt is empty");
    refuse(&run(&["-f", "no-such.txt"]), 1, "cannot read no-such.txt");
    refuse(&run(&["-p", "Hi"]), 1, "cannot read no-such.gguf");
    refuse(&run(&["-p", "Hi", "--keep", "0.5"]), 1, "needs the policy pyramid");
    refuse(&run(&["-p", "Hi", "--kv", "tsp", "--preset", "7b"]), 1, "--preset needs the policy pyramid");
    refuse(&run(&["-p", "Hi", "--per-head"]), 1, "--per-head needs the policy kv-only");
    refuse(&["info", "no-such.gguf"], 1, "cannot read no-such.gguf");
    refuse(&["chat", "no-such.gguf"], 1, "cannot read no-such.gguf");
    refuse(&["bench", "no-such.gguf"], 1, "cannot read no-such.gguf");
    refuse(&["bench", "--synthetic", "huge"], 1, "no synthetic model 'huge'");
    refuse(&["eval", "ppl", "no-such.gguf", "no-such.txt"], 1, "cannot read no-such.txt");
    let damaged = temporary("damaged.gguf", "GGUF and nothing more");
    refuse(&["info", damaged.to_str().expect("UTF-8")], 1, "damaged or not supported");
    let _ = std::fs::remove_file(damaged);
}

#[test]
fn doctor_tunes_the_device_and_finds_every_kernel_right() {
    let folder = std::env::temp_dir().join(format!("benben-cli-{}-cache", std::process::id()));
    let output = command(&["doctor", "--tune", "--json"]).env("BENBEN_CACHE", &folder).output();
    let output = output.expect("benben runs");
    let kept = std::fs::read_dir(&folder).map_or(0, |files| {
        files
            .filter(|file| file.as_ref().is_ok_and(|f| f.path().extension() == Some("json".as_ref())))
            .count()
    });
    let _ = std::fs::remove_dir_all(folder);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((&report["tuning"]["source"], kept), (&"measured".into(), 1), "{report}");
    assert_eq!(report["passed"], true, "{report}");
    assert!(report["checks"].as_array().is_some_and(|checks| checks.len() > 20), "{report}");
    for rate in
        ["read_gb_per_second", "copy_gb_per_second", "multiply_gflop_per_second", "matvec_gb_per_second"]
    {
        assert!(report[rate].as_f64() > Some(0.0), "{rate} of {report}");
    }
    assert!(report["adapters"][0]["max_buffer_size"].as_u64() > Some(0));
}

#[test]
fn an_unknown_adapter_is_refused() {
    let output = benben(&["doctor", "--json", "--adapter", "abacus"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("benben: no GPU adapter named 'abacus'; found: ")
    );
}

#[test]
fn bench_measures_a_synthetic_model() {
    let flags =
        "bench --synthetic tiny --prompt-tokens 96 --max-tokens 6 --runs 2 --kv pyramid --keep 0.5 --json";
    let report = json(&flags.split(' ').collect::<Vec<_>>());
    for field in [
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "time_to_first_token_seconds",
        "read_gb_per_second",
        "copy_gb_per_second",
        "weight_gb_per_second",
        "weight_share_of_memory",
        "dispatches_per_token",
        "barriers_per_token",
        "kv_bytes",
        "peak_bytes",
    ] {
        assert!(report[field].as_f64() > Some(0.0), "{field} of {report}");
    }
    assert!(report["kv_bytes"].as_u64() < report["kv_bytes_full_f16"].as_u64(), "{report}");
    assert_eq!(report["kv"], "pyramid");
}

#[test]
fn a_suite_compares_batches_with_single_sequences() {
    let page = std::env::temp_dir().join(format!("benben-suite-{}.html", std::process::id()));
    let suite = "bench --synthetic tiny --suite share --batches 1,3 --prompts 600 --answer 40 --step-tokens 9999 \
                 --json --html";
    let html = page.to_str().expect("a path in UTF-8");
    let report = json(&suite.split_whitespace().chain([html]).collect::<Vec<_>>());
    let cells = report["cells"].as_array().expect("cells is a list");
    let at: Vec<_> = cells.iter().map(|c| (c["cache"].as_str(), c["batch"].as_u64())).collect();
    assert_eq!(at[..2], [(Some("full"), Some(1)), (Some("auto-12"), Some(1))]);
    assert_eq!(at[2..4], [(Some("full"), Some(3)), (Some("auto-12"), Some(3))]);
    let pack = &report["packs"][0];
    assert!(pack["batch"].as_u64() > Some(6), "{report}");
    assert_eq!(pack["most_at_once"], pack["batch"], "the engine lets in what was promised: {report}");
    assert_eq!(at[4], (Some("auto-12"), pack["batch"].as_u64()), "as many as fit ran");
    for cell in cells {
        for field in ["prefill_tokens_per_second", "decode_tokens_per_second", "kv_bytes", "peak_bytes"] {
            assert!(cell[field].as_f64() > Some(0.0), "{field} of {cell}");
        }
        let agreement = &cell["agreement"];
        assert!(agreement["sequences"].as_u64() >= Some(1), "{cell}");
        assert_eq!(agreement["identical"], agreement["sequences"], "{cell}");
    }
    assert!(cells[3]["kv_bytes"].as_u64() < cells[2]["kv_bytes"].as_u64(), "{report}");
    let text = std::fs::read_to_string(&page).expect("the page is there");
    assert!(text.contains("synthetic tiny") && text.contains("<polyline"));
    std::fs::remove_file(page).expect("the page is removed");
}

#[test]
fn random_rows_stand_in_the_place_of_prompts() {
    let suite = "bench --synthetic tiny --batches 2 --random-rows --answer 20 --json --suite";
    let bench = |rest: &'static str| suite.split_whitespace().chain(rest.split(' ')).collect::<Vec<_>>();
    let report = json(&bench("batch --prompts 3000 --caches full,auto-12"));
    assert_eq!(report["random_rows"], true);
    for cell in report["cells"].as_array().expect("cells is a list") {
        assert!(cell["decode_tokens_per_second"].as_f64() > Some(0.0), "{cell}");
        assert!(cell["prefill_tokens_per_second"].is_null(), "{cell}");
        assert_eq!(cell["agreement"]["sequences"], 0, "{cell}");
    }
    let [full, auto] = [0, 1].map(|i| report["cells"][i]["kv_bytes"].as_f64().unwrap_or(0.0));
    assert!((0.08..0.13).contains(&(auto / full)), "{report}");
    refuse(&bench("depth"), 1, "--random-rows is for batches");
}

#[test]
fn sequences_of_different_depths_take_turns() {
    let suite = "bench --synthetic tiny --suite depth --prompts 70,600 --caches rows-80 --json --answer";
    let run = |answer| json(&suite.split_whitespace().chain([answer]).collect::<Vec<_>>());
    let report = run("40");
    for (cell, prompt) in report["cells"].as_array().expect("cells is a list").iter().zip([70, 600]) {
        assert_eq!(cell["prompt_tokens"], prompt, "{report}");
        assert!(cell["ms_per_token"].as_f64() > Some(0.0), "{report}");
    }
    assert_eq!(report["cells"].as_array().map(Vec::len), Some(2));
    let short = run("36");
    assert!(short["cells"][1]["reason"].as_str().is_some_and(|why| why.contains("37 are enough")), "{short}");
}

#[test]
fn a_cell_without_room_takes_no_other_with_it() {
    let suite = "bench --synthetic tiny --suite batch --batches 512,1 --prompts 96 --answer 2 --caches full \
                 --memory 8MiB --json";
    let report = json(&suite.split_whitespace().collect::<Vec<_>>());
    assert_eq!(report["cells"][0]["outcome"], "does-not-fit", "{report}");
    assert!(report["cells"][0]["reason"].as_str().is_some_and(|reason| reason.contains("512 sequences")));
    assert_eq!(report["cells"][1]["outcome"], "measured", "{report}");
    refuse(&["bench", "--synthetic", "tiny", "--suite", "batch", "--caches", "h2o"], 2, "none of full");
    refuse(&["bench", "--synthetic", "tiny", "--batches", "2"], 2, "required");
}

#[test]
fn bench_times_kernels_alone() {
    let report = json(&["bench", "--synthetic", "tiny", "--kernels", "--prompt-tokens", "70", "--json"]);
    let kernels = report["kernels"].as_array().expect("kernels is a list");
    assert_eq!(kernels.len(), 22, "{report}");
    for kernel in kernels {
        assert!(
            kernel["ms"].as_f64() > Some(0.0) && kernel["share_of_ceiling"].as_f64() > Some(0.0),
            "{kernel}"
        );
    }
}

#[test]
fn run_reports_everything_as_json() {
    let Some(model) = model() else { return };
    let prompt = ["run", &model, "-p", "What is the capital of France?", "--json", "--max-tokens"];
    let report = json(&[&prompt[..], &["16"]].concat());
    assert!(report["text"].as_str().is_some_and(|text| text.contains("Paris")), "{report}");
    assert_eq!(report["stop_reason"], "stop");
    let tokens = report["tokens"].as_array().expect("tokens is a list").len();
    assert!((1..16).contains(&tokens), "{report}");
    for field in
        ["prefill_seconds", "decode_seconds", "prefill_tokens_per_second", "decode_tokens_per_second"]
    {
        assert!(report[field].as_f64() > Some(0.0), "{field} of {report}");
    }
    for field in ["prompt_tokens", "kv_bytes", "peak_bytes"] {
        assert!(report[field].as_u64() > Some(0), "{field} of {report}");
    }
    let share = |report: &serde_json::Value| {
        report["kv_bytes"].as_f64().unwrap_or(0.0) / report["kv_bytes_full_f16"].as_f64().unwrap_or(0.0)
    };
    assert!(share(&report) < 0.35, "the default takes a part of a full f16 cache: {report}");
    let full = json(&[&prompt[..], &["2", "--kv", "full"]].concat());
    assert!((share(&full) - 1.0).abs() < 1e-9, "a full f16 cache is its own yardstick: {full}");
    assert!(report["adapter"].as_str().is_some_and(|adapter| !adapter.is_empty()));

    let report = json(&[&prompt[..], &["2", "--kv-bits", "8"]].concat());
    assert_eq!((&report["stop_reason"], &report["k_bits"]), (&"length".into(), &8.into()));
    assert!(report["kv_bytes"].as_u64() < report["kv_bytes_full_f16"].as_u64());
}

#[test]
fn run_continues_a_raw_prompt_and_keeps_stderr_apart() {
    let Some(model) = model() else { return };
    let output = benben(&["run", &model, "-p", "-", "--raw", "--max-tokens", "4"], "One, two, three,");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("four"), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.lines().count() == 1 && stderr.contains("prompt tokens") && stderr.contains("KV "),
        "{stderr}"
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(model) = model() else { return };
    let run = |flags: &[&'static str]| [&["run", &model, "-p", "Tell me of pyramids."], flags].concat();
    refuse(&run(&["--context", "8"]), 1, "but the context holds 8");
    refuse(&run(&["--memory", "1MB"]), 1, "does not fit");
    refuse(&run(&["--adapter", "abacus"]), 1, "no GPU adapter named 'abacus'");
    let text = temporary("short.txt", "Too short.");
    refuse(&["eval", "ppl", &model, text.to_str().expect("UTF-8")], 1, "the text has");
    let _ = std::fs::remove_file(text);
}

/// The numbers of prompt and answer tokens that each `/stats` printed.
fn stats(stderr: &str) -> Vec<[usize; 2]> {
    let number = |words: &str| words.split(' ').next().and_then(|n| n.parse().ok());
    let line = |line: &str| {
        let (prompt, rest) = line.split_once(" prompt tokens at ")?;
        Some([number(prompt)?, number(rest.split_once(", ")?.1)?])
    };
    stderr.lines().filter_map(line).collect()
}

#[test]
fn chat_keeps_the_conversation_and_its_cache() {
    let Some(model) = model() else { return };
    let turns = "What is the capital of France?\n/stats\nAnd of Germany?\n/stats\n/nonsense\n/reset\n/quit\n";
    let output = benben(&["chat", &model, "--max-tokens", "12"], turns);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let answers: Vec<&str> = stdout.lines().collect();
    assert!(answers.len() == 2 && answers[0].contains("Paris") && answers[1].contains("Berlin"), "{stdout}");
    let stats = stats(&stderr);
    assert!(stats.len() == 2 && stats[1][0] < stats[0][0], "the second turn runs only what is new: {stderr}");
    assert!(stderr.contains("commands: /reset"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn chat_goes_on_after_it_was_saved() {
    let Some(model) = model() else { return };
    let path = std::env::temp_dir().join(format!("benben-chat-{}", std::process::id()));
    let file = path.to_str().expect("a path in UTF-8");
    let turns = ["Hello there, who are you?\n", "And what do you like?\n"];
    let whole = succeed(&["chat", &model, "--max-tokens", "9"], &turns.concat());
    let first = succeed(&["chat", &model, "--max-tokens", "9", "--save", file], turns[0]);
    let then =
        benben(&["chat", &model, "--max-tokens", "9", "--resume", file], &format!("{}/stats\n", turns[1]));
    assert_eq!(first + &String::from_utf8_lossy(&then.stdout), whole);
    let said = String::from_utf8_lossy(&then.stderr).into_owned();
    assert!(said.contains("prompt tokens") && !said.contains("benben:"), "{said}");
    refuse(&["chat", &model, "--resume", file, "--kv-bits", "8"], 1, "another policy, budget or row format");
    std::fs::write(&path, "not a conversation").expect("the file is written");
    refuse(&["chat", &model, "--resume", file], 1, "is damaged or not supported");
    refuse(&["chat", &model, "--save", "/no/such/folder/x"], 1, "there is no folder /no/such/folder");
    std::fs::remove_file(path).expect("the file is removed");
}

#[test]
fn interrupting_chat_stops_the_answer_alone() {
    let Some(model) = model() else { return };
    let mut child = command(&["chat", &model, "--max-tokens", "500"]).spawn().expect("benben starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(b"Tell me a very long story about a pyramid.\n").expect("benben reads");
    let mut beginning = [0; 8];
    child.stdout.as_mut().expect("stdout is piped").read_exact(&mut beginning).expect("the story begins");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()), "kill runs");
    stdin.write_all(b"/stats\n/reset\nWhat is the capital of France?\n").expect("benben goes on");
    drop(stdin);
    let output = child.wait_with_output().expect("benben ends");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && stdout.lines().last().is_some_and(|a| a.contains("Paris")),
        "{output:?}"
    );
    assert!(stats(&stderr)[0][1] < 200, "the story was cut short: {stderr}");
}

#[test]
fn a_closed_stdout_is_no_error() {
    let Some(model) = model() else { return };
    let mut child = command(&["info", &model]).spawn().expect("benben starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("benben ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn info_describes_the_model() {
    let Some(model) = model() else { return };
    let report = json(&["info", &model, "--json", "--context", "1024"]);
    assert!(report["parameters"].as_u64() > Some(1_000_000), "{report}");
    let plans = report["plans"].as_array().expect("plans is a list");
    let kv = |i: usize, bits: &str| plans[i]["kv_bytes"][bits].as_u64().expect("a number of bytes");
    assert!(kv(0, "16") > kv(0, "8") && kv(0, "8") > kv(0, "4"), "{report}");
    assert!(kv(1, "16") < kv(0, "16"), "a pyramid is smaller than the full cache: {report}");
    assert!(succeed(&["info", &model], "").contains("parameters"));
}

#[test]
fn eval_measures_perplexity() {
    let Some(model) = model() else { return };
    let text = temporary(
        "text.txt",
        &"The quick brown fox jumps over the lazy dog, and then it sleeps. ".repeat(12),
    );
    let path = text.to_str().expect("UTF-8");
    let report = json(&["eval", "ppl", &model, path, "--prefix", "90", "--continuation", "20", "--json"]);
    let _ = std::fs::remove_file(&text);
    let perplexity = report["perplexity"].as_f64().expect("a number");
    assert!((1.0..3.0).contains(&perplexity), "a text that repeats itself is easy to foretell: {report}");
}
