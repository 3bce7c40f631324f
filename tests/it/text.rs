//! The tokenizer and chat template of SmolLM2-135M-Instruct against ids that llama.cpp and the
//! `tokenizers` library agree on. Needs the model file (BENBEN_MODEL) and the golden data (BENBEN_SHARED),
//! and says so when one is absent; `text_small.rs` needs neither.

use crate::common::files;
use std::sync::OnceLock;

use crate::common::files::{golden_json, golden_text, u32s};
use benben::engine::read_text;
use benben::text::{Message, Special, Text};
use benben::weights::ModelFile;

fn model() -> Option<&'static Text> {
    static MODEL: OnceLock<Option<Text>> = OnceLock::new();
    let load = || {
        let file = ModelFile::open(&files::model_file()?).expect("the model file opens");
        Some(read_text(&file).expect("the vocabulary is sound"))
    };
    MODEL.get_or_init(load).as_ref()
}

#[test]
fn golden_strings_have_the_golden_ids() {
    let (Some(model), Some(golden)) = (model(), golden_json("tokenizer_cases.json")) else { return };
    let cases = golden["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 80);
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let parsed = u32s(&case["ids"]);
        let literal = case.get("ids_specials_as_text").map_or_else(|| parsed.clone(), u32s);
        assert_eq!(model.encode(text, Special::Parse).expect("encodes"), parsed, "{text:?}");
        assert_eq!(model.encode(text, Special::AsText).expect("encodes"), literal, "{text:?} as text");
        assert_eq!(model.decode(&literal).expect("decodes"), text);

        let mut stream = model.stream();
        let mut streamed: String =
            literal.iter().map(|&id| stream.push(id).expect("the id is in the vocabulary")).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, text, "streamed");
    }
}

#[test]
fn a_whole_book_comes_back() {
    let (Some(model), Some(book)) = (model(), golden_text("text/alice.txt")) else { return };
    let ids = model.encode(&book, Special::Parse).expect("encodes");
    assert_eq!(ids.len(), 39_356);
    assert!(model.decode(&ids).expect("decodes") == book, "the decoded book differs");
}

#[test]
fn chatml_with_the_default_system_message() {
    let Some(model) = model() else { return };
    let opening = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging \
                   Face<|im_end|>\n<|im_start|>user\nHi there!<|im_end|>\n";
    let messages = [Message::user("Hi there!")];
    assert_eq!(model.render(&messages, false).expect("renders"), opening);
    let prompt = format!("{opening}<|im_start|>assistant\n");
    assert_eq!(model.render(&messages, true).expect("renders"), prompt);

    let turns = [Message::system("Be brief."), Message::user("1+1?"), Message::assistant("2")];
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n\
                    <|im_start|>assistant\n2<|im_end|>\n";
    assert_eq!(model.render(&turns, false).expect("renders"), expected);
}

#[test]
fn the_chat_prompt_has_the_golden_ids() {
    let (Some(model), Some(golden)) = (model(), golden_json("prompts_greedy.json")) else { return };
    let chat = golden["prompts"].as_array().expect("prompts").iter().find(|p| p["name"] == "chat: Hi there!");
    let expected = u32s(&chat.expect("the chat prompt")["ids"]);
    assert_eq!(model.prompt(&[Message::user("Hi there!")]).expect("a prompt"), expected);
}

#[test]
fn what_the_file_says_about_itself() {
    let Some(model) = model() else { return };
    assert!(model.has_template());
    assert_eq!(model.vocab_size(), 49_152);
    assert_eq!(model.stop_tokens(), [0, 2, 4], "<|endoftext|>, <|im_end|> and <reponame>");
    assert!(model.is_stop(2) && !model.is_stop(1) && !model.is_stop(49_152));
    let ids = [504, 3575, 282, 4649, 314];
    assert_eq!(model.raw_prompt("The capital of France is").expect("a prompt"), ids, "nothing precedes it");
    assert_eq!(model.decode(&[1, 19_556, 2]).expect("decodes"), "Hello");
    let error = model.decode(&[49_152]).expect_err("outside the vocabulary").to_string();
    assert!(error.contains("49152"), "{error}");
}
