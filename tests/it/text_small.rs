//! The text room on vocabularies small enough to check by hand.

use benben::text::{Message, Special, Text, TextFiles, TokenStream, Vocabulary};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

const CONTROL: i32 = 3;

/// GPT-2's byte alphabet, the way its `encoder.py` builds it.
fn alphabet() -> Vec<String> {
    let mut spare = 256;
    let character = |byte: u32| {
        let printable = (0x21..=0x7e).contains(&byte) || (0xa1..=0xac).contains(&byte) || byte >= 0xae;
        let code = if printable { byte } else { spare };
        spare += u32::from(!printable);
        char::from_u32(code).expect("a character").to_string()
    };
    (0..256).map(character).collect()
}

/// Ids: byte b is b; then Ġ t, Ġt h, Ġth e, 1 2, 3 4, 12 34 merged in this order; then the control tokens.
fn byte_level(pre: Option<&str>) -> Vocabulary {
    let mut tokens = alphabet();
    let merges = ["Ġ t", "Ġt h", "Ġth e", "1 2", "3 4", "12 34"].map(str::to_owned).to_vec();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    tokens.extend(["<s>", "<|im_end|>", "<|eot_id|>"].map(str::to_owned));
    types.extend([CONTROL; 3]);
    Vocabulary {
        model: "gpt2".to_owned(),
        pre: pre.map(str::to_owned),
        tokens,
        types,
        merges,
        bos: Some(262),
        eos: Some(263),
        ..Vocabulary::default()
    }
}

/// Ids: 0 to 2 control, byte b is 3 + b, then pieces with scores.
fn sentence_piece() -> Vocabulary {
    let mut tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2, CONTROL, CONTROL];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    types.resize(tokens.len(), 6);
    let pieces =
        [("▁", -9.0), ("a", -8.0), ("b", -8.0), ("▁a", -2.0), ("ab", -1.0), ("▁ab", -3.0), ("é", -9.0)];
    tokens.extend(pieces.map(|(piece, _)| piece.to_owned()));
    types.resize(tokens.len(), 1);
    let mut scores = vec![0.0; 259];
    scores.extend(pieces.map(|(_, score)| score));
    Vocabulary {
        model: "llama".to_owned(),
        tokens,
        types,
        scores,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..Vocabulary::default()
    }
}

fn text(vocabulary: Vocabulary) -> Text {
    Text::from_vocabulary(vocabulary).expect("the vocabulary is sound")
}

fn encode(text: &Text, words: &str) -> Vec<u32> {
    text.encode(words, Special::Parse).expect("encodes")
}

fn bytes(words: &str) -> Vec<u32> {
    words.bytes().map(u32::from).collect()
}

fn run(mut stream: TokenStream, ids: &[u32]) -> Vec<String> {
    let mut parts: Vec<String> = ids.iter().map(|&id| stream.push(id).expect("in the vocabulary")).collect();
    parts.push(stream.finish());
    parts
}

#[test]
fn text_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Text>();
    shared::<TokenStream>();
}

#[test]
fn byte_level_merges_in_their_order() {
    let text = text(byte_level(None));
    assert!(encode(&text, "").is_empty());
    assert_eq!(encode(&text, "in the"), [bytes("in"), vec![258]].concat());
    assert_eq!(encode(&text, " th"), [257]);
    assert_eq!(encode(&text, "é"), bytes("é"));
    assert_eq!(text.decode(&[258, 0xc3, 0xa9]).expect("decodes"), " theé");
    assert_eq!(text.decode(&[0xc3, 258]).expect("decodes"), "\u{fffd} the");
}

#[test]
fn control_tokens_are_parsed_or_not() {
    let text = text(byte_level(None));
    assert_eq!(encode(&text, "a<|im_end|>b"), [97, 263, 98]);
    let literal = text.encode("a<|im_end|>b", Special::AsText).expect("encodes");
    assert_eq!(literal, bytes("a<|im_end|>b"));
    assert_eq!(text.decode(&[262, 97, 263]).expect("decodes"), "a");
    assert_eq!([262, 258, 263].map(|id| text.label(id).expect("a label")), ["<s>", " the", "<|im_end|>"]);
    assert!(text.label(265).is_err());
    assert_eq!(text.stop_tokens(), [263, 264], "the declared end, and a well-known name");
}

#[test]
fn prompts_are_opened_once() {
    let opened = text(Vocabulary { add_bos: Some(true), ..byte_level(None) });
    assert_eq!(opened.raw_prompt("a").expect("a prompt"), [262, 97]);
    assert_eq!(opened.raw_prompt("<s>a").expect("a prompt"), [262, 97]);
    assert_eq!(opened.raw_prompt("").expect("a prompt"), [262]);
    assert_eq!(text(byte_level(None)).raw_prompt("a").expect("a prompt"), [97]);
    assert_eq!(text(byte_level(Some("llama-bpe"))).raw_prompt("a").expect("a prompt"), [262, 97]);
    assert_eq!(text(sentence_piece()).raw_prompt("a").expect("a prompt"), [1, 262]);
}

#[test]
fn families_cut_digits_and_line_ends_differently() {
    let cut = |pre, words| encode(&text(byte_level(pre)), words);
    let whole = [261];
    let singles = bytes("1234");
    let threes = [259, u32::from(b'3'), u32::from(b'4')];
    for (pre, expected) in [
        (None, &threes[..]),
        (Some("gpt-2"), &whole),
        (Some("no such family"), &whole),
        (Some("smollm"), &singles),
        (Some("qwen2"), &singles),
        (Some("tekken"), &singles),
        (Some("llama-bpe"), &threes),
        (Some("gpt-4o"), &threes),
        (Some("seed-coder"), &singles),
        (Some("viking"), &singles),
        (Some("hunyuan"), &singles),
        (Some("deepseek-v3"), &threes),
    ] {
        assert_eq!(cut(pre, "1234"), expected, "{pre:?}");
    }
}

#[test]
fn families_that_are_not_known_are_told() {
    let notes = |pre| text(byte_level(pre)).notes().concat();
    assert_eq!(notes(Some("qwen2")), "");
    assert!(notes(None).contains("tokenizer.ggml.pre"));
    assert!(notes(Some("no such family")).contains("'no such family'"));
}

#[test]
fn names_end_answers_whatever_their_type() {
    for kind in [1, CONTROL, 4] {
        let mut vocabulary = byte_level(None);
        vocabulary.types[264] = kind;
        let text = text(vocabulary);
        assert_eq!(text.stop_tokens(), [263, 264], "type {kind}");
        assert_eq!(encode(&text, "<|eot_id|>"), [264]);
        assert_eq!(text.decode(&[97, 264]).expect("decodes"), "a", "type {kind}");
    }
    let all = Vocabulary { eos: None, ends: vec![98, 97], ..byte_level(None) };
    assert_eq!(text(all).stop_tokens(), [11, 97, 98, 263, 264], "eos is 11 for a file that does not say");
    let none = Vocabulary { bos: None, eos: None, unk: None, ..sentence_piece() };
    assert_eq!(text(none).stop_tokens(), [2]);
}

#[test]
fn ids_that_no_text_needs_may_be_anything() {
    let odd = Vocabulary { unk: Some(265), pad: Some(u32::MAX), bos: Some(999), ..byte_level(None) };
    assert_eq!(text(odd).raw_prompt("a").expect("a prompt"), [97]);
}

#[test]
fn names_in_messages_are_text() {
    let template = "{% for m in messages %}<s>{{ m.role }}:{{ m.content | trim }}<|im_end|>{% endfor %}";
    let vocabulary = Vocabulary { chat_template: Some(template.to_owned()), ..byte_level(None) };
    let text = text(vocabulary);
    let prompt = |role: &str, content: &str| {
        let message = Message { role: role.to_owned(), content: content.to_owned() };
        text.prompt(&[message]).expect("a prompt")
    };
    let turn = |words: &str| [vec![262], bytes(words), vec![263]].concat();
    assert_eq!(prompt("user", "hi"), turn("user:hi"));
    for name in ["<|im_end|>", "a<s>b<|eot_id|>", "<<s>s>", "\u{fdd0}<s>"] {
        assert_eq!(prompt("user", name), turn(&format!("user:{name}")), "{name}");
        assert_eq!(prompt(name, "x"), turn(&format!("{name}:x")), "{name} as a role");
    }
    let every: String = ('\u{fdd0}'..='\u{fdef}').collect::<String>() + "<s>";
    assert!(text.prompt(&[Message::user(every)]).is_err());
    assert_eq!(text.raw_prompt("<s>").expect("a prompt"), [262], "who writes a raw prompt writes its names");
}

#[test]
fn text_without_a_token_is_an_error() {
    let mut vocabulary = byte_level(None);
    vocabulary.tokens[usize::from(b'q')] = "no longer q".to_owned();
    let text = text(vocabulary);
    assert!(encode(&text, "a").len() == 1);
    let error = text.encode("a q", Special::Parse).expect_err("nothing stands for q").to_string();
    assert!(error.contains("no token for a part of ' q'"), "{error}");
    let mut vocabulary = Vocabulary { unk: None, ..sentence_piece() };
    vocabulary.tokens[3 + 0xe6] = "gone".to_owned();
    vocabulary.tokens[0] = "nothing".to_owned();
    vocabulary.types[0] = 1;
    let text = self::text(vocabulary);
    assert_eq!(encode(&text, "日"), [259, 0], "the default for the unknown is the first token");
}

#[test]
fn sentence_piece_merges_by_score() {
    let text = text(sentence_piece());
    let ids = encode(&text, "ab a");
    assert_eq!(ids, [264, 262], "a+b first, then ▁+ab; a space is part of the next word");
    assert_eq!(text.decode(&ids).expect("decodes"), "ab a", "the added space is gone");
    assert_eq!(encode(&text, "a\n</s>a"), [262, 3 + 10, 2, 262], "newline by its byte; each stretch opened");
    assert_eq!(encode(&text, "日"), [259, 3 + 0xe6, 3 + 0x97, 3 + 0xa5]);
    let bare = Vocabulary { add_space_prefix: Some(false), ..sentence_piece() };
    let bare = Text::from_vocabulary(bare).expect("sound");
    assert_eq!(encode(&bare, "ab"), [263]);
    assert_eq!(bare.decode(&[262]).expect("decodes"), " a");
}

#[test]
fn streams_hold_back_unfinished_characters() {
    let text = text(byte_level(None));
    let parts = run(text.stream(), &bytes("a😀日"));
    assert_eq!(parts, ["a", "", "", "", "😀", "", "", "日", ""]);
    assert_eq!(run(text.stream(), &[0xf0, 0x9f, 97]), ["", "", "\u{fffd}a", ""], "cut short inside");
    assert_eq!(run(text.stream(), &[0xf0, 262, 0x9f]), ["", "", "", "\u{fffd}"], "cut short at the end");

    let mut stream = text.stream();
    assert_eq!(stream.push(0xc3).expect("held back"), "");
    assert!(stream.push(265).is_err(), "outside the vocabulary");
    assert_eq!(stream.push(0xa9).expect("the stream goes on"), "é");
}

#[test]
fn streams_know_whose_space_it_is() {
    let text = self::text(sentence_piece());
    assert_eq!(run(text.stream(), &[1, 262, 262]), ["", "a", " a", ""]);
    assert_eq!(run(text.stream_continued(), &[262, 262]), [" a", " a", ""]);
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(17), failure_persistence: None, ..Default::default() })]

    #[test]
    fn streaming_equals_decoding(ids in prop::collection::vec(0u32..265, 0..80)) {
        for vocabulary in [byte_level(None), sentence_piece()] {
            let text = text(vocabulary);
            prop_assert_eq!(run(text.stream(), &ids).concat(), text.decode(&ids).expect("decodes"));
        }
    }

    #[test]
    fn any_text_comes_back(words in "[ ab1-4t-é\n日😀\\PC]{0,40}") {
        for vocabulary in [byte_level(Some("smollm")), byte_level(Some("qwen2")), sentence_piece()] {
            let text = text(vocabulary);
            let ids = text.encode(&words, Special::AsText).expect("encodes");
            prop_assert_eq!(text.decode(&ids).expect("decodes"), words.clone());
        }
    }
}

#[test]
fn unsound_vocabularies_are_named() {
    let byte = || byte_level(None);
    let with = |change: fn(&mut Vocabulary), mut vocabulary: Vocabulary| {
        change(&mut vocabulary);
        Text::from_vocabulary(vocabulary).expect_err("refused").to_string()
    };
    for (error, part) in [
        (with(|v| v.tokens.clear(), byte()), "no tokens"),
        (with(|v| v.types.truncate(7), byte()), "265 tokens but 7 token types"),
        (with(|v| v.scores.clear(), sentence_piece()), "266 tokens but 0 scores"),
        (with(|v| v.eos = Some(265), byte()), "eos token has id 265"),
        (with(|v| v.ends = vec![265], byte()), "end token has id 265"),
        (with(|v| (v.bos, v.add_bos) = (Some(265), Some(true)), byte()), "bos token has id 265"),
        (with(|v| v.merges.clear(), byte()), "tokenizer.ggml.merges"),
        (with(|v| v.tokens[7] = "a".to_owned(), byte()), "tokens 7 and 97 are both 'a'"),
        (with(|v| v.model = "t5".to_owned(), byte()), "'t5'"),
        (with(|v| v.merges.push("lonely".to_owned()), byte()), "merge 6 is 'lonely'"),
        (with(|v| v.merges.push("日 本".to_owned()), byte()), "do not fit"),
        (with(|v| v.chat_template = Some("{% for %}".to_owned()), byte()), "chat template failed in line 1"),
    ] {
        assert!(error.starts_with("tokenizer: ") && error.contains(part), "{error}");
    }
}

fn tokenizer_json() -> serde_json::Value {
    let vocabulary = byte_level(None);
    let vocab: serde_json::Map<_, _> =
        vocabulary.tokens.iter().take(262).cloned().zip((0..).map(|id: u32| json!(id))).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(262, "<s>", true), added(263, "<|im_end|>", true), added(264, "<think>", false)],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": vocabulary.merges},
    })
}

/// The text of these files; those that are `null` are not there.
fn from_files(tokenizer: &Value, others: [Value; 4], template: Option<&[u8]>) -> Text {
    let bytes = |json: &Value| if json.is_null() { None } else { Some(json.to_string().into_bytes()) };
    let [tokenizer_config, special_tokens_map, config, generation_config] = others.map(|json| bytes(&json));
    let tokenizer = tokenizer.to_string();
    let files = TextFiles {
        tokenizer: tokenizer.as_bytes(),
        tokenizer_config: tokenizer_config.as_deref(),
        special_tokens_map: special_tokens_map.as_deref(),
        config: config.as_deref(),
        generation_config: generation_config.as_deref(),
        chat_template: template,
    };
    Text::from_files(&files).expect("sound")
}

#[test]
fn files_say_the_same_as_a_vocabulary() {
    let config = json!({
        "add_bos_token": true, "bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>",
        "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ bos_token }}x"}],
    });
    let generation = json!({"eos_token_id": [7, 263]});
    let files = [config.clone(), Value::Null, Value::Null, generation];
    let files = from_files(&tokenizer_json(), files, None);

    let same = text(byte_level(Some("gpt-2")));
    for words in ["in the 1234", "é日😀", "a<|im_end|>b"] {
        assert_eq!(encode(&files, words), encode(&same, words));
        assert_eq!(files.encode(words, Special::AsText).ok(), same.encode(words, Special::AsText).ok());
    }
    assert_eq!(files.decode(&[262, 264, 97, 263]).expect("decodes"), "<think>a");
    assert_eq!(files.stop_tokens(), [7, 263]);
    assert_eq!(files.vocab_size(), 265);
    assert_eq!(files.prompt(&[]).expect("a prompt"), [262, u32::from(b'x')]);

    let override_ =
        from_files(&tokenizer_json(), [config, Value::Null, Value::Null, Value::Null], Some(b"y"));
    assert_eq!(override_.render(&[], true).expect("renders"), "y");
    let bare = from_files(&tokenizer_json(), [const { Value::Null }; 4], None);
    assert!(!bare.has_template() && bare.stop_tokens() == [263]);
}

#[test]
fn every_file_may_say_how_texts_begin_and_answers_end() {
    let none = || [const { Value::Null }; 4];
    for (at, json) in [
        (0, json!({"eos_token": "a"})),
        (1, json!({"eos_token": {"content": "a"}})),
        (2, json!({"eos_token_id": 97})),
        (3, json!({"eos_token_id": [97]})),
    ] {
        let mut files = none();
        files[at] = json;
        assert_eq!(from_files(&tokenizer_json(), files, None).stop_tokens(), [97, 263], "file {at}");
    }
    let opened = |tokenizer: &Value, files| {
        let text = from_files(tokenizer, files, None);
        (text.raw_prompt("b").expect("a prompt"), text.notes().len())
    };
    let mut processed = tokenizer_json();
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
    let token = |id: &str, number: u32| json!({"id": id, "ids": [number], "tokens": [id]});
    processed["post_processor"] = json!({
        "type": "TemplateProcessing", "single": [special("<s>"), sequence], "pair": [sequence],
        "special_tokens": {"<s>": token("<s>", 262), "<|im_end|>": token("<|im_end|>", 263)},
    });
    assert_eq!(opened(&processed, none()), (vec![262, 98], 0));
    let config = |json| [json, Value::Null, Value::Null, Value::Null];
    assert_eq!(opened(&processed, config(json!({"bos_token": null}))), (vec![262, 98], 0));
    assert_eq!(opened(&processed, config(json!({"add_bos_token": false}))), (vec![98], 0));
    let named = [json!({"add_bos_token": true}), json!({"bos_token": "<s>"}), Value::Null, Value::Null];
    assert_eq!(opened(&tokenizer_json(), named), (vec![262, 98], 0));
    let numbered = [json!({"add_bos_token": true}), Value::Null, json!({"bos_token_id": 262}), Value::Null];
    assert_eq!(opened(&tokenizer_json(), numbered), (vec![262, 98], 0));
    processed["post_processor"]["single"] = json!([special("<s>"), sequence, special("<|im_end|>")]);
    assert_eq!(
        opened(&processed, none()),
        (vec![262, 98], 1),
        "what would end the text is told, not written"
    );
}

#[test]
fn every_file_may_say_which_tokens_are_special() {
    let mut tokenizer = tokenizer_json();
    // A turn's end as a plain token, and padding that no text asks for.
    tokenizer["added_tokens"][1]["special"] = json!(false);
    tokenizer["padding"] = json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "!",
    });
    let decoder = json!({"265": {"content": "<new>", "special": true}, "264": {"content": "<think>", "special": false}});
    let template = "{{ messages[0].content }}";
    let config = json!({"added_tokens_decoder": decoder, "chat_template": template});
    let map = json!({"additional_special_tokens": ["1234", {"content": "<think>"}]});
    let text = from_files(&tokenizer, [config, map, Value::Null, Value::Null], None);
    assert_eq!(text.vocab_size(), 266);
    for (name, id) in [("<s>", 262), ("<|im_end|>", 263), ("<think>", 264), ("<new>", 265), ("1234", 261)] {
        assert_eq!(text.raw_prompt(name).expect("a prompt"), [id], "{name}");
        assert_eq!(text.decode(&[id]).expect("decodes"), "", "{name}");
        let said = text.prompt(&[Message::user(name)]).expect("a prompt");
        assert_eq!(said, text.encode(name, Special::AsText).expect("encodes"), "{name}");
        assert!(!said.contains(&id) || name == "1234", "{name}: {said:?}");
    }
    assert_eq!(text.stop_tokens(), [263]);
    let other = json!({"added_tokens_decoder": {"7": {"content": "<s>", "special": true}}}).to_string();
    let tokenizer = tokenizer.to_string();
    let files = TextFiles {
        tokenizer: tokenizer.as_bytes(),
        tokenizer_config: Some(other.as_bytes()),
        ..TextFiles::default()
    };
    assert!(Text::from_files(&files).expect_err("refused").to_string().contains("'<s>' the id 7"));
}

#[test]
fn unsound_files_are_named() {
    let refused = |tokenizer: &[u8], config: Option<&[u8]>, template: Option<&[u8]>| {
        let files = TextFiles {
            tokenizer,
            tokenizer_config: config,
            chat_template: template,
            ..TextFiles::default()
        };
        Text::from_files(&files).expect_err("refused").to_string()
    };
    let good = tokenizer_json().to_string().into_bytes();
    let mut no_decoder = tokenizer_json();
    no_decoder["decoder"] = serde_json::Value::Null;
    for (error, part) in [
        (refused(b"{}", None, None), "tokenizer.json cannot be read"),
        (refused(&good, Some(b"[1]"), None), "tokenizer_config.json cannot be read"),
        (refused(&good, None, Some(b"\xff")), "chat_template.jinja is not UTF-8"),
        (refused(no_decoder.to_string().as_bytes(), None, None), "decoder"),
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn templates_speak_jinja_as_transformers_does() {
    let render = |source: &str| {
        let vocabulary = Vocabulary { chat_template: Some(source.to_owned()), ..byte_level(None) };
        let messages = [Message::system(" s<1> "), Message::user("a,b"), Message::assistant("c")];
        Text::from_vocabulary(vocabulary)?.render(&messages, true)
    };
    for (source, expected) in [
        ("{{ bos_token ~ eos_token ~ unk_token }}", "<s><|im_end|>"),
        (
            "{% for m in messages %}\n  {% if loop.last %}\n{{ m['role'] }}\n  {% endif %}\n{% endfor %}",
            "assistant\n",
        ),
        ("{{ messages[0].content.strip() | tojson }}{{ messages[1:] | length }}", "\"s<1>\"2"),
        ("{{ messages[1]['content'].split(',')[-1] }}{{ 'abc'.startswith('ab') }}", "bTrue"),
        ("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}x{% endfor %}", "x"),
        ("{%- generation -%} x {%- endgeneration -%}", "x"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{% if tools is none and add_generation_prompt %}go{% endif %}", "go"),
        ("{% if tools is iterable and tools | length > 0 %}tools{% endif %}", ""),
        (
            "{% for x in [[], {}, 'a', nothing, none, 1] %}{{ 'i' if x is iterable }}{{ 's' if x is sequence }},{% endfor %}",
            "is,is,is,is,,,",
        ),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ] {
        assert_eq!(render(source).expect(source), expected, "{source}");
    }
    for (source, part) in [
        (
            "\n{% macro m() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ m() }}",
            "line 2: roles must alternate",
        ),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "fuel"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
        ("{% include 'chat template' %}", "failed in line 1"),
        ("{{ messages[0].content.frobnicate() }}", "frobnicate"),
        ("{{ strftime_now('%Q') }}", "%Q"),
    ] {
        let error = render(source).expect_err(source).to_string();
        assert!(error.starts_with("tokenizer: the chat template failed") && error.contains(part), "{error}");
    }
    let none = text(byte_level(None));
    assert!(!none.has_template());
    assert!(none.prompt(&[Message::user("a")]).expect_err("no template").to_string().contains("raw prompt"));
}
