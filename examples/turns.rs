//! What a session's memory is worth: the time to the first token of a third turn, by the session that has run the
//! first two, by one that has not, by a fork, and by one that begins with rows that the model has kept.
//!
//! `cargo run --release --example turns -- MODEL.gguf [TOKENS OF A LONG TURN]`

use std::sync::Arc;

use benben::{
    AdapterChoice, GenerateOptions, Gpu, KvOptions, LoadOptions, Model, Result, Session, SessionOptions,
    Timing,
};

/// Tokens of the third turn, and of an answer.
const SHORT: usize = 24;
/// Bytes of rows that the model keeps.
const KEPT: u64 = 1 << 30;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "model.gguf".to_owned());
    let long = args.next().and_then(|n| n.parse().ok()).unwrap_or(1000);
    pollster::block_on(async {
        let gpu = Gpu::open(&AdapterChoice::Best).await?;
        let model = Model::load(&gpu, path, &LoadOptions::default(), |_| ()).await?;
        let turns = [long, long, SHORT].map(|n| tokens(&model, n));
        let mut session = new_session(&model, 2 * long)?;
        for turn in &turns[..2] {
            say("a long turn", answer(&mut session, turn).await?);
        }
        let so_far = session.tokens().to_vec();
        let mut fork = session.fork()?;
        // Whatever is compiled for a turn after others is compiled here, and for a whole prompt above.
        answer(&mut session.fork()?, &turns[2]).await?;

        let kept = answer(&mut session, &turns[2]).await?;
        say("third turn, same session", kept);
        say("third turn, fork", answer(&mut fork, &turns[2]).await?);
        let whole = [&so_far[..], &turns[2]].concat();
        let again = answer(&mut new_session(&model, 2 * long)?, &whole).await?;
        say("third turn, nothing reused", again);
        model.keep_prefixes(KEPT);
        drop(session);
        say("third turn, kept beginning", answer(&mut new_session(&model, 2 * long)?, &whole).await?);
        println!("{:.0} times sooner", again.prefill.as_secs_f64() / kept.prefill.as_secs_f64());
        Ok(())
    })
}

fn new_session(model: &Arc<Model>, tokens: usize) -> Result<Session> {
    // Any common beginning serves only where every row is kept.
    let (kv, context) = (KvOptions::full(), Some(tokens + 8 * SHORT));
    Session::new(model, &SessionOptions { kv, context })
}

/// Arbitrary tokens; how long they take does not depend on what they are.
fn tokens(model: &Model, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((1000 + 7 * i % 4096) % model.config().vocab) as u32).collect()
}

async fn answer(session: &mut Session, turn: &[u32]) -> Result<Timing> {
    session.append(turn)?;
    let options = GenerateOptions { max_tokens: SHORT, stop: Some(Vec::new()), ..Default::default() };
    let mut answer = session.generate(&options)?;
    while let Some(token) = answer.next().await {
        token?;
    }
    drop(answer);
    Ok(session.timing())
}

fn say(what: &str, timing: Timing) {
    let (seconds, tokens) = (timing.prefill.as_secs_f64(), timing.prompt_tokens);
    println!("{what:28} {seconds:8.3} s to the first token, {tokens} prompt tokens ran");
}
