//! A village of characters who all think at once: one after the other in a session each, then side by side in an engine.
//!
//! `cargo run --release --example many_at_once -- MODEL.gguf`

use std::sync::Arc;
use std::time::Instant;

use benben::{
    AdapterChoice, Engine, EngineOptions, GenerateOptions, Gpu, LoadOptions, Message, Model, Request,
    Session, SessionOptions,
};

const CHARACTERS: [&str; 6] = ["a baker", "a smith", "a ferryman", "a teacher", "a thief", "the mayor"];

fn main() -> benben::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "model.gguf".to_owned());
    pollster::block_on(think(&path))
}

async fn think(path: &str) -> benben::Result<()> {
    let gpu = Gpu::open(&AdapterChoice::Best).await?;
    let model = Model::load(&gpu, path, &LoadOptions::default(), |_| ()).await?;
    let generate = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
    let prompt = |who: &str| {
        let system = format!("You are {who}. Answer in one short sentence.");
        model.text().prompt(&[Message::system(system), Message::user("What will you do today?")])
    };

    let mut alone = Vec::new();
    for who in CHARACTERS {
        alone.push(one(&model, &prompt(who)?, &generate).await?);
    }

    let engine =
        Engine::new(&model, &EngineOptions { max_sequences: CHARACTERS.len(), ..EngineOptions::default() })?;
    let started = Instant::now();
    let mut answers = Vec::new();
    for who in CHARACTERS {
        let (prompt, kv) = (prompt(who)?, Default::default());
        answers.push(engine.submit(Request {
            prompt,
            kv,
            generate: generate.clone(),
            ..Request::default()
        })?);
    }
    let mut count = 0;
    for (who, answer) in CHARACTERS.into_iter().zip(&mut answers) {
        let mut tokens = Vec::new();
        // Waiting for one drives all of them.
        while let Some(token) = answer.next().await {
            tokens.push(token?);
        }
        count += tokens.len();
        println!("{who}: {}", model.text().decode(&tokens)?.trim());
    }
    let (together, apart) = (started.elapsed().as_secs_f64(), alone.iter().sum::<f64>());
    println!(
        "\n{count} tokens in {together:.1} s, one after the other in {apart:.1} s on {}",
        gpu.describe()
    );
    Ok(())
}

/// Seconds that one of them takes alone.
async fn one(model: &Arc<Model>, prompt: &[u32], generate: &GenerateOptions) -> benben::Result<f64> {
    let options =
        SessionOptions { context: Some(prompt.len() + generate.max_tokens), ..SessionOptions::default() };
    let mut session = Session::new(model, &options)?;
    session.append(prompt)?;
    let started = Instant::now();
    let mut answer = session.generate(generate)?;
    while let Some(token) = answer.next().await {
        token?;
    }
    Ok(started.elapsed().as_secs_f64())
}
