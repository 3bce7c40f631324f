//! What the browser must say: a tiny model and native answers, for `web/test/browser.mjs` to compare with.

#[path = "common/testbed.rs"]
mod testbed;

use std::path::PathBuf;
use std::sync::Arc;

use benben::kv::Format;
use benben::kv::policy::{Budget, Full, KvOnly, Policy, Pyramid};
use benben::{GenerateOptions, KvBits, KvOptions, Session, SessionOptions};
use pollster::block_on;
use serde_json::{Value, json};

const PROMPT: &str =
    "an old river beside dunes of sand, and a tall rider that lets no other year go by unread";
const TOKENS: usize = 24;

fn answer(kv: KvOptions, options: &Value) -> Value {
    let model = testbed::model();
    let mut session = Session::new(&model, &SessionOptions { kv, context: None }).unwrap();
    session.append(&model.text().raw_prompt(PROMPT).unwrap()).unwrap();
    let mut answer =
        session.generate(&GenerateOptions { max_tokens: TOKENS, ..GenerateOptions::default() }).unwrap();
    let mut ids = Vec::new();
    while let Some(id) = block_on(answer.next()) {
        ids.push(id.unwrap());
    }
    drop(answer);
    let positions: Vec<Vec<Vec<u32>>> =
        (0..model.config().layers).map(|layer| block_on(session.positions(layer)).unwrap()).collect();
    json!({"kv": options, "ids": ids, "rowsPerLayer": session.kv().rows_per_layer, "positions": positions})
}

#[test]
#[ignore = "writes the files that `make web-test` compares with"]
fn native_answers() {
    let folder = PathBuf::from(std::env::var_os("BENBEN_WEB_TEST").expect("BENBEN_WEB_TEST names a folder"));
    let share = || Budget::Share(0.5);
    let cases: [(Arc<dyn Policy>, KvBits, KvBits, Value); 4] = [
        (Arc::new(Full), KvBits::Sixteen, KvBits::Sixteen, json!({"policy": "full"})),
        (Arc::new(Full), KvBits::Eight, KvBits::Four, json!({"policy": "full", "kBits": 8, "vBits": 4})),
        (
            Arc::new(Pyramid::with_budget(share())),
            KvBits::Sixteen,
            KvBits::Sixteen,
            json!({"policy": "pyramid", "keep": 0.5}),
        ),
        (
            Arc::new(KvOnly::per_head(share())),
            KvBits::Four,
            KvBits::Eight,
            json!({"policy": "kv-only", "keep": 0.5, "perHead": true, "kBits": 4, "vBits": 8}),
        ),
    ];
    let answers: Vec<Value> = cases
        .into_iter()
        .map(|(policy, k, v, options)| {
            answer(KvOptions { policy, format: Format { k, v }, ..KvOptions::full() }, &options)
        })
        .collect();
    std::fs::write(folder.join("tiny.gguf"), testbed::tiny::Tiny::new().gguf()).unwrap();
    let all = json!({"prompt": PROMPT, "maxTokens": TOKENS, "answers": answers});
    std::fs::write(folder.join("tiny.json"), all.to_string()).unwrap();
}
