//! One request, and what it will take.

use crate::engine::GenerateOptions;
use crate::engine::sequence::{check_room, first_room};
use crate::kv::policy::Bounds;
use crate::kv::{KvOptions, Role, TierRows, Tiers};
use crate::model::{Config, Model};
use crate::plan::{Limits, Plan};
use crate::{Advice, Error, Result};

/// A prompt to answer. It is answered as by a session whose context is the prompt and `generate.max_tokens`.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The cache's policy and row formats.
    pub kv: KvOptions,
    /// How the answer is generated.
    pub generate: GenerateOptions,
    /// Does not run the prompt but for its last token, and puts random rows in the place of the others', as many as the
    /// policy leaves: to measure how fast a step is after prompts that would take too long.
    pub random_rows: bool,
}

/// A request that can run, as soon as there is room for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub id: u64,
    pub request: Request,
    /// Tokens of prompt and answer.
    pub context: usize,
    /// Rows that each layer needs room for.
    pub room: Vec<TierRows>,
    /// Bytes of that room.
    pub bytes: u64,
}

impl Waiting {
    /// Checks a request against what the model, the engine's context and its memory allow.
    pub fn new(
        id: u64,
        request: Request,
        model: &Model,
        most_context: usize,
        memory: Option<u64>,
    ) -> Result<Self> {
        let config = model.config();
        let (prompt, answer) = (request.prompt.len(), request.generate.max_tokens);
        if prompt == 0 || answer == 0 {
            return Err(Error::Invalid(format!(
                "a request needs a prompt and an answer of at least one token each, not {prompt} and {answer}"
            )));
        }
        check_room(config, most_context, 1, &request.prompt)?;
        if request.kv.offload.is_some() {
            return Err(Error::Unsupported {
                need: "rows on the host for one sequence among many".to_owned(),
                have: "a host tier for sessions only".to_owned(),
            });
        }
        let kv = request.kv.suited(config.heads, config.profile.as_ref());
        let context = (prompt.saturating_add(answer)).min(most_context);
        Plan::session(config, &kv, context)?.check(&Limits::of(model.gpu(), None))?;
        let bounds = Bounds::new(&kv, config.kv_layers(), context)?;
        let room = first_room(config, &kv, bounds.as_ref(), prompt, context - prompt)?;
        let bytes = room_bytes(config, &kv, &room);
        if let Some(limit) = memory.filter(|&limit| bytes > limit) {
            return Err(Error::DoesNotFit {
                what: format!(
                    "the rows of a prompt of {prompt} tokens and an answer of {}",
                    context - prompt
                ),
                need: bytes,
                limit_name: "the memory of the engine's rows".to_owned(),
                limit,
                advice: vec![Advice::ShorterAnswer, Advice::SmallerShare],
            });
        }
        Ok(Self { id, request: Request { kv, ..request }, context, room, bytes })
    }
}

/// Bytes that pools with so much room take, their tables included.
fn room_bytes(config: &Config, kv: &KvOptions, room: &[TierRows]) -> u64 {
    let (tiers, tables) = (Tiers::new(kv), if kv.policy.per_head() { config.heads.kv } else { 1 });
    let layer = |rows: &TierRows| {
        let pools = Role::ALL.into_iter().filter(|&role| tiers.format(role).is_some());
        let slots: usize = pools.map(|role| crate::kv::capacity(role, rows.of(role))).sum();
        tiers.bytes(*rows, config.heads) + (16 * tables * slots) as u64
    };
    room.iter().map(layer).sum()
}
