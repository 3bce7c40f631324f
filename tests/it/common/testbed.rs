//! What several tests share: a tiny model, an independent decoder, the device.

use std::sync::{Arc, OnceLock};

use benben::weights::ModelFile;
use benben::{AdapterChoice, GenerateOptions, Gpu, LoadOptions, Model, Session, SessionOptions};
use pollster::block_on;

use super::tiny::Tiny;

/// The device that the tests of one program share.
pub fn gpu() -> Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| block_on(Gpu::open(&AdapterChoice::Best)).expect("a GPU adapter")).clone()
}

/// The tiny model on the shared device.
pub fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| load(&gpu(), &Tiny::new().file())).clone()
}

/// A sound model file on a device.
pub fn load(gpu: &Gpu, file: &ModelFile) -> Arc<Model> {
    block_on(Model::from_file(gpu, file, &LoadOptions::default(), |_| ())).expect("the tiny model loads")
}

/// A session on the shared model.
pub fn session(options: &SessionOptions) -> Session {
    Session::new(&model(), options).expect("a session")
}

/// The most probable `count` tokens after what was appended; no token stops them.
pub fn greedy(session: &mut Session, count: usize) -> Vec<u32> {
    let options = GenerateOptions { max_tokens: count, stop: Some(Vec::new()), ..GenerateOptions::default() };
    let mut answer = session.generate(&options).expect("an answer");
    let mut tokens = Vec::new();
    while let Some(token) = block_on(answer.next()) {
        tokens.push(token.expect("a token"));
    }
    tokens
}

/// Appends `prompt` and answers it greedily.
pub fn answer(session: &mut Session, prompt: &[u32], count: usize) -> Vec<u32> {
    session.append(prompt).expect("the prompt fits");
    greedy(session, count)
}
