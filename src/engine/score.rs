//! What the model makes of a prompt, without an answer: its logits, or the loss of a given continuation.

use super::session::Session;
use super::work::{Course, not_reserved};
use crate::gpu::Class;
use crate::kernels::nll::nll;
use crate::kv::TierRows;
use crate::model::{Block, PrefillScratch};
use crate::{Error, Result};

impl Session {
    /// Runs what was appended as the policy says and returns the logits of its last token, one for each entry of
    /// the vocabulary. That token stays pending, so an answer can be generated as if nobody had looked.
    ///
    /// # Errors
    /// [`Error::Invalid`] when nothing was appended, [`Error::DeviceLost`].
    pub async fn logits(&mut self) -> Result<Vec<f32>> {
        let course = self.run_prompt(0)?;
        let vocab = self.seq.model.config().vocab;
        let d = self.desk.decode.as_ref().ok_or_else(not_reserved)?;
        let logits = self.desk.rec.read(&d.logits, 0, vocab);
        self.desk.rec.submit();
        // Before the wait, so that a caller who gives it up leaves a sound session.
        self.seq.end(&course);
        let logits = logits.await?;
        self.seq.model.gpu().check()?;
        Ok(logits)
    }

    /// Runs `prefix` as the policy says and returns the natural-log loss of every token of `continuation`, which
    /// sees what is left of the prefix and all of itself. The session is empty before and holds both after.
    ///
    /// Rows that a prefill drops are never scored: their losses would be those of another model.
    ///
    /// # Errors
    /// [`Error::ContextFull`], [`Error::Invalid`] for an empty prefix or continuation, [`Error::DeviceLost`].
    pub async fn losses(&mut self, prefix: &[u32], continuation: &[u32]) -> Result<Vec<f32>> {
        self.run_prefix(prefix, continuation)?;
        let vocab = self.seq.model.config().vocab;
        let gpu = self.seq.model.gpu().clone();
        let out = gpu.tensor::<f32>(Class::Scratch, "losses", continuation.len());
        let targets = gpu.tensor_with(Class::Scratch, "targets", continuation);
        let d = self.desk.decode.as_ref().ok_or_else(not_reserved)?;
        nll(&mut self.desk.rec, &d.logits, targets.bind(), 1, vocab, &out, 0)?;
        if let Some(block) = self.run_continuation(continuation)? {
            let s = self.desk.prefill.as_ref().ok_or_else(not_reserved)?;
            self.seq.model.block_losses(&mut self.desk.rec, s, &block, &continuation[1..], &out, 1)?;
        }
        let losses = self.desk.rec.read(&out, 0, continuation.len());
        self.desk.rec.submit();
        let losses = losses.await?;
        gpu.check()?;
        Ok(losses)
    }

    /// Runs the pending tokens up to the logits of the last one, with room for `answer` tokens after them.
    fn run_prompt(&mut self, answer: usize) -> Result<Course> {
        let mut course = self.seq.begin(&mut self.desk, answer)?;
        while !course.at_head() {
            self.advance(&mut course, &super::Sampling::default())?;
            self.desk.rec.submit();
        }
        let d = self.desk.decode.as_ref().ok_or_else(not_reserved)?;
        self.seq.model.logits(&mut self.desk.rec, d, 1)?;
        Ok(course)
    }

    /// Runs `prefix` in an empty session up to the logits of its last token, with room for `continuation`.
    pub(super) fn run_prefix(&mut self, prefix: &[u32], continuation: &[u32]) -> Result<()> {
        if prefix.is_empty() || continuation.is_empty() {
            return Err(Error::Invalid(
                "a loss needs a prefix and a continuation of at least one token".to_owned(),
            ));
        }
        self.seq.check_room(prefix.len(), continuation)?;
        self.clear();
        self.append(prefix)?;
        self.run_prompt(continuation.len()).map(drop)
    }

    /// Runs all but the last token of `continuation` as one dense block after the prefix; `None` where that leaves
    /// no row.
    pub(super) fn run_continuation(&mut self, continuation: &[u32]) -> Result<Option<Block>> {
        let tokens = &continuation[..continuation.len().saturating_sub(1)];
        if tokens.is_empty() {
            return Ok(None);
        }
        self.append(tokens)?;
        let most = self.seq.cache.most_rows();
        let config = self.seq.model.config();
        if !self.desk.prefill.as_ref().is_some_and(|s| s.fits(tokens.len(), most, 0)) {
            let gpu = self.seq.model.gpu();
            self.desk.prefill = Some(PrefillScratch::new(gpu, config, tokens.len(), most, 0));
        }
        let layers = config.kv_layers();
        self.seq.cache.reserve(&mut self.desk.rec, &vec![TierRows::in_main(tokens.len()); layers]);
        let (mut block, count) = self.seq.next_block(&mut self.desk, true)?;
        let s = self.desk.prefill.as_ref().ok_or_else(not_reserved)?;
        let d = self.desk.decode.as_ref().ok_or_else(not_reserved)?;
        while !block.is_done() {
            self.seq.model.prefill_layer(&mut self.desk.rec, s, d, &mut self.seq.cache, &mut block)?;
            self.desk.rec.submit();
        }
        self.seq.cached += count;
        Ok(Some(block))
    }
}
