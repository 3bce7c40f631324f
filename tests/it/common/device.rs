//! One model for all tests of a binary, lent to one test at a time: the device's counters and cores are shared.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use benben::kv::{Format, policy::Policy};
use benben::{AdapterChoice, GenerateOptions, Gpu, KvOptions, LoadOptions, Model, Session, SessionOptions};
use pollster::block_on;

use super::files;

/// The model, until it is dropped.
pub struct Lease {
    model: &'static Arc<Model>,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Lease {
    type Target = Arc<Model>;

    fn deref(&self) -> &Arc<Model> {
        self.model
    }
}

/// Waits for the model, which the first caller loads; `None`, said aloud, where there is no model file.
pub fn model() -> Option<Lease> {
    static MODEL: OnceLock<Option<Arc<Model>>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let load = || {
        let path = files::model_file()?;
        let gpu = block_on(Gpu::open(&AdapterChoice::Best)).expect("an adapter");
        Some(block_on(Model::load(&gpu, path, &LoadOptions::default(), |_| ())).expect("the model loads"))
    };
    // A test that failed while it had the model has not harmed it.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = MODEL.get_or_init(load).as_ref()?;
    Some(Lease { model, _turn: turn })
}

pub fn session(model: &Arc<Model>, policy: impl Policy + 'static, format: Format) -> Session {
    let kv = KvOptions::new(policy, format);
    Session::new(model, &SessionOptions { kv, context: Some(2200) }).expect("a session")
}

/// The most probable `count` tokens after what was appended, whatever they are.
pub fn greedy(session: &mut Session, count: usize) -> Vec<u32> {
    let options = GenerateOptions { max_tokens: count, stop: Some(Vec::new()), ..Default::default() };
    let mut answer = session.generate(&options).expect("a prompt");
    let mut ids = Vec::new();
    while let Some(id) = block_on(answer.next()) {
        ids.push(id.expect("a token"));
    }
    ids
}
