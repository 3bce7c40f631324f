//! Conversations that have a beginning in common: forks of one, and later ones that begin as an earlier one did.

use std::sync::{MutexGuard, PoisonError};

use super::Sampling;
use super::session::{Session, SessionOptions};
use crate::kv::policy::Rank;
use crate::kv::{LEAST_COMMON, Prefixes};
use crate::model::Model;
use crate::{Error, Result};

impl Model {
    /// Lets this model's sessions begin with rows of earlier ones, and keeps at most `bytes` of rows for that; none
    /// are kept until this is called, and with 0 none from then on.
    ///
    /// A session's first prompt then runs from where it differs from what a session of the same policy, budget and
    /// row formats has run. With policy `full` any common beginning is used, of sessions that were dropped or cleared
    /// too; where a policy selects rows only what [`Session::prefill`] ran as a whole.
    pub fn keep_prefixes(&self, bytes: u64) {
        self.prefixes().set_limit(bytes);
    }

    pub(super) fn prefixes(&self) -> MutexGuard<'_, Prefixes> {
        // Nothing that runs under this lock leaves it half done.
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Another conversation that has said the same so far. It copies no rows: both read those that there are, and
    /// each goes on with its own. Either may be dropped, cleared or forked again.
    ///
    /// A fork of a conversation that was forked often copies once, so that few tiers are left to read.
    ///
    /// # Errors
    /// As [`Session::new`]; [`Error::Unsupported`] for a conversation that has rows on the host.
    pub fn fork(&mut self) -> Result<Self> {
        self.refuse_host("a fork")?;
        let options = SessionOptions { kv: self.seq.kv.clone(), context: Some(self.seq.context) };
        let mut fork = Self::new(&self.seq.model, &options)?;
        let rows = self.seq.cache.share(&mut self.desk.rec)?;
        self.desk.rec.submit();
        self.desk.rec.forget();
        fork.seq.cache.adopt(&mut fork.desk.rec, &rows)?;
        fork.seq.cache.copy_first_tokens(&mut fork.desk.rec, &self.seq.cache);
        self.seq.model.gpu().write(&fork.seq.ids, 0, &self.seq.tokens);
        fork.seq.tokens.clone_from(&self.seq.tokens);
        (fork.seq.cached, fork.seq.drawn) = (self.seq.cached, self.seq.drawn);
        Ok(fork)
    }

    /// Runs what was appended as a block of its own, without an answer, and submits all of it at once. What many
    /// conversations have in common is run so before [`Session::fork`], and kept for sessions to come if the model
    /// keeps any ([`Model::keep_prefixes`]). Append at least one more token before an answer is generated.
    ///
    /// # Errors
    /// What running it may refuse.
    pub fn prefill(&mut self) -> Result<()> {
        self.begin_with_kept(self.seq.tokens.len())?;
        if self.seq.cached == self.seq.tokens.len() {
            return Ok(());
        }
        let mut course = self.seq.begin(&mut self.desk, 0)?;
        while !course.at_head() {
            self.advance(&mut course, &Sampling::default())?;
            self.desk.rec.submit();
        }
        // The first tokens of a stream move, and what they are rotated from is the session's own.
        let moves = self.seq.kv.policy.rank() == Some(Rank::Age);
        if !moves && self.seq.model.prefixes().enabled() && !self.seq.cache.offloads() {
            let rows = self.seq.cache.share(&mut self.desk.rec)?;
            self.desk.rec.submit();
            self.desk.rec.forget();
            self.seq.model.prefixes().keep(&self.seq.kv, &self.seq.tokens, rows);
        }
        Ok(())
    }

    /// Adds tokens that other conversations begin with too. Where the model keeps such beginnings and the policy keeps
    /// every row of this one, they run at once as a block of their own, unless a session before has run them.
    ///
    /// # Errors
    /// As [`Session::append`] and [`Session::prefill`].
    pub fn append_common(&mut self, tokens: &[u32]) -> Result<()> {
        self.append(tokens)?;
        if tokens.len() < LEAST_COMMON || !self.seq.model.prefixes().enabled() {
            return Ok(());
        }
        let plan =
            self.seq.kv.policy.plan(self.seq.tokens.len() - self.seq.cached, self.seq.cache.depth())?;
        if plan.layers.iter().any(|rows| rows.drops()) { Ok(()) } else { self.prefill() }
    }

    /// Lets an empty cache begin with rows that the model has kept, for at most `most` tokens.
    pub(super) fn begin_with_kept(&mut self, most: usize) -> Result<()> {
        if self.seq.cached > 0 {
            return Ok(());
        }
        let found = self.seq.model.prefixes().find(&self.seq.kv, &self.seq.tokens, most);
        if let Some((count, rows)) = found {
            self.seq.cache.adopt(&mut self.desk.rec, &rows)?;
            self.desk.rec.forget();
            self.seq.cached = count;
        }
        Ok(())
    }

    /// Fails where rows are on the host: what cannot take them along must not go on as if they had never been.
    pub(super) fn refuse_host(&self, what: &str) -> Result<()> {
        match self.seq.cache.host_report().map_or(0, |host| host.rows) {
            0 => Ok(()),
            rows => Err(Error::Unsupported {
                need: format!("{what} of a conversation with {rows} rows on the host"),
                have: "such copies only of rows on the device".to_owned(),
            }),
        }
    }

    /// Leaves the rows to later sessions, if the model keeps any and any beginning of these serves. True when it did:
    /// then this one must not write to them any more.
    pub(super) fn leave_rows(&mut self) -> bool {
        let mut prefixes = self.seq.model.prefixes();
        if !prefixes.enabled() || !self.seq.kv.divisible() || self.seq.cached == 0 {
            return false;
        }
        self.desk.rec.submit();
        prefixes.keep(&self.seq.kv, &self.seq.tokens[..self.seq.cached], self.seq.cache.held())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave_rows();
    }
}
