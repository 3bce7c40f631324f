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
        let options = SessionOptions { kv: self.kv.clone(), context: Some(self.context) };
        let mut fork = Self::new(&self.model, &options)?;
        let rows = self.cache.share(&mut self.rec)?;
        self.rec.submit();
        self.rec.forget();
        fork.cache.adopt(&mut fork.rec, &rows)?;
        fork.cache.copy_first_tokens(&mut fork.rec, &self.cache);
        self.model.gpu().write(&fork.ids, 0, &self.tokens);
        fork.tokens.clone_from(&self.tokens);
        (fork.cached, fork.drawn) = (self.cached, self.drawn);
        Ok(fork)
    }

    /// Runs what was appended as a block of its own, without an answer, and submits all of it at once. What many
    /// conversations have in common is run so before [`Session::fork`], and kept for sessions to come if the model
    /// keeps any ([`Model::keep_prefixes`]). Append at least one more token before an answer is generated.
    ///
    /// # Errors
    /// What running it may refuse.
    pub fn prefill(&mut self) -> Result<()> {
        self.begin_with_kept(self.tokens.len())?;
        if self.cached == self.tokens.len() {
            return Ok(());
        }
        let mut course = self.begin(0)?;
        while !course.at_head() {
            self.advance(&mut course, &Sampling::default())?;
            self.rec.submit();
        }
        // The first tokens of a stream move, and what they are rotated from is the session's own.
        let moves = self.kv.policy.rank() == Some(Rank::Age);
        if !moves && self.model.prefixes().enabled() && !self.cache.offloads() {
            let rows = self.cache.share(&mut self.rec)?;
            self.rec.submit();
            self.rec.forget();
            self.model.prefixes().keep(&self.kv, &self.tokens, rows);
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
        if tokens.len() < LEAST_COMMON || !self.model.prefixes().enabled() {
            return Ok(());
        }
        let plan = self.kv.policy.plan(self.tokens.len() - self.cached, self.cache.depth())?;
        if plan.layers.iter().any(|rows| rows.drops()) { Ok(()) } else { self.prefill() }
    }

    /// Lets an empty cache begin with rows that the model has kept, for at most `most` tokens.
    pub(super) fn begin_with_kept(&mut self, most: usize) -> Result<()> {
        if self.cached > 0 {
            return Ok(());
        }
        let found = self.model.prefixes().find(&self.kv, &self.tokens, most);
        if let Some((count, rows)) = found {
            self.cache.adopt(&mut self.rec, &rows)?;
            self.rec.forget();
            self.cached = count;
        }
        Ok(())
    }

    /// Fails where rows are on the host: what cannot take them along must not go on as if they had never been.
    pub(super) fn refuse_host(&self, what: &str) -> Result<()> {
        match self.cache.host_report().map_or(0, |host| host.rows) {
            0 => Ok(()),
            rows => Err(Error::Unsupported {
                need: format!("{what} of a conversation with {rows} rows on the host"),
                have: "such copies only of rows on the device; leave out --offload".to_owned(),
            }),
        }
    }

    /// Leaves the rows to later sessions, if the model keeps any and any beginning of these serves. True when it did:
    /// then this one must not write to them any more.
    pub(super) fn leave_rows(&mut self) -> bool {
        let mut prefixes = self.model.prefixes();
        if !prefixes.enabled() || !self.kv.divisible() || self.cached == 0 {
            return false;
        }
        self.rec.submit();
        prefixes.keep(&self.kv, &self.tokens[..self.cached], self.cache.held())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave_rows();
    }
}
