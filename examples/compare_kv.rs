//! One prompt under several policies and row formats, side by side: what each remembers, and what it takes.
//!
//! `cargo run --release --example compare_kv -- MODEL.gguf`

use std::sync::Arc;

use benben::kv::policy::{Budget, Full, KvOnly, Policy, Preset, Pyramid, Tsp};
use benben::kv::{Format, KvOptions};
use benben::{
    AdapterChoice, GenerateOptions, Gpu, KvBits, LoadOptions, Message, Model, Session, SessionOptions,
};

const PROMPT: &str = "Here are notes of a walk. We left the village at seven, when the mist still lay on the river. \
    The bridge was closed, so we took the ferry; the ferryman, whose name was Anton, asked for two coins each. On the \
    other side the path climbed through oaks, then through pines, and we met nobody but a woman with three goats. At \
    noon we rested at a spring. My sister found a blue feather there and put it into her hat. Later it began to rain, \
    and we ran down to the mill, where they gave us soup and let us dry our coats by the fire. Question: what did my \
    sister find, and where?";

fn main() -> benben::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "model.gguf".to_owned());
    pollster::block_on(compare(&path))
}

async fn compare(path: &str) -> benben::Result<()> {
    let gpu = Gpu::open(&AdapterChoice::Best).await?;
    let model = Model::load(&gpu, path, &LoadOptions::default(), |_| ()).await?;
    let prompt = model.text().prompt(&[Message::user(PROMPT)])?;
    let half = || Budget::Share(0.5);
    let (eight, four) =
        (Format { k: KvBits::Eight, v: KvBits::Four }, Format { k: KvBits::Four, v: KvBits::Four });
    let cases: [(&str, Arc<dyn Policy>, Format); 6] = [
        ("full, f16", Arc::new(Full), Format::F16),
        ("full, 8-bit K and 4-bit V", Arc::new(Full), eight),
        ("pyramid 7b, f16", Arc::new(Pyramid::preset(Preset::B7)), Format::F16),
        ("pyramid at 50 %, 4-bit", Arc::new(Pyramid::with_budget(half())), four),
        ("tsp at 50 %, 4-bit", Arc::new(Tsp::new(half())), four),
        ("kv-only at 50 % per head, 4-bit", Arc::new(KvOnly::per_head(half())), four),
    ];
    println!("{} prompt tokens on {}\n", prompt.len(), gpu.describe());
    for (name, policy, format) in cases {
        let kv = KvOptions { policy, format, ..KvOptions::full() };
        let options = SessionOptions { kv, context: Some(1024) };
        let mut session = Session::new(&model, &options)?;
        session.append(&prompt)?;
        let mut tokens = Vec::new();
        let mut answer = session.generate(&GenerateOptions { max_tokens: 24, ..Default::default() })?;
        while let Some(token) = answer.next().await {
            tokens.push(token?);
        }
        drop(answer);
        let kv = session.kv();
        let share = 100.0 * kv.bytes as f64 / kv.bytes_full_f16 as f64;
        println!("{name}: {:.2} MB, {share:.0} % of a full f16 cache", kv.bytes as f64 / 1e6);
        println!("    {}\n", model.text().decode(&tokens)?.trim());
    }
    Ok(())
}
