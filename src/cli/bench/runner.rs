//! A grid → its report, cell by cell: one that fails takes no other with it.

use std::time::Duration;

use benben::plan::Limits;
use benben::{Error, KvOptions};

use super::cache::Cache;
use super::cell::{Alone, Bench, Cell, Measured};
use super::suite::{Grid, Suite, SuiteArgs};
use super::summary::{Outcome as CellOutcome, Pack, Row, Summary};
use super::{BenchArgs, Reports, now, page};
use crate::cli::measure::Ceilings;
use crate::cli::report::{bytes, note};
use crate::cli::{Failure, Outcome};

/// What measures a suite.
struct Runner<'a> {
    args: &'a BenchArgs,
    bench: Bench,
    summary: Summary,
    reports: Reports,
}

pub async fn run(args: &BenchArgs, suite: Suite, reports: Reports) -> Outcome {
    let grid = args.suite.grid(suite);
    if grid.turns && args.suite.random_rows {
        let reason = "--random-rows is for batches; with the suite depth, prompts must run".to_owned();
        return Err(Error::Invalid(reason).into());
    }
    let mut runner = Runner::new(args, suite, reports).await?;
    if grid.turns {
        for cache in &grid.caches {
            runner.turns(&grid, cache).await?;
        }
        return runner.finish();
    }
    for &prompt_tokens in &grid.prompts {
        if grid.pack {
            for &batch in &grid.batches {
                runner.side_by_side(&grid, batch, prompt_tokens).await?;
            }
            runner.pack(&grid, prompt_tokens).await?;
            continue;
        }
        for cache in &grid.caches {
            for &batch in &grid.batches {
                runner.cell((batch, prompt_tokens, grid.answer), cache, None).await?;
            }
        }
    }
    runner.finish()
}

impl<'a> Runner<'a> {
    async fn new(args: &'a BenchArgs, suite: Suite, reports: Reports) -> Outcome<Self> {
        let model = args.open(&KvOptions::default()).await?;
        let gpu = model.gpu();
        let summary = Summary {
            suite: suite.name(),
            program: format!("benben {}", env!("CARGO_PKG_VERSION")),
            time: now(),
            model: model.config().name.clone(),
            weights: args.weights_name(),
            weight_bytes: gpu.bytes().weights,
            adapter: gpu.describe(),
            ceilings: Ceilings::measure(gpu).await?,
            random_rows: args.suite.random_rows,
            cells: Vec::new(),
            packs: Vec::new(),
        };
        let limit = Duration::from_secs(args.suite.cell_seconds as u64);
        let SuiteArgs { compare, step_tokens, random_rows, .. } = args.suite;
        let bench = Bench { model, alone: Alone::default(), compare, limit, step_tokens, random_rows };
        Ok(Self { args, bench, summary, reports })
    }

    /// Writes the report; fails where answers are wrong.
    fn finish(&self) -> Outcome {
        self.args.print(&self.summary)?;
        match self.summary.wrong().count() {
            0 => Ok(()),
            failed => Err(Failure::Answers { failed, total: self.summary.cells.len() }),
        }
    }

    /// Measures a cell, and saves the report with it: whoever stops the program keeps what was measured. The caches
    /// get `kv_memory` bytes, or all that there is room for.
    async fn cell(
        &mut self,
        (batch, prompt_tokens, new_tokens): (usize, usize, usize),
        cache: &Cache,
        kv_memory: Option<u64>,
    ) -> Outcome {
        let cell = Cell { batch, prompt_tokens, new_tokens, cache: cache.name.clone() };
        note(&format!("{} x {prompt_tokens} tokens and {new_tokens} new, {}", cell.batch, cell.cache));
        let outcome = self.outcome(&cell, cache, kv_memory).await?;
        self.keep(cell, cache, outcome);
        self.save()
    }

    fn keep(&mut self, cell: Cell, cache: &Cache, outcome: CellOutcome) {
        let plan_kv_bytes = self.bench.plan(&cell, cache).map_or(0, |plan| plan.kv * cell.batch as u64);
        self.summary.cells.push(Row { cell, plan_kv_bytes, outcome });
    }

    /// Measures batches that take turns, one under each cache.
    async fn side_by_side(&mut self, grid: &Grid, batch: usize, prompt_tokens: usize) -> Outcome {
        let cell = |cache: &Cache| {
            let (new_tokens, cache) = (grid.answer, cache.name.clone());
            Cell { batch, prompt_tokens, new_tokens, cache }
        };
        let cells: Vec<(Cell, &Cache)> = grid.caches.iter().map(|cache| (cell(cache), cache)).collect();
        let names: Vec<&str> = grid.caches.iter().map(|cache| cache.name.as_str()).collect();
        note(&format!(
            "{batch} x {prompt_tokens} tokens and {} new in turns, {}",
            grid.answer,
            names.join(", ")
        ));
        let rooms = self.rooms(&cells);
        let outcomes = match rooms {
            Err(reason) => vec![CellOutcome::DoesNotFit { reason }; cells.len()],
            Ok(rooms) => {
                let with_rooms =
                    cells.iter().zip(rooms).map(|((cell, cache), room)| (cell.clone(), *cache, room));
                let measured = self.bench.batches(&with_rooms.collect::<Vec<_>>()).await;
                self.outcomes(measured, cells.len()).await?
            }
        };
        for ((cell, cache), outcome) in cells.into_iter().zip(outcomes) {
            self.keep(cell, cache, outcome);
        }
        self.save()
    }

    /// [`Runner::room`] of each cell, while there is room for all of them at once.
    fn rooms(&self, cells: &[(Cell, &Cache)]) -> Result<Vec<u64>, String> {
        let rooms =
            cells.iter().map(|(cell, cache)| self.room(cell, cache)).collect::<Result<Vec<u64>, _>>()?;
        let need = |(cell, cache): &(Cell, &Cache)| {
            self.bench.plan(cell, cache).map_or(0, |plan| plan.kv * cell.batch as u64)
        };
        let (all, left) = (cells.iter().map(need).sum(), rooms.iter().copied().min().unwrap_or(0));
        if all > left {
            return Err(format!(
                "caches that take turns need {} at once, but {} are left",
                bytes(all),
                bytes(left)
            ));
        }
        Ok(rooms)
    }

    /// What came of cells that were measured together.
    async fn outcomes(
        &mut self,
        measured: benben::Result<Vec<Measured>>,
        count: usize,
    ) -> Outcome<Vec<CellOutcome>> {
        let error = match measured {
            Ok(measured) => return Ok(measured.into_iter().map(CellOutcome::Measured).collect()),
            Err(error) => error,
        };
        if self.bench.model.gpu().check().is_err() {
            // What is lost stays lost: the cells that follow need another device.
            self.bench.model = self.args.open(&KvOptions::default()).await?;
        }
        Ok(vec![CellOutcome::Failed { reason: error.to_string() }; count])
    }

    /// Measures sequences that take turns, one for each prompt.
    async fn turns(&mut self, grid: &Grid, cache: &Cache) -> Outcome {
        let cell = |&prompt_tokens: &usize| {
            let (new_tokens, cache) = (grid.answer, cache.name.clone());
            Cell { batch: 1, prompt_tokens, new_tokens, cache }
        };
        let cells: Vec<Cell> = grid.prompts.iter().map(cell).collect();
        note(&format!("1 x {:?} tokens and {} new in turns, {}", grid.prompts, grid.answer, cache.name));
        let with_cache: Vec<(Cell, &Cache)> = cells.iter().map(|cell| (cell.clone(), cache)).collect();
        let outcomes = match self.rooms(&with_cache) {
            Err(reason) => vec![CellOutcome::DoesNotFit { reason }; cells.len()],
            Ok(_) => {
                let measured = self.bench.sequences(&cells, cache).await;
                self.outcomes(measured, cells.len()).await?
            }
        };
        for (cell, outcome) in cells.into_iter().zip(outcomes) {
            self.keep(cell, cache, outcome);
        }
        self.save()
    }

    async fn outcome(&mut self, cell: &Cell, cache: &Cache, kv_memory: Option<u64>) -> Outcome<CellOutcome> {
        let room = match self.room(cell, cache) {
            Ok(room) => room,
            Err(reason) => return Ok(CellOutcome::DoesNotFit { reason }),
        };
        let measured = self.bench.measure(cell, cache, kv_memory.unwrap_or(room)).await;
        let mut outcomes = self.outcomes(measured.map(|measured| vec![measured]), 1).await?;
        Ok(outcomes.swap_remove(0))
    }

    /// The bytes that the plan has room for in caches; all of the cell's sequences must fit.
    fn room(&self, cell: &Cell, cache: &Cache) -> Result<u64, String> {
        let limits = self.args.load.limits(self.bench.model.gpu());
        let plan = self.bench.plan(cell, cache).map_err(|error| error.to_string())?;
        plan.check(&Limits { memory: None, ..limits }).map_err(|error| error.to_string())?;
        let need = plan.kv * cell.batch as u64 + plan.scratch;
        match limits.memory {
            Some(memory) if need > memory => Err(format!(
                "the caches of {} sequences take {} and activations {}, but {} are left",
                cell.batch,
                bytes(plan.kv * cell.batch as u64),
                bytes(plan.scratch),
                bytes(memory)
            )),
            memory => Ok(memory.unwrap_or(u64::MAX).saturating_sub(plan.scratch)),
        }
    }

    /// Finds how many sequences fit into what the first cache's largest batch takes, and runs as many, if that ends
    /// in time.
    async fn pack(&mut self, grid: &Grid, prompt_tokens: usize) -> Outcome {
        let Some(full_batch) = grid.batches.iter().copied().max() else { return Ok(()) };
        for cache in grid.caches.iter().skip(1) {
            let full = self.row(full_batch, prompt_tokens, &grid.caches[0]);
            let own = self.row(full_batch, prompt_tokens, cache);
            let (Some(full), Some(own)) = (full, own) else { continue };
            // The engine counts tables too; the plan is all there is of what did not run.
            let (bytes, of_own, seconds) = match (full.measured(), own.measured()) {
                (Some(full), Some(own)) => (full.kv_bytes_reserved, own.kv_bytes_reserved, own.seconds),
                _ => (full.plan_kv_bytes, own.plan_kv_bytes, f64::INFINITY),
            };
            let batch = (bytes * full_batch as u64 / of_own.max(1)) as usize;
            let in_time = seconds * batch as f64 / full_batch as f64 <= self.bench.limit.as_secs_f64();
            let mut most_at_once = None;
            if in_time {
                self.cell((batch, prompt_tokens, grid.answer), cache, Some(bytes)).await?;
                let last = self.summary.cells.last().and_then(Row::measured);
                most_at_once = last.map(|measured| measured.most_at_once);
            }
            let cache = cache.name.clone();
            self.summary.packs.push(Pack { cache, prompt_tokens, full_batch, bytes, batch, most_at_once });
        }
        self.save()
    }

    /// What came of a cell.
    fn row(&self, batch: usize, prompt_tokens: usize, cache: &Cache) -> Option<Row> {
        let is = |row: &&Row| {
            let cell = &row.cell;
            (cell.batch, cell.prompt_tokens, &cell.cache) == (batch, prompt_tokens, &cache.name)
        };
        self.summary.cells.iter().find(is).cloned()
    }

    fn save(&mut self) -> Outcome {
        self.reports.save(&self.summary, || page::document(&self.summary))
    }
}
