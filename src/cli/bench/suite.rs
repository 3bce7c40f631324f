//! The built-in grids: what each is to show, and what flags may put in their place.

use clap::ValueEnum;

use super::cache::Cache;
use crate::cli::args::count;

/// A grid of batches, prompts and caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// A first look: two minutes on two cores.
    Quick,
    /// What a batch brings.
    Batch,
    /// Whether tokens stay as fast however long the prompt was.
    Depth,
    /// What a fraction of the bytes brings, and how many sequences fit into what few took.
    Share,
    /// PyramidInfer's setting: 32 sequences of 512 and 256 tokens.
    Paper,
}

#[derive(Debug, clap::Args)]
pub struct SuiteArgs {
    /// Measure a grid of batches, prompts and caches, and compare its tokens with those of single sequences
    #[arg(long, value_enum, value_name = "NAME")]
    pub suite: Option<Suite>,
    /// Sequences side by side [default: the suite's]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = count, requires = "suite")]
    batches: Vec<usize>,
    /// Tokens of each prompt [default: the suite's]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = count, requires = "suite")]
    prompts: Vec<usize>,
    /// Tokens of each answer [default: the suite's]
    #[arg(long, value_name = "N", value_parser = count, requires = "suite")]
    answer: Option<usize>,
    /// Caches: full, full-4, auto-12, rows-512, pyramid-13b and their like [default: the suite's]
    #[arg(long, value_name = "CACHE", value_delimiter = ',', requires = "suite")]
    caches: Vec<Cache>,
    /// Sequences of a cell whose tokens are compared with those of the sequence alone
    #[arg(long, value_name = "N", default_value = "4", value_parser = count, requires = "suite")]
    pub compare: usize,
    /// Tokens of prompts and answers that one step computes at most [default: the engine's]
    #[arg(long, value_name = "N", value_parser = count, requires = "suite")]
    pub step_tokens: Option<usize>,
    /// Put random rows in the place of prompts, as many as the cache keeps of them: decode after long prompts
    #[arg(long, requires = "suite")]
    pub random_rows: bool,
    /// Leave a cell after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = count, requires = "suite")]
    pub cell_seconds: usize,
    /// Write a page with plots
    #[arg(long, value_name = "FILE", requires = "suite")]
    pub html: Option<std::path::PathBuf>,
}

/// Every batch with every prompt under every cache.
#[derive(Debug, Clone)]
pub struct Grid {
    pub batches: Vec<usize>,
    /// Tokens.
    pub prompts: Vec<usize>,
    /// Tokens.
    pub answer: usize,
    /// The first is what the others are compared with.
    pub caches: Vec<Cache>,
    /// Measure as well as many sequences as fit into the bytes that the first cache takes.
    pub pack: bool,
    /// Single sequences, one for each prompt, that take turns.
    pub turns: bool,
}

impl SuiteArgs {
    /// The suite's grid, with the flags' values where there are some.
    pub fn grid(&self, suite: Suite) -> Grid {
        let (batches, prompts, answer, caches): (&[usize], &[usize], usize, &[&str]) = match suite {
            Suite::Quick => (&[1, 4], &[640], 16, &["full", "auto-20"]),
            Suite::Batch => (&[1, 2, 4, 8, 16], &[512], 64, &["full", "auto-20"]),
            Suite::Depth => (&[1], &[1024, 2048, 4096, 8192, 16_384], 64, &["full", "rows-512"]),
            Suite::Share => (&[4], &[4096], 128, &["full", "auto-12"]),
            Suite::Paper => (&[32], &[512], 256, &["full", "auto-20", "pyramid-13b"]),
        };
        let or =
            |own: &[usize], default: &[usize]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
        let named = || caches.iter().filter_map(|name| name.parse().ok()).collect();
        Grid {
            batches: or(&self.batches, batches),
            prompts: or(&self.prompts, prompts),
            answer: self.answer.unwrap_or(answer),
            caches: if self.caches.is_empty() { named() } else { self.caches.clone() },
            pack: suite == Suite::Share,
            turns: suite == Suite::Depth,
        }
    }
}

impl Suite {
    /// As the flag has it.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        suite: SuiteArgs,
    }

    fn grid(flags: &str) -> Grid {
        let words = std::iter::once("benben").chain(flags.split_whitespace());
        let flags = Flags::try_parse_from(words).expect("clap accepts the flags");
        flags.suite.grid(flags.suite.suite.expect("a suite"))
    }

    #[test]
    fn every_suite_names_caches_that_there_are() {
        for suite in Suite::value_variants() {
            let grid = grid(&format!("--suite {}", suite.name()));
            assert!(grid.caches.len() > 1 && grid.caches[0].name == "full", "{suite:?}");
        }
    }

    #[test]
    fn flags_take_the_place_of_a_suites_values() {
        let grid = grid("--suite batch --batches 3,5 --answer 7 --caches full-4");
        assert_eq!((grid.batches, grid.prompts, grid.answer), (vec![3, 5], vec![512], 7));
        assert_eq!(grid.caches.len(), 1);
    }
}
