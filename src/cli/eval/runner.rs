//! Measures every cell of a plan that is not measured yet.

use std::io;
use std::sync::Arc;

use benben::{GenerateOptions, Model, Reference, Result, Session};
use indicatif::ProgressBar;

use super::cells::{Cells, Compared, Measured, Speed};
use super::grid::Config;
use super::plan::{Group, Job, Plan};
use crate::cli::args::LoadArgs;
use crate::cli::{Failure, Outcome};

/// Tokens that are generated when a prompt is timed.
pub const ANSWER: usize = 32;

/// What a measurement needs.
pub struct Runner<'a> {
    pub model: &'a Arc<Model>,
    pub load: &'a LoadArgs,
    pub plan: &'a Plan,
    pub cells: &'a mut Cells,
    pub bar: &'a ProgressBar,
}

impl Runner<'_> {
    /// Measures everything; what a needle costs is only asked where the full cache finds it in both modes.
    pub async fn run(&mut self) -> Outcome {
        let plan = self.plan;
        for config in &plan.configs {
            // Refuses what does not fit before hours have gone by.
            self.session(config, plan.longest())?;
        }
        for group in &plan.groups {
            self.group(group).await?;
        }
        for prompt in &plan.prompts {
            for config in &plan.configs {
                let key = plan.prompt_key(prompt, config);
                if self.cells.get(&key).is_none() {
                    self.say(config, &format!("a prompt of {}", prompt.len()));
                    let speed = self.speed(prompt, config).await?;
                    self.keep(key, Measured::Speed(speed))?;
                }
                self.bar.inc(1);
            }
        }
        Ok(())
    }

    async fn group(&mut self, group: &Group) -> Outcome {
        let (plan, full) = (self.plan, &self.plan.configs[0]);
        let mut references = Vec::new();
        for job in group {
            let key = plan.key(job, full);
            let mut reference = None;
            if self.cells.get(&key).is_none() {
                let made = self.reference(job).await?;
                self.keep(key, Measured::Compared(Compared::new(made.itself(), job.counts)?))?;
                reference = Some(made);
            }
            references.push(reference);
            self.bar.inc(1);
        }
        if !counts(plan, group, self.cells) {
            self.bar.inc((group.len() * (plan.configs.len() - 1)) as u64);
            return Ok(());
        }
        for (job, mut reference) in group.iter().zip(references) {
            for config in &plan.configs[1..] {
                let key = plan.key(job, config);
                if self.cells.get(&key).is_none() {
                    let made = match reference.take() {
                        Some(made) => made,
                        None => self.reference(job).await?,
                    };
                    self.say(config, &job.name);
                    let mut session = self.session(config, job.prefix.len() + job.continuation.len())?;
                    let comparison = session.compare(&made).await?;
                    self.keep(key, Measured::Compared(Compared::new(comparison, job.counts)?))?;
                    reference = Some(made);
                }
                self.bar.inc(1);
            }
        }
        Ok(())
    }

    async fn reference(&self, job: &Job) -> Result<Reference> {
        let full = &self.plan.configs[0];
        self.say(full, &job.name);
        let mut session = self.session(full, job.prefix.len() + job.continuation.len())?;
        session.reference(&job.prefix, &job.continuation).await
    }

    async fn speed(&self, prompt: &[u32], config: &Config) -> Result<Speed> {
        let gpu = self.model.gpu();
        let mut session = self.session(config, prompt.len() + ANSWER)?;
        session.warm_up().await?;
        gpu.reset_peak();
        session.append(prompt)?;
        let options =
            GenerateOptions { max_tokens: ANSWER, stop: Some(Vec::new()), ..GenerateOptions::default() };
        let mut answer = session.generate(&options)?;
        while let Some(token) = answer.next().await {
            token?;
        }
        drop(answer);
        let (timing, bytes) = (session.timing(), gpu.bytes());
        Ok(Speed {
            prompt_tokens: prompt.len(),
            prefill_seconds: timing.prefill.as_secs_f64(),
            decode_tokens_per_second: timing.decode_rate(),
            peak_bytes: bytes.peak.saturating_sub(bytes.weights),
            pool_bytes: bytes.kv,
        })
    }

    fn session(&self, config: &Config, context: usize) -> Result<Session> {
        self.load.session(self.model, &config.kv, context)
    }

    fn say(&self, config: &Config, what: &str) {
        self.bar.set_message(format!("{what}, {config}"));
    }

    fn keep(&mut self, key: String, measured: Measured) -> Outcome {
        self.cells.put(key, measured).map_err(|error: io::Error| Failure::Output(error))
    }
}

/// Whether a group counts: the full cache finds a trial's digits in both modes, and a window always does.
pub fn counts(plan: &Plan, group: &Group, cells: &Cells) -> bool {
    group.iter().all(|job| match cells.get(&plan.key(job, &plan.configs[0])) {
        Some(Measured::Compared(full)) => job.needle.is_none() || full.digits,
        _ => false,
    })
}
