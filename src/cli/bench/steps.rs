//! What an engine's steps record, counted while they run: sequences that should share a dispatch and do not are seen here.

use benben::gpu::Counters;
use serde::Serialize;

use crate::cli::measure::median;

/// What a step records, the median over the second half of the steps, in which no prompt runs any more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepWork {
    pub dispatches: f64,
    /// Those of wgpu between the dispatches.
    pub barriers: f64,
}

/// Steps as they were counted.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// Steps so far, and what the device had recorded then.
    last: Option<(u64, Counters)>,
    each: Vec<StepWork>,
}

impl Steps {
    /// Notes that an engine has taken so many steps.
    pub fn note(&mut self, steps: u64, now: Counters) {
        if let Some((before, then)) = self.last.filter(|&(before, _)| before < steps) {
            let a_step = |count: u64| count as f64 / (steps - before) as f64;
            let dispatches = a_step(now.dispatches - then.dispatches);
            self.each.push(StepWork { dispatches, barriers: a_step(now.barriers - then.barriers) });
        }
        if self.last.is_none_or(|(before, _)| before < steps) {
            self.last = Some((steps, now));
        }
    }

    /// Forgets what was recorded since the last step: others had their turn.
    pub fn pause(&mut self) {
        self.last = None;
    }

    /// What a step records.
    pub fn work(&self) -> Option<StepWork> {
        let late = &self.each[self.each.len() / 2..];
        let median = |of: fn(&StepWork) -> f64| median(late.iter().map(of).collect());
        let (dispatches, barriers) = (median(|work| work.dispatches)?, median(|work| work.barriers)?);
        Some(StepWork { dispatches, barriers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_steps_count_and_others_turns_do_not() {
        let mut steps = Steps::default();
        let counters = |dispatches| Counters { dispatches, barriers: dispatches / 2, ..Counters::default() };
        for (step, dispatches) in [(1, 900), (2, 1800), (2, 1850), (3, 1900), (5, 2000)] {
            steps.note(step, counters(dispatches));
        }
        assert_eq!(steps.work(), Some(StepWork { dispatches: 75.0, barriers: 37.5 }));
        steps.pause();
        steps.note(6, counters(99_000));
        steps.note(7, counters(99_050));
        steps.note(8, counters(99_100));
        assert_eq!(steps.work().map(|work| work.dispatches), Some(50.0));
        assert_eq!(Steps::default().work(), None);
    }
}
