//! What a page may ask of a conversation at any time, also amid an answer.

use serde::Serialize;

/// What `stats` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Every token of the conversation.
    #[serde(skip)]
    pub ids: Vec<u32>,
    prompt_tokens: usize,
    prefill_seconds: f64,
    prefill_rate: f64,
    answer_tokens: usize,
    decode_seconds: f64,
    decode_rate: f64,
    tokens: usize,
    kv_bytes: u64,
    kv_bytes_full_f16: u64,
    rows_per_layer: Vec<usize>,
    host: Option<crate::HostReport>,
}

impl Report {
    pub fn of(session: &crate::Session) -> Self {
        let (kv, timing) = (session.kv(), session.timing());
        Self {
            ids: session.tokens().to_vec(),
            prompt_tokens: timing.prompt_tokens,
            prefill_seconds: timing.prefill.as_secs_f64(),
            prefill_rate: timing.prefill_rate(),
            answer_tokens: timing.answer_tokens,
            decode_seconds: timing.decode.as_secs_f64(),
            decode_rate: timing.decode_rate(),
            tokens: session.tokens().len(),
            kv_bytes: kv.bytes,
            kv_bytes_full_f16: kv.bytes_full_f16,
            rows_per_layer: kv.rows_per_layer,
            host: kv.host,
        }
    }
}
