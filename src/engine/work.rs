//! The next piece of work of a sequence, a layer at a time.
//!
//! A piece is small enough to fit between two frames of a game, and nothing of the model's output depends on how
//! pieces are grouped into submissions.

use super::sequence::{Desk, Sequence, plan_block};
use crate::gpu::{Pending, Recorder};
use crate::kernels::sample::{Draw, Sampling, sample};
use crate::kv::policy::{BlockPlan, Full, Policy, ThinStep, ThinningState};
use crate::kv::{Cache, TierRows};
use crate::model::{Block, DecodeRow, DecodeWindow};
use crate::plan::block_rows;
use crate::{Error, Result};

/// The newest tokens that the repetition penalty looks at.
const PENALTY_WINDOW: usize = 64;

/// What a sequence is in the middle of.
#[derive(Debug, Default)]
pub(super) enum Work {
    /// Between two tokens or blocks.
    #[default]
    Ready,
    /// A block of this many prompt tokens.
    Prefill(Block, usize),
    /// A decode step, before this layer.
    Decode(usize),
    /// The logits and the sampling of a token.
    Head,
}

/// The kind of a piece; pieces of a kind take about as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Prefill,
    Decode,
    Head,
}

/// One answer in the making.
#[derive(Debug, Default)]
pub(super) struct Course {
    pub work: Work,
    /// Tokens on the device, those included that the host has not read yet.
    pub total: usize,
    /// Rows of each layer when the current block or step began.
    checkpoint: Vec<TierRows>,
    /// Tokens when the answer began: what a policy that thins calls the prompt.
    pub prompt: usize,
    /// The row of the decode step that the prompt's last row goes to.
    pub row: usize,
}

impl Course {
    /// True when the whole prompt has run and its last row waits for the head.
    pub fn at_head(&self) -> bool {
        matches!(self.work, Work::Head)
    }

    /// Rows of the block under way, in the share of the layers that they have run through.
    pub fn rows_done(&self) -> usize {
        match &self.work {
            Work::Prefill(block, count) => (*count as f64 * block.share_done()) as usize,
            _ => 0,
        }
    }
}

impl Sequence {
    /// Starts an answer: room for the pending prompt and for `answer` tokens.
    pub(super) fn begin(&mut self, desk: &mut Desk, answer: usize) -> Result<Course> {
        let pending = self.tokens.len() - self.cached;
        if pending == 0 {
            return Err(Error::Invalid("there is no prompt to answer; append one first".to_owned()));
        }
        if self.bounds.is_some() {
            // Any row may have to go, so none may be somebody else's too.
            self.cache.unshare(&mut desk.rec)?;
        }
        let layers = self.model.config().kv_layers();
        self.cache.dismiss();
        // Every block but the last keeps all its rows, so one plan of the whole says how many there will be.
        let gains = match pending {
            1 => vec![TierRows::in_main(1); layers],
            _ => {
                let plan = self.plan_block(pending)?;
                self.cache.reserve_host(&mut desk.rec, &plan);
                plan.gains(self.cache.tiers(), self.cached == 0)
            }
        };
        self.reserve(desk, pending, gains, answer)?;
        self.thinning = None;
        let (total, prompt) = (self.tokens.len(), self.tokens.len());
        Ok(Course { work: Work::Ready, total, checkpoint: self.cache.checkpoint(), prompt, row: 0 })
    }

    /// The kind of the next piece.
    pub(super) fn next_kind(&self, course: &Course) -> Kind {
        match course.work {
            Work::Ready if course.total - self.cached > 1 => Kind::Prefill,
            Work::Ready | Work::Decode(_) => Kind::Decode,
            Work::Prefill(..) => Kind::Prefill,
            Work::Head => Kind::Head,
        }
    }

    /// Records the next piece. Returns the read-back of a token if the piece sampled one.
    pub(super) fn advance(
        &mut self,
        desk: &mut Desk,
        course: &mut Course,
        sampling: &Sampling,
    ) -> Result<Option<Pending<u32>>> {
        match std::mem::take(&mut course.work) {
            Work::Ready if course.total - self.cached > 1 => {
                let (block, count) = self.next_block(desk, false)?;
                course.checkpoint = self.cache.checkpoint();
                self.prefill_piece(desk, course, block, count)?;
            }
            Work::Ready => {
                self.begin_decode(course);
                let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
                self.model.begin_step(&mut desk.rec, d, &[(&self.ids, self.cached)])?;
                self.decode_piece(desk, course, 0)?;
            }
            Work::Prefill(block, count) => self.prefill_piece(desk, course, block, count)?,
            Work::Decode(layer) => self.decode_piece(desk, course, layer)?,
            Work::Head => return self.head_piece(desk, course, sampling).map(Some),
        }
        Ok(None)
    }

    /// What happens to the next `count` tokens of the prompt as a block: what the policy plans, within the bounds.
    fn plan_block(&self, count: usize) -> Result<BlockPlan> {
        let (tiers, live) = (self.cache.tiers(), self.cache.checkpoint());
        plan_block(&self.kv, self.bounds.as_deref(), tiers, &live, self.cached == 0, count)
    }

    /// The next block of prompt tokens, begun.
    pub(super) fn next_block(&mut self, desk: &mut Desk, all_rows: bool) -> Result<(Block, usize)> {
        let (pending, config) = (self.tokens.len() - self.cached, self.model.config());
        let (plan, count, bounds) = if all_rows {
            (Full.plan(pending, config.kv_layers())?, pending, None)
        } else {
            let count = block_rows(&self.kv, config, pending);
            (self.plan_block(count)?, count, self.bounds.clone())
        };
        let block = Block::new(plan, self.cached, self.kv.policy.per_head(), all_rows, config.kv_sharing);
        let block = block.within(bounds);
        let s = desk.prefill.as_ref().ok_or_else(not_reserved)?;
        let tokens = &self.tokens[self.cached..self.cached + count];
        self.model.begin_block(&mut desk.rec, s, &block, tokens)?;
        Ok((block, count))
    }

    fn prefill_piece(
        &mut self,
        desk: &mut Desk,
        course: &mut Course,
        mut block: Block,
        count: usize,
    ) -> Result<()> {
        let s = desk.prefill.as_ref().ok_or_else(not_reserved)?;
        let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
        let group = block.group();
        let dropped = self.model.prefill_layer(&mut desk.rec, s, d, &mut self.cache, &mut block)?;
        // What made room is gone, even if the block never happened.
        course.checkpoint[group].main -= dropped;
        if !block.is_done() {
            course.work = Work::Prefill(block, count);
            return Ok(());
        }
        self.cached += count;
        if self.cached == course.total {
            self.model.take_last_row(&mut desk.rec, s, &block, d, course.row);
            course.work = Work::Head;
        }
        Ok(())
    }

    /// Notes where a decode step begins.
    pub(super) fn begin_decode(&mut self, course: &mut Course) {
        course.checkpoint = self.cache.checkpoint();
        if self.thinning.is_none() {
            let start = |rule| ThinningState::new(rule, &self.cache.main_rows());
            self.thinning = self.kv.policy.thinning().map(start);
        }
    }

    fn decode_piece(&mut self, desk: &mut Desk, course: &mut Course, layer: usize) -> Result<()> {
        let model = self.model.clone();
        let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
        let (group, before) = (layer / model.config().kv_sharing, self.due_before(layer));
        model.thin_layer(&mut desk.rec, d, &mut self.leaving(before), group)?;
        let row = self.decode_row(course, layer);
        model.decode_layer(&mut desk.rec, d, &mut [row], layer)?;
        let after = self.due_after(course, layer);
        model.thin_layer(&mut desk.rec, d, &mut self.leaving(after), group)?;
        self.end_layer(&mut desk.rec, course, layer);
        Ok(())
    }

    /// The rows of this sequence, with what is due to leave them.
    fn leaving(&mut self, due: Option<ThinStep>) -> Vec<(&mut Cache, ThinStep)> {
        due.map(|due| (&mut self.cache, due)).into_iter().collect()
    }

    /// The rows that a layer of a decode step reads or writes, and whether it is the first and the last of those that share
    /// them.
    fn group_of(&self, layer: usize) -> (usize, bool, bool) {
        let sharing = self.model.config().kv_sharing;
        (layer / sharing, layer.is_multiple_of(sharing), (layer + 1).is_multiple_of(sharing))
    }

    /// What leaves a layer's rows before a decode step reads them.
    pub(super) fn due_before(&self, layer: usize) -> Option<ThinStep> {
        let (group, first, _) = self.group_of(layer);
        self.bounds.as_ref().filter(|_| first)?.due(group, self.cached, self.cache.live(group))
    }

    /// What a layer of a decode step needs to know.
    pub(super) fn decode_row(&mut self, course: &Course, layer: usize) -> DecodeRow<'_> {
        // Of layers that share rows, the last one's attention counts.
        let (group, _, counts) = self.group_of(layer);
        let window = self.thinning.as_ref().filter(|_| counts).map(|t| DecodeWindow {
            prompt: course.prompt,
            block: t.rule().exceed,
            first: t.first(group),
        });
        let observation =
            self.bounds.as_ref().filter(|_| counts).and_then(|b| b.observes(group, self.cached));
        let asks = self.asks(course) && counts;
        DecodeRow { cache: &mut self.cache, position: self.cached, window, observation, asks }
    }

    /// What leaves a layer's rows once a decode step has read them.
    pub(super) fn due_after(&mut self, course: &Course, layer: usize) -> Option<ThinStep> {
        let (group, _, counts) = self.group_of(layer);
        // The first layer's row count decides for all of them, as it stood when the step began.
        let first_rows = course.checkpoint[0].main + 1;
        let rows = self.cache.shared_main(group) + self.cache.main(group).live;
        self.thinning.as_mut().filter(|_| counts)?.due(group, rows, first_rows)
    }

    /// Notes that a layer of a decode step is recorded.
    pub(super) fn end_layer(&mut self, rec: &mut Recorder, course: &mut Course, layer: usize) {
        if layer + 1 < self.model.config().layers {
            course.work = Work::Decode(layer + 1);
            return;
        }
        if self.asks(course) {
            self.ask(rec);
        }
        self.cached += 1;
        course.work = Work::Head;
    }

    fn head_piece(
        &mut self,
        desk: &mut Desk,
        course: &mut Course,
        sampling: &Sampling,
    ) -> Result<Pending<u32>> {
        let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
        self.model.logits(&mut desk.rec, d, 1)?;
        sample(&mut desk.rec, &d.logits, self.model.config().vocab, &[self.draw(course, 0, sampling)])?;
        let token = desk.rec.read(&self.ids, course.total, 1);
        self.note_draw(course);
        Ok(token)
    }

    /// The draw of the next token from a row of logits.
    pub(super) fn draw<'a>(&'a self, course: &Course, row: usize, sampling: &'a Sampling) -> Draw<'a> {
        let window = PENALTY_WINDOW.min(course.total);
        let (history, at) = ((course.total - window, window), course.total);
        Draw { tokens: &self.ids, history, at, row, step: self.drawn, sampling }
    }

    /// Notes that a token was drawn.
    pub(super) fn note_draw(&mut self, course: &mut Course) {
        self.drawn = self.drawn.wrapping_add(1);
        course.total += 1;
        course.work = Work::Ready;
    }

    /// Ends an answer wherever it is: what the host does not know, and what is half done, never happened. The
    /// newest token stays pending, so that the answer can always be continued.
    pub(super) fn end(&mut self, course: &Course) {
        match course.work {
            Work::Prefill(..) => {
                self.cache.restore(&course.checkpoint);
                self.cache.forget_offloaded(self.cached);
            }
            // Where the unfinished step ran, its row is the newest; rows that it thinned stay dropped.
            Work::Decode(layers) => {
                let groups = layers / self.model.config().kv_sharing;
                (0..groups).for_each(|group| self.cache.drop_rows(group, 1));
            }
            Work::Ready | Work::Head => {}
        }
        let settled = self.tokens.len().saturating_sub(1);
        self.cache.truncate(self.cached.saturating_sub(settled));
        self.cached = self.cached.min(settled);
        (self.thinning, self.asked) = (None, None);
    }
}

/// `begin` reserves before any piece runs, so reaching this is a bug.
pub(super) fn not_reserved() -> Error {
    Error::Internal("a sequence ran before room for its activations was reserved".to_owned())
}
