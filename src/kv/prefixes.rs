//! Rows that later sequences may begin with, when their tokens begin as those of an earlier one did.
//!
//! Where a policy keeps every row, any common beginning serves, however long the earlier sequence was. Where it
//! selects rows, what it kept depends on all tokens that it saw, so only a whole state serves. Sequences that began
//! with the same rows hold the same pools: what is stored is a tree, and is found by comparing tokens.

use super::{KvOptions, SharedRows};

/// Fewer common tokens than this are run again: a shared tier costs a dispatch a layer in every step.
pub const LEAST_COMMON: usize = 16;

/// States of earlier sequences, at most so many bytes of them; the least recently used ones go first.
#[derive(Debug, Default)]
pub struct Prefixes {
    limit: u64,
    clock: u64,
    states: Vec<State>,
}

#[derive(Debug)]
struct State {
    /// Policy, budget, profile and formats.
    key: String,
    tokens: Vec<u32>,
    rows: SharedRows,
    used: u64,
}

/// How many tokens are the same from the start on.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    /// Keeps at most `limit` bytes from now on.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        self.evict();
    }

    /// True when states are kept at all.
    pub fn enabled(&self) -> bool {
        self.limit > 0
    }

    /// Bytes of what is kept; pools of several states count for each of them.
    pub fn bytes(&self) -> u64 {
        self.states.iter().map(|state| state.rows.bytes()).sum()
    }

    /// The rows of as many of the first `most` tokens as some earlier sequence can lend, and how many these are.
    pub fn find(&mut self, options: &KvOptions, tokens: &[u32], most: usize) -> Option<(usize, SharedRows)> {
        let (key, wanted) = (options.key(), &tokens[..most.min(tokens.len())]);
        let serves = |state: &State| {
            let common = common(&state.tokens, wanted);
            let whole = common == state.tokens.len();
            (state.key == key && (whole || options.divisible()))
                .then_some(common)
                .filter(|&n| n >= LEAST_COMMON)
        };
        let found = self.states.iter_mut().filter_map(|state| Some((serves(state)?, state)));
        let (count, state) = found.max_by_key(|(count, _)| *count)?;
        self.clock += 1;
        state.used = self.clock;
        let rows = if count < state.tokens.len() { state.rows.first(count) } else { state.rows.clone() };
        Some((count, rows))
    }

    /// Keeps the rows of a sequence of `tokens`. False when it does not, because they are too many or too few, or
    /// are there already.
    pub fn keep(&mut self, options: &KvOptions, tokens: &[u32], rows: SharedRows) -> bool {
        if tokens.len() < LEAST_COMMON || rows.bytes() > self.limit {
            return false;
        }
        let (key, divisible) = (options.key(), options.divisible());
        let covers = |long: &[u32], short: &[u32]| {
            common(long, short) == short.len() && (divisible || long.len() == short.len())
        };
        self.clock += 1;
        if let Some(state) = self.states.iter_mut().find(|s| s.key == key && covers(&s.tokens, tokens)) {
            state.used = self.clock;
            return false;
        }
        self.states.retain(|state| state.key != key || !covers(tokens, &state.tokens));
        self.states.push(State { key, tokens: tokens.to_vec(), rows, used: self.clock });
        self.evict();
        true
    }

    fn evict(&mut self) {
        while self.bytes() > self.limit {
            let Some(oldest) = (0..self.states.len()).min_by_key(|&i| self.states[i].used) else { return };
            self.states.swap_remove(oldest);
        }
    }
}

impl KvOptions {
    /// True when the rows of a sequence's first tokens are the same whatever follows them.
    pub fn divisible(&self) -> bool {
        !self.policy.one_shot() && self.policy.thinning().is_none()
    }
}
