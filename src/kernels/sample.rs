//! Draws the next token of each sequence from a row of logits, on the device, in one dispatch and without a sort.
//!
//! The order is that of Hugging Face's `generate`: repetition penalty, temperature, top-k, top-p, min-p (top-k
//! and temperature commute; llama.cpp applies the temperature last instead). Each of the three cuts keeps the
//! tokens above a threshold, so tokens with the same logit are kept or dropped together.

use super::check::{Check, Noise};
use super::jobs::groups;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, uniform};

const SHADER: Shader = Shader { stem: "sample", text: include_str!("../../shaders/sample.wgsl") };

/// How to draw a token. The default takes the most probable one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 (or less, or NaN) takes the most probable token, the lowest id of several.
    pub temperature: f32,
    /// Keeps this many of the most probable tokens; 0 is off.
    pub top_k: u32,
    /// Keeps the smallest set of the most probable tokens that reaches this probability; 1 is off.
    pub top_p: f32,
    /// Drops tokens less probable than this fraction of the most probable one; 0 is off.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens in the history; 1 is off.
    pub repetition_penalty: f32,
    /// The same seed draws the same tokens from the same logits on the same device.
    pub seed: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    fn is_greedy(&self) -> bool {
        self.temperature.max(0.0) == 0.0
    }
}

uniform! {
    struct Job {
        vocab: u32,
        history_first: u32,
        history_len: u32,
        at: u32,
        penalty: f32,
        top_k: u32,
        top_p_mass: u32,
        min_p: f32,
        inverse_temperature: f32,
        random: f32,
        logits_from: u32,
    }
}

fn key(greedy: bool) -> ShaderKey {
    ShaderKey::new(SHADER).flag("GREEDY", greedy)
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    vec![key(false), key(true)]
}

/// The PCG output permutation (Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 2020).
fn pcg(x: u32) -> u32 {
    let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// The random number of a step, in 0..1: a hash of seed and counter, so that a draw can be repeated alone.
fn random(seed: u32, step: u32) -> f32 {
    (pcg(seed ^ pcg(step)) >> 8) as f32 / (1u32 << 24) as f32
}

/// What one sequence's next token is drawn from, and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// The sequence's tokens. The penalty looks at `tokens[history.0..][..history.1]`, each distinct id once; keep it to
    /// the last few hundred tokens, as the search for repeats is quadratic.
    pub tokens: &'a Tensor<u32>,
    /// Where the history begins, and its length.
    pub history: (usize, usize),
    /// The index of the new token.
    pub at: usize,
    /// The row of logits.
    pub row: usize,
    /// Picks the random number of the seed's sequence.
    pub step: u32,
    /// How to draw.
    pub sampling: &'a Sampling,
}

/// Records the draw of one token id into `tokens[at]` for each of `draws`, from its row of `logits` (`[rows, vocab]`,
/// penalised in place). NaN logits count as −∞; without any finite logit the id is 0.
pub fn sample(rec: &mut Recorder, logits: &Tensor<f32>, vocab: usize, draws: &[Draw<'_>]) -> Result<()> {
    let alike = |a: &Draw<'_>, b: &Draw<'_>| {
        a.sampling.is_greedy() == b.sampling.is_greedy() && a.tokens.beside(b.tokens)
    };
    for group in groups(draws, alike) {
        let kernel = rec.gpu().kernel(&key(group[0].sampling.is_greedy()))?;
        let jobs: Vec<Job> = group.iter().map(|draw| job(draw, vocab)).collect();
        rec.dispatch_jobs(&kernel, &jobs, &[logits.bind(), group[0].tokens.whole().0], [1, 1])?;
    }
    Ok(())
}

fn job(draw: &Draw<'_>, vocab: usize) -> Job {
    let Draw { sampling, tokens, history: (first, len), .. } = *draw;
    let origin = tokens.whole().1;
    let nucleus = (f64::from(sampling.top_p) * f64::from(1u32 << 31)).ceil().max(1.0) as u32;
    Job {
        vocab: vocab as u32,
        history_first: (origin + first) as u32,
        history_len: if sampling.repetition_penalty == 1.0 { 0 } else { len as u32 },
        at: (origin + draw.at) as u32,
        penalty: sampling.repetition_penalty,
        top_k: sampling.top_k,
        top_p_mass: if sampling.top_p < 1.0 { nucleus } else { 0 },
        min_p: sampling.min_p.min(1.0),
        inverse_temperature: sampling.temperature.recip(),
        random: random(sampling.seed, draw.step),
        logits_from: (draw.row * vocab) as u32,
    }
}

/// A token, and how far the draw was from another one, as a probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token.
    pub id: u32,
    /// The distance to the nearest decision that arithmetic of another precision could take otherwise.
    pub margin: f64,
}

/// The CPU twin: sorts, and counts in double precision.
pub fn twin(logits: &[f32], history: &[u32], step: u32, sampling: &Sampling) -> Drawn {
    let mut logits: Vec<f32> =
        logits.iter().map(|&x| if x.is_nan() { f32::NEG_INFINITY } else { x }).collect();
    let seen: std::collections::BTreeSet<u32> = history.iter().copied().collect();
    for id in seen {
        if let Some(x) = logits.get_mut(id as usize) {
            let penalty = sampling.repetition_penalty;
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let top = logits[order[0]];
    if sampling.is_greedy() || top == f32::NEG_INFINITY {
        return Drawn { id: order[0] as u32, margin: 1.0 };
    }
    if sampling.top_k > 0 {
        let last = logits[order[order.len().min(sampling.top_k as usize) - 1]];
        order.retain(|&id| logits[id] >= last);
    }
    let weight = |id: usize| match logits[id] {
        x if x == top => 1.0,
        x => (f64::from(x - top) / f64::from(sampling.temperature)).exp(),
    };
    let mut margin = 1.0_f64;
    if sampling.top_p < 1.0 {
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let (mut reached, mut kept) = (0.0, 0);
        for ties in order.chunk_by(|&a, &b| logits[a] == logits[b]) {
            reached += ties.iter().map(|&id| weight(id)).sum::<f64>() / total;
            kept += ties.len();
            margin = margin.min((reached - f64::from(sampling.top_p)).abs());
            if reached >= f64::from(sampling.top_p) {
                break;
            }
        }
        order.truncate(kept);
    }
    if sampling.min_p > 0.0 {
        let floor = f64::from(sampling.min_p.min(1.0));
        let close = |&id: &usize| if logits[id] == top { 1.0 } else { (weight(id) - floor).abs() };
        margin = order.iter().map(close).fold(margin, f64::min);
        order.retain(|&id| weight(id) >= floor);
    }
    order.sort_unstable();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let goal = f64::from(random(sampling.seed, step));
    let mut passed = 0.0;
    for &id in &order {
        let before = passed;
        passed += weight(id) / total;
        if passed > goal {
            // Nothing lies before the first token, nor behind the last.
            let low = if before == 0.0 { 1.0 } else { goal - before };
            let high = if passed > 1.0 - 1e-9 { 1.0 } else { passed - goal };
            return Drawn { id: id as u32, margin: margin.min(low).min(high) };
        }
    }
    Drawn { id: order.last().map_or(0, |&id| id as u32), margin: 0.0 }
}

/// What the kernel draws at steps `0..draws`, each from fresh logits.
async fn draw(
    gpu: &Gpu,
    logits: &[f32],
    history: &[u32],
    draws: usize,
    sampling: &Sampling,
) -> Result<Vec<u32>> {
    let source = gpu.tensor_with(Class::Scratch, "logits", logits);
    let working = gpu.tensor::<f32>(Class::Scratch, "logits", draws * logits.len());
    // One word before the history, so that its offset matters.
    let mut words = vec![u32::MAX];
    words.extend(history);
    words.resize(1 + history.len() + draws, u32::MAX);
    let tokens = gpu.tensor_with(Class::Scratch, "tokens", &words);
    let mut rec = Recorder::new(gpu);
    let first = 1 + history.len();
    for row in 0..draws {
        rec.copy(&source, 0, &working, row * logits.len(), logits.len());
    }
    let one = |row| Draw {
        tokens: &tokens,
        history: (1, history.len()),
        at: first + row,
        row,
        step: row as u32,
        sampling,
    };
    sample(&mut rec, &working, logits.len(), &(0..draws).map(one).collect::<Vec<_>>())?;
    let drawn = rec.read(&tokens, first, draws);
    rec.submit();
    drawn.await
}

/// Steps that a check draws, and how far from a boundary a draw must be to count.
const DRAWS: u32 = 12;
const DECIDED: f64 = 1e-4;

async fn check(gpu: &Gpu, logits: &[f32], history: &[u32], sampling: Sampling) -> Result<Check> {
    let got = draw(gpu, logits, history, DRAWS as usize, &sampling).await?;
    let want = (0..).map(|step| twin(logits, history, step, &sampling));
    let decided = got.iter().zip(want).filter(|(_, want)| want.margin > DECIDED);
    let (got, want): (Vec<u32>, Vec<u32>) = decided.map(|(got, want)| (*got, want.id)).unzip();
    let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, .. } = sampling;
    let label = format!(
        "sample of {} at {temperature}, top-k {top_k}, top-p {top_p}, min-p {min_p}, penalty {repetition_penalty}",
        logits.len()
    );
    Ok(Check::equal(label, &got, &want))
}

/// Logits with a few likely tokens, some NaN and some minus infinity.
fn logits(len: usize, noise: &mut Noise) -> Vec<f32> {
    let mut logit = || match noise.below(50) {
        0 => f32::NAN,
        1 => f32::NEG_INFINITY,
        _ => noise.value().powi(3) * 14.0,
    };
    (0..len).map(|_| logit()).collect()
}

pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let logits = logits(1003, &mut Noise::new(13));
    let all =
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.02, repetition_penalty: 1.1, seed: 17 };
    Ok(vec![
        check(gpu, &logits, &[5, 900, 5], Sampling::default()).await?,
        check(gpu, &logits, &[5, 900, 5], all).await?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_its_twin(
            vocab in prop_oneof![1usize..3000, 3000usize..20_000],
            temperature in 0.3f32..1.5,
            (top_k, top_p, min_p) in (0u32..60, 0.3f32..1.2, -0.1f32..0.2),
            repetition_penalty in prop_oneof![Just(1.0f32), 1.0f32..2.0],
            seed: u32,
        ) {
            let mut noise = Noise::new(seed.into());
            let logits = logits(vocab, &mut noise);
            let history: Vec<u32> = (0..vocab % 300).map(|_| noise.below(vocab as u32)).collect();
            let (top_p, min_p) = (top_p.min(1.0), min_p.max(0.0));
            let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed };
            // A cut next to a token's probability leaves all draws of a case undecided.
            prop_assume!((0..DRAWS).any(|step| twin(&logits, &history, step, &sampling).margin > DECIDED));
            assert_passed(pollster::block_on(check(&gpu(), &logits, &history, sampling)).map(|c| vec![c]));
        }

        /// Few different logits, so that the largest stands in many places, which lanes meet in any order.
        #[test]
        fn the_lowest_of_equal_ids_wins(vocab in 1usize..20_000, different in 1u32..2000, seed: u32) {
            let mut noise = Noise::new(seed.into());
            let logits: Vec<f32> = (0..vocab).map(|_| noise.below(different) as f32 - 700.0).collect();
            let want = twin(&logits, &[], 0, &Sampling::default()).id;
            let got = pollster::block_on(draw(&gpu(), &logits, &[], 3, &Sampling::default())).unwrap();
            prop_assert_eq!(got, [want; 3]);
        }

        #[test]
        fn one_candidate_is_the_greedy_choice(vocab in 1usize..2000, seed: u32) {
            let logits = Noise::new(seed.into()).values(vocab);
            let one = Sampling { temperature: 0.9, top_k: 1, seed, ..Sampling::default() };
            let run = |sampling| pollster::block_on(draw(&gpu(), &logits, &[], 3, &sampling)).unwrap();
            prop_assert_eq!(run(one), run(Sampling::default()));
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.3_f32, -1.0, 1.2, 0.0, -0.4, 0.9, 0.3];
        let sampling = Sampling { temperature: 0.7, seed: 23, ..Sampling::default() };
        let draws = pollster::block_on(draw(&gpu(), &logits, &[], 3000, &sampling)).unwrap();
        let weights = logits.map(|x| (f64::from(x) / 0.7).exp());
        let chi_square: f64 = (0..)
            .zip(weights)
            .map(|(id, weight)| {
                let expected = 3000.0 * weight / weights.iter().sum::<f64>();
                let seen = draws.iter().filter(|&&d| d == id).count() as f64;
                (seen - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 22.5, "chi-square of 6 degrees of freedom, 0.1 %: {chi_square}");
    }

    #[test]
    fn ties_and_nothing_to_draw() {
        let run = |logits: &[f32], s| pollster::block_on(draw(&gpu(), logits, &[], 8, &s)).unwrap();
        let hot = Sampling { temperature: 1.0, top_k: 2, seed: 1, ..Sampling::default() };
        let mut logits = vec![f32::NEG_INFINITY; 700];
        assert_eq!(run(&logits, Sampling::default()), [0; 8]);
        assert_eq!(run(&logits, hot), [0; 8]);
        logits[3] = f32::NAN;
        logits[650] = -2.0;
        assert_eq!(run(&logits, hot), [650; 8]);
        logits[411] = -2.0;
        assert_eq!(run(&logits, Sampling::default()), [411; 8]);
        logits[90] = f32::INFINITY;
        assert_eq!(run(&logits, hot), [90; 8]);
    }
}
