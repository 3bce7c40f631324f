//! The tiers of a layer: what each is for, in which format, and how many rows of a block it gets.
//!
//! ```text
//!   sinks   the first tokens, in 8 bits where the other rows have fewer: attention rests on them
//!   tail    rows of middling score, in fewer bits than the main ones
//!   main    all others; new rows go here
//! ```

use super::KvOptions;
use super::policy::SINKS;
use crate::kernels::kv_code::KvBits;
use crate::kernels::kv_row::{Format, Heads, KvRows};

/// What a tier is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The first tokens.
    Sinks,
    /// Rows in fewer bits.
    Tail,
    /// All others.
    Main,
}

impl Role {
    /// In the order that rows are read in.
    pub const ALL: [Self; 3] = [Self::Sinks, Self::Tail, Self::Main];
}

/// A number of rows for each tier of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierRows {
    /// First tokens.
    pub sinks: usize,
    /// Rows in fewer bits.
    pub tail: usize,
    /// All others.
    pub main: usize,
}

impl TierRows {
    /// Rows of the main tier alone.
    pub fn in_main(main: usize) -> Self {
        Self { main, ..Self::default() }
    }

    /// All of them.
    pub fn total(self) -> usize {
        self.sinks + self.tail + self.main
    }

    /// Those of one tier.
    pub fn of(self, role: Role) -> usize {
        match role {
            Role::Sinks => self.sinks,
            Role::Tail => self.tail,
            Role::Main => self.main,
        }
    }
}

/// The formats of a cache's tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiers {
    sinks: Option<Format>,
    tail: Option<Format>,
    main: Format,
}

impl Tiers {
    /// The tiers that options ask for.
    pub fn new(options: &KvOptions) -> Self {
        let main = options.format;
        let coarse = |bits: KvBits| bits.bits() < 8;
        let sinks = (coarse(main.k) || coarse(main.v)).then_some(Format::both(KvBits::Eight));
        Self { sinks, tail: options.tail, main }
    }

    /// The format of a tier; absent, there is no such tier.
    pub fn format(&self, role: Role) -> Option<Format> {
        match role {
            Role::Sinks => self.sinks,
            Role::Tail => self.tail,
            Role::Main => Some(self.main),
        }
    }

    /// Where `retain` rows of a block go, of which the first `sinks` open the sequence and `tail` rank lowest.
    pub fn split(&self, retain: usize, sinks: usize, tail: usize) -> TierRows {
        let sinks = if self.sinks.is_some() { sinks.min(SINKS).min(retain) } else { 0 };
        let tail = if self.tail.is_some() { tail.min(retain - sinks) } else { 0 };
        TierRows { sinks, tail, main: retain - sinks - tail }
    }

    /// Bytes of so many rows, their steps included.
    pub fn bytes(&self, rows: TierRows, heads: Heads) -> u64 {
        let of =
            |role| self.format(role).map_or(0, |format| rows.of(role) as u64 * format.bytes_per_token(heads));
        Role::ALL.into_iter().map(of).sum()
    }
}

/// Rows of one layer in one format. Clones share the pool; each counts the live rows that it sees.
#[derive(Debug, Clone)]
pub struct Tier {
    /// What it is for.
    pub role: Role,
    /// The pool and its table.
    pub rows: KvRows,
    /// How many rows live.
    pub live: usize,
}
