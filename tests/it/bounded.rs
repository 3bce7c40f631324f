//! Sessions that go on: rows per layer stay within the budget, and those that stay are the ones that rank highest.

use crate::common::testbed;
use std::sync::Arc;
use std::time::Duration;

use crate::common::reference::{Course, Reference, Row, Rows};
use crate::common::testbed::{answer, gpu, greedy, load, session};
use crate::common::tiny::{CONTEXT, LAYERS, Tiny, prompt};
use benben::kernels::thin::{Cut, Score};
use benben::kv::policy::{
    Bounds, Budget, Full, H2o, Joint, KvOnly, Observation, Policy, PyramidKv, Rank, SnapKv, Streaming,
    ThinStep, Tova,
};
use benben::kv::{Format, TierRows, Tiers};
use benben::weights::Value;
use benben::{AdapterChoice, GenerateOptions, Gpu, KvBits, KvOptions, Session, SessionOptions};
use pollster::block_on;

const POLICIES: [fn(Budget) -> Arc<dyn Policy>; 8] = [
    |b| Arc::new(Streaming::new(b)),
    |b| Arc::new(Tova::new(b)),
    |b| Arc::new(H2o::new(b)),
    |b| Arc::new(SnapKv::new(b)),
    |b| Arc::new(PyramidKv::new(b)),
    |b| Arc::new(Joint::new(b)),
    |b| Arc::new(KvOnly::shared(b)),
    |b| Arc::new(KvOnly::per_head(b)),
];

fn options(policy: Arc<dyn Policy>, format: Format, context: usize) -> SessionOptions {
    SessionOptions { kv: KvOptions { policy, format, ..KvOptions::full() }, context: Some(context) }
}

fn unstopped(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, stop: Some(Vec::new()), ..GenerateOptions::default() }
}

/// What a test says of a session, and the most rows that each of its layers may hold.
struct Limits {
    what: String,
    streams: bool,
    most: Vec<usize>,
}

impl Limits {
    fn of(options: &SessionOptions) -> Self {
        let policy = &options.kv.policy;
        let plan = policy.plan(options.context.unwrap(), LAYERS).unwrap();
        let most = plan.layers.iter().map(|l| l.retain).collect();
        let what = format!("{policy:?} in {:?}", options.kv.format);
        Self { what, streams: policy.rank() == Some(Rank::Age), most }
    }

    /// No layer holds more than it may, or `slack` fewer.
    fn check_rows(&self, session: &Session, slack: usize) {
        let rows = session.kv().rows_per_layer;
        let within = |(&rows, &most): (&usize, &usize)| rows <= most && rows + slack >= most;
        assert!(rows.iter().zip(&self.most).all(within), "{}: {rows:?} of {:?}", self.what, self.most);
    }

    /// Live rows stand in order of position, each once, the first tokens and the newest one among them.
    fn check_positions(&self, session: &mut Session) {
        let tokens = session.tokens().len() as u32;
        for layer in 0..LAYERS {
            for set in block_on(session.positions(layer)).unwrap() {
                let what = format!("{}, layer {layer}: {set:?} of {tokens}", self.what);
                assert!(set.windows(2).all(|w| w[0] < w[1]), "{what}");
                assert!(self.streams || set.starts_with(&[0, 1, 2, 3]), "{what}");
                assert!(!self.streams || set.windows(2).all(|w| w[0] + 1 == w[1]), "{what}");
                assert_eq!(set.last().map(|p| p + 2), Some(tokens), "{what}");
            }
        }
    }
}

#[test]
fn rows_never_exceed_the_budget() {
    let four = Format::both(KvBits::Four);
    let formats = POLICIES.iter().map(|p| (p, Format::F16)).chain(POLICIES[..3].iter().map(|p| (p, four)));
    for (policy, format) in formats {
        let options = options(policy(Budget::Rows(70)), format, 700);
        let (mut session, limits) = (session(&options), Limits::of(&options));
        session.append(&prompt(1, 100)).unwrap();
        let mut answer = session.generate(&unstopped(300)).unwrap();
        for _ in 0..300 {
            block_on(answer.next()).expect("a token").unwrap();
            limits.check_rows(answer.session(), 70);
        }
        drop(answer);
        limits.check_rows(&session, 16);
        limits.check_positions(&mut session);
        // Later turns: a short one, one that exceeds the budget, and one of a single token.
        for (turn, tokens) in [20, 150, 1].into_iter().enumerate() {
            assert_eq!(self::answer(&mut session, &prompt(turn as u64, tokens), 30).len(), 30);
            limits.check_rows(&session, 70);
            limits.check_positions(&mut session);
        }
    }
}

#[test]
fn memory_stays_flat() {
    // A device of its own, whose books nobody else writes in.
    let gpu = block_on(Gpu::open(&AdapterChoice::Best)).unwrap();
    let model = load(&gpu, &Tiny::new().file());
    let mut session =
        Session::new(&model, &options(POLICIES[2](Budget::Rows(64)), Format::F16, 900)).unwrap();
    answer(&mut session, &prompt(1, 90), 40);
    let (bytes, rows) = (gpu.bytes(), session.kv().rows_per_layer);
    let context = greedy(&mut session, 700).len();
    assert_eq!((gpu.bytes(), context), (bytes, 700));
    assert!(session.kv().rows_per_layer.iter().zip(rows).all(|(now, before)| now.abs_diff(before) <= 16));
}

/// The rule that bounds a session, over rows of the reference decoder.
struct Replay {
    bounds: Bounds,
    per_head: bool,
    prefill: bool,
}

impl Replay {
    /// The KV heads that choose together.
    fn sets(&self, heads: usize) -> Vec<Vec<usize>> {
        if self.per_head { (0..heads).map(|g| vec![g]).collect() } else { vec![(0..heads).collect()] }
    }
}

impl Course for Replay {
    fn before(&mut self, reference: &Reference, layer: usize, rows: &mut [Vec<Row>], position: usize) {
        let held = TierRows { main: rows[0].len(), ..TierRows::default() };
        if let Some(ThinStep { cut, score }) = self.bounds.due(layer, position, held) {
            let Cut { start, block, keep } = cut;
            for head in rows.iter_mut() {
                let score = |row: &Row| match score {
                    Score::Sloped(slope) => row.sums[0] + f64::from(slope) * row.sums[1],
                    Score::Mean => row.sums[0] / row.sums[1].max(1.0),
                };
                let mut order: Vec<usize> = (start..start + block).collect();
                order.sort_by(|&a, &b| score(&head[b]).total_cmp(&score(&head[a])));
                let dropped = &order[keep..];
                let mut place = 0..;
                head.retain(|_| !dropped.contains(&place.next().unwrap()));
            }
        }
        if self.bounds.rank() == Rank::Age && !self.prefill {
            reference.follow(rows, position);
        }
    }

    fn after(&mut self, layer: usize, rows: &mut [Vec<Row>], paid: &[Vec<Vec<f64>>], end: usize) {
        let Rank::Attention { recent, .. } = self.bounds.rank() else { return };
        let queries = paid[0].len();
        let observation = self.bounds.observes(layer, end - 1);
        for set in self.sets(rows.len()) {
            // The mean over a set's heads of what query `i` paid to the row at `j`.
            let mean =
                |i: usize, j: usize| set.iter().map(|&g| paid[g][i][j]).sum::<f64>() / set.len() as f64;
            for j in 0..rows[set[0]].len() {
                let before = rows[set[0]][j].sums;
                let sums = match observation {
                    _ if self.prefill => {
                        // The rows before a first block are none: a row's position is its own among the queries.
                        let position = rows[set[0]][j].position;
                        let first = position.max(queries - recent.min(queries));
                        let all: f64 = (first..queries).map(|i| mean(i, position)).sum();
                        let saw = (end - position) as f64;
                        [all / (queries - first) as f64 * saw, saw]
                    }
                    Some(Observation { fade, weight }) => {
                        let (fade, weight) = (f64::from(fade), f64::from(weight));
                        [fade * before[0] + weight * mean(0, j), fade * before[1] + weight]
                    }
                    None => before,
                };
                set.iter().for_each(|&g| rows[g][j].sums = sums);
            }
        }
    }
}

#[test]
fn the_rows_that_stay_are_those_of_a_replay() {
    let reference = Reference::new(&Tiny::new().file());
    for policy in POLICIES {
        let options = options(policy(Budget::Rows(70)), Format::F16, 700);
        let (policy, prompt) = (&*options.kv.policy, prompt(2, 83));
        let mut session = session(&options);
        let tokens = answer(&mut session, &prompt, 60);

        let bounds = Bounds::new(&options.kv, LAYERS, 700).unwrap().expect("a bounded policy");
        let mut course = Replay { bounds, per_head: policy.per_head(), prefill: true };
        let mut rows = Rows::default();
        let mut plan = policy.plan(prompt.len(), LAYERS).unwrap();
        let none = [TierRows::default(); LAYERS];
        course.bounds.fit(&mut plan, &Tiers::new(&options.kv), &none, true);
        reference.block(&mut rows, &prompt, &plan, policy.per_head(), &mut course);
        course.prefill = false;
        let one = Full.plan(1, LAYERS).unwrap();
        let mut step = |rows: &mut Rows, token: u32| {
            reference.block(rows, &[token], &one, false, &mut course).pop().expect("a row")
        };
        tokens[..tokens.len() - 1].iter().for_each(|&token| drop(step(&mut rows, token)));

        for layer in 0..LAYERS {
            let found = block_on(session.positions(layer)).unwrap();
            for (set, found) in found.iter().enumerate() {
                let expected: Vec<u32> = rows.rows[layer][set].iter().map(|r| r.position as u32).collect();
                assert_eq!(found, &expected, "{policy:?}, layer {layer}, set {set}");
            }
        }
        let logits = block_on(session.logits()).unwrap();
        let expected = step(&mut rows, *tokens.last().unwrap());
        let error = logits.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
        assert!(error < 0.02, "{policy:?}: logits differ by {error}");
    }
}

#[test]
fn a_budget_of_everything_is_the_full_cache() {
    let prompt = prompt(3, 90);
    let whole = answer(&mut session(&options(Arc::new(Full), Format::F16, 300)), &prompt, 200);
    for policy in POLICIES {
        for budget in [Budget::Rows(300), Budget::Share(1.0)] {
            let mut session = session(&options(policy(budget.clone()), Format::F16, 300));
            assert_eq!(answer(&mut session, &prompt, 200), whole, "{budget:?}");
        }
    }
}

#[test]
fn cancelled_answers_leave_sound_sessions() {
    for policy in POLICIES {
        let options = options(policy(Budget::Rows(70)), Format::F16, 1500);
        let (mut session, limits) = (session(&options), Limits::of(&options));
        answer(&mut session, &prompt(4, 100), 20);
        for turn in 0..8 {
            session.append(&prompt(5 + turn, 40)).unwrap();
            // In the middle of the block that makes room, and in the middle of later tokens.
            let mut cancelled = session.generate(&unstopped(40)).unwrap();
            for _ in 0..2 + 3 * turn {
                cancelled.step(Duration::ZERO).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(cancelled);
            assert_eq!(greedy(&mut session, 12).len(), 12);
            limits.check_rows(&session, 70);
            limits.check_positions(&mut session);
        }
    }
}

#[test]
fn a_stream_goes_on_beyond_what_the_model_was_trained_for() {
    let tokens = CONTEXT + 500;
    let options = options(POLICIES[0](Budget::Rows(64)), Format::F16, 4 * CONTEXT);
    let (mut session, limits) = (session(&options), Limits::of(&options));
    // Tokens that come as a prompt longer than the model ever saw, and one by one.
    assert_eq!(answer(&mut session, &prompt(6, tokens), 60).len(), 60);
    assert!(block_on(session.logits()).unwrap().iter().all(|x| x.is_finite()));
    limits.check_rows(&session, 16);
    limits.check_positions(&mut session);
}

#[test]
fn one_layer_cannot_tell_a_stream_from_its_sinks_and_window() {
    let mut tiny = Tiny::new().with_meta("llama.block_count", Value::U32(1));
    tiny.tensors.retain(|t| !t.name.starts_with("blk.") || t.name.starts_with("blk.0."));
    let model = load(&gpu(), &tiny.file());
    for (format, tolerance) in [(Format::F16, 0.02), (Format::both(KvBits::Eight), 0.3)] {
        let mut stream = Session::new(&model, &options(POLICIES[0](Budget::Rows(50)), format, 3000)).unwrap();
        let mut tokens = prompt(7, 120);
        tokens.extend(answer(&mut stream, &tokens, 700));
        let logits = block_on(stream.logits()).unwrap();
        // The first four tokens, the rows of the window, and the newest token, which is pending again.
        let window = stream.kv().rows_per_layer[0] - 4;
        let left = [&tokens[..4], &tokens[tokens.len() - 1 - window..]].concat();
        let mut fresh = Session::new(&model, &options(Arc::new(Full), format, 200)).unwrap();
        fresh.append(&left).unwrap();
        let expected = block_on(fresh.logits()).unwrap();
        let error = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < tolerance, "{format:?}: logits differ by {error}");
    }
}

#[test]
fn budgets_below_what_is_always_kept_are_refused() {
    for (policy, least) in POLICIES.into_iter().zip([5, 5, 8, 36, 36, 36, 68, 68]) {
        let made =
            |rows| Session::new(&testbed::model(), &options(policy(Budget::Rows(rows)), Format::F16, 500));
        let refused = made(least - 1).unwrap_err().to_string();
        assert!(refused.contains(&least.to_string()) && refused.contains("rows"), "{refused}");
        assert!(made(least).is_ok(), "{least}");
    }
}
