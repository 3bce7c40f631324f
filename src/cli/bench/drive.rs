//! Answers side by side, and when their tokens came.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use benben::{Error, Result};
use futures_core::Stream;

use crate::cli::measure::median;

/// What came of answers that began together.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// The tokens of each sequence, with seconds since the beginning.
    pub sequences: Vec<Vec<(u32, f64)>>,
}

/// Hears that somebody was woken, and wakes the task too.
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Relaxed);
        self.task.wake_by_ref();
    }
}

/// Answers under way.
pub struct Drive<S> {
    answers: Vec<Option<S>>,
    started: Instant,
    /// What they have brought so far.
    pub times: Timeline,
}

impl<S: Stream<Item = Result<u32>> + Unpin> Drive<S> {
    pub fn new(answers: Vec<S>) -> Self {
        let times = Timeline { sequences: vec![Vec::new(); answers.len()] };
        Self { answers: answers.into_iter().map(Some).collect(), started: Instant::now(), times }
    }

    /// Polls all answers in turn until each has brought so many tokens or has ended, and calls `seen` after every round
    /// of them.
    ///
    /// # Errors
    /// What an answer fails with; [`Error::Invalid`] when they take longer than `limit`.
    pub async fn until(&mut self, count: usize, limit: Duration, mut seen: impl FnMut()) -> Result<()> {
        let Self { answers, started, times } = self;
        let begun = Instant::now();
        std::future::poll_fn(|cx| {
            let bell = Arc::new(Bell { rung: AtomicBool::new(false), task: cx.waker().clone() });
            let waker = Waker::from(bell.clone());
            loop {
                if begun.elapsed() > limit {
                    let reason = format!("it was not done after {:.0} s", limit.as_secs_f64());
                    return Poll::Ready(Err(Error::Invalid(reason)));
                }
                let mut done = true;
                // One token of each in turn: who is polled first may drive all the others.
                for (answer, tokens) in answers.iter_mut().zip(&mut times.sequences) {
                    let Some(stream) = answer.as_mut().filter(|_| tokens.len() < count) else { continue };
                    done = false;
                    match Pin::new(stream).poll_next(&mut Context::from_waker(&waker)) {
                        Poll::Ready(Some(Ok(id))) => tokens.push((id, started.elapsed().as_secs_f64())),
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                        Poll::Ready(None) => *answer = None,
                        Poll::Pending => continue,
                    }
                    bell.rung.store(true, Relaxed);
                }
                seen();
                if done {
                    return Poll::Ready(Ok(()));
                }
                if !bell.rung.swap(false, Relaxed) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// Polls all answers until all have ended, as [`Drive::until`] does.
///
/// # Errors
/// As [`Drive::until`].
pub async fn drive<S>(answers: Vec<S>, limit: Duration, seen: impl FnMut()) -> Result<Timeline>
where
    S: Stream<Item = Result<u32>> + Unpin,
{
    let mut drive = Drive::new(answers);
    drive.until(usize::MAX, limit, seen).await?;
    Ok(drive.times)
}

impl Timeline {
    /// The tokens of a sequence.
    pub fn tokens(&self, sequence: usize) -> Vec<u32> {
        self.sequences[sequence].iter().map(|&(id, _)| id).collect()
    }

    fn first_times(&self) -> impl Iterator<Item = f64> {
        self.sequences.iter().filter_map(|tokens| tokens.first().map(|&(_, time)| time))
    }

    /// Seconds until half of the sequences had their first token.
    pub fn first_token(&self) -> f64 {
        median(self.first_times().collect()).unwrap_or(0.0)
    }

    /// Seconds until every sequence had one: until then prompts run.
    pub fn every_first_token(&self) -> f64 {
        self.first_times().fold(0.0, f64::max)
    }

    /// Seconds until the last token.
    pub fn end(&self) -> f64 {
        let ends = self.sequences.iter().filter_map(|tokens| tokens.last().map(|&(_, time)| time));
        ends.fold(0.0, f64::max)
    }

    /// From the moment when every sequence has its first token to the one when the first of them ends: then none runs
    /// a prompt, and the batch is whole.
    fn whole(&self) -> (f64, f64) {
        let ends = self.sequences.iter().filter_map(|tokens| Some(tokens.last()?.1));
        (self.every_first_token(), ends.fold(f64::INFINITY, f64::min))
    }

    /// Tokens per second of all sequences together, while the batch is whole.
    pub fn decode_rate(&self) -> Option<f64> {
        let (from, to) = self.whole();
        let inside = |&&(_, time): &&(u32, f64)| time > from && time <= to;
        let count = self.sequences.iter().flatten().filter(inside).count();
        // Of a step or two the moments at which its tokens were taken say nothing.
        (count >= 2 * self.sequences.len() && to > from).then(|| count as f64 / (to - from))
    }

    /// Seconds between neighbouring tokens of all sequences, from each one's token `first` on.
    pub fn gaps_from(&self, first: usize) -> impl Iterator<Item = f64> {
        let pairs =
            self.sequences.iter().flat_map(move |tokens| tokens.get(first..).unwrap_or(&[]).windows(2));
        pairs.map(|pair| pair[1].1 - pair[0].1)
    }

    /// Seconds between two tokens of a sequence, the median over those that it has while the batch is whole.
    pub fn between_tokens(&self) -> Option<f64> {
        let (from, to) = self.whole();
        let gaps = self.sequences.iter().flat_map(|tokens| tokens.windows(2));
        let inside = gaps.filter(|pair| pair[0].1 >= from && pair[1].1 <= to);
        median(inside.map(|pair| pair[1].1 - pair[0].1).collect())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[test]
    fn rates_count_what_ran_together() {
        let tokens = |times: &[f64]| times.iter().map(|&t| (0, t)).collect::<Vec<_>>();
        let times = Timeline {
            sequences: vec![
                tokens(&[1.0, 2.5, 3.5, 4.0]),
                tokens(&[2.0, 2.5, 3.0, 4.0, 5.0]),
                tokens(&[1.5, 3.0, 4.0]),
            ],
        };
        assert_eq!((times.first_token(), times.every_first_token(), times.end()), (1.5, 2.0, 5.0));
        assert_eq!(times.decode_rate(), Some(8.0 / 2.0), "from 2 to 4: three, three and two tokens");
        assert_eq!(times.between_tokens(), Some(0.5 + 0.25), "1, 0.5; 0.5, 0.5, 1; 1");
        let alone = Timeline { sequences: vec![tokens(&[1.0])] };
        assert_eq!(alone.decode_rate(), None);
        let apart = Timeline { sequences: vec![tokens(&[1.0, 2.0]), tokens(&[3.0, 4.0])] };
        assert_eq!(apart.decode_rate(), None, "they never ran together");
        let hardly = Timeline { sequences: vec![tokens(&[1.0, 1.5, 2.002]), tokens(&[2.0, 2.001, 4.0])] };
        assert_eq!(hardly.decode_rate(), None, "they ran together for a token or two");
    }

    #[test]
    fn answers_are_gathered_until_they_end() {
        let answer = |ids: &[u32]| stream::iter(ids.iter().map(|&id| Ok(id)).collect::<Vec<_>>());
        let mut rounds = 0;
        let driven = drive(vec![answer(&[1, 2, 3]), answer(&[4])], Duration::from_secs(60), || rounds += 1);
        let times = pollster::block_on(driven).unwrap();
        assert_eq!([times.tokens(0), times.tokens(1)], [vec![1, 2, 3], vec![4]]);
        assert!(rounds > 0);
        let never = drive(vec![stream::pending::<Result<u32>>()], Duration::ZERO, || ());
        assert!(pollster::block_on(never).unwrap_err().to_string().contains("not done after 0 s"));
        let broken = vec![stream::iter([Err(Error::Invalid("broken".to_owned()))])];
        assert_eq!(
            pollster::block_on(drive(broken, Duration::MAX, || ())).unwrap_err().to_string(),
            "broken"
        );
    }
}
