//! What the browser must say: a tiny model and native answers, for `web/test/` to compare with.

use crate::common::testbed;
use std::path::PathBuf;
use std::sync::Arc;

use crate::common::tiny::{Shape, Tiny};
use benben::kv::Format;
use benben::kv::policy::{Budget, Full, KvOnly, Policy, Pyramid};
use benben::weights::ModelFile;
use benben::{GenerateOptions, KvBits, KvOptions, Model, Session, SessionOptions};
use pollster::block_on;
use serde_json::{Value, json};

const PROMPT: &str =
    "an old river beside dunes of sand, and a tall rider that lets no other year go by unread";
const TOKENS: usize = 24;

fn answer(model: &Arc<Model>, kv: KvOptions, options: &Value) -> Value {
    let mut session = Session::new(model, &SessionOptions { kv, context: None }).unwrap();
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

/// Many times as large as what may be in WebAssembly's memory at a time: 41 MB, in tensors of 2.5 and 5 MB.
fn fat() -> Tiny {
    Tiny::shaped(Shape { width: 512, query: 4, kv: 2, dim: 32, ffn: 2400 })
}

#[test]
#[ignore = "writes the files that `make web-test` compares with"]
fn native_answers() {
    let folder = PathBuf::from(std::env::var_os("BENBEN_WEB_TEST").expect("BENBEN_WEB_TEST names a folder"));
    let share = || Budget::Share(0.5);
    let kv =
        |policy: Arc<dyn Policy>, k, v| KvOptions { policy, format: Format { k, v }, ..KvOptions::full() };
    let cases = [
        (KvOptions::full(), json!({"policy": "full"})),
        (KvOptions::default(), json!({})),
        (kv(Arc::new(Full), KvBits::Eight, KvBits::Four), json!({"policy": "full", "kBits": 8, "vBits": 4})),
        (
            kv(Arc::new(Pyramid::with_budget(share())), KvBits::Sixteen, KvBits::Sixteen),
            json!({"policy": "pyramid", "keep": 0.5}),
        ),
        (
            kv(Arc::new(KvOnly::per_head(share())), KvBits::Four, KvBits::Eight),
            json!({"policy": "kv-only", "keep": 0.5, "perHead": true, "kBits": 4, "vBits": 8}),
        ),
    ];
    let answers: Vec<Value> =
        cases.into_iter().map(|(kv, options)| answer(&testbed::model(), kv, &options)).collect();
    let ids = |file: ModelFile| {
        let model = testbed::load(&testbed::gpu(), &file);
        answer(&model, KvOptions::full(), &Value::Null)["ids"].take()
    };
    let all = json!({
        "prompt": PROMPT,
        "maxTokens": TOKENS,
        "answers": answers,
        "safetensors": ids(Tiny::new().safetensors()),
        "fat": ids(fat().file()),
    });
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    write("tiny.json", all.to_string().as_bytes());
    let tiny = Tiny::new().gguf();
    write("tiny.gguf", &tiny);
    write("truncated.gguf", &tiny[..tiny.len() * 3 / 4]);
    write("fat.gguf", &fat().gguf());
    for (name, bytes) in Tiny::new().gguf_shards(3).into_iter().chain(Tiny::new().safetensors_shards(2)) {
        write(&name, &bytes);
    }
}
