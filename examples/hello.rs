//! The README's ten lines: load a model, ask it something, print the answer as it comes.
//!
//! `cargo run --release --example hello -- MODEL.gguf`

use std::io::Write;

use benben::{AdapterChoice, GenerateOptions, Gpu, LoadOptions, Message, Model, Session, SessionOptions};

fn main() -> benben::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "model.gguf".to_owned());
    pollster::block_on(async {
        let gpu = Gpu::open(&AdapterChoice::Best).await?;
        let model = Model::load(&gpu, path, &LoadOptions::default(), |_| ()).await?;
        let mut session = Session::new(&model, &SessionOptions::default())?;
        session.append(&model.text().prompt(&[Message::user("What is the capital of France?")])?)?;
        let mut text = model.text().stream();
        let mut answer = session.generate(&GenerateOptions { max_tokens: 32, ..Default::default() })?;
        while let Some(token) = answer.next().await {
            print!("{}", text.push(token?)?);
            std::io::stdout().flush().ok();
        }
        println!("{}", text.finish());
        Ok(())
    })
}
