//! Where lines, marks and ticks of a plot lie in its view box; `plot.html` draws them.

use serde::Serialize;

/// The view box, and the frame inside it: left, top, right, bottom.
const SIZE: [f64; 2] = [560.0, 340.0];
const FRAME: [f64; 4] = [58.0, 18.0, 542.0, 292.0];

/// How far marks of neighbouring series stand apart.
const BESIDE: f64 = 7.0;

/// What is written around a plot.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Titles {
    pub title: &'static str,
    /// What to read from it.
    pub note: &'static str,
    /// Below the horizontal axis.
    pub x: &'static str,
}

/// A plot, laid out.
#[derive(Debug, Serialize)]
pub struct Plot {
    #[serde(flatten)]
    titles: Titles,
    size: [f64; 2],
    frame: [f64; 4],
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Tick {
    at: f64,
    label: String,
}

#[derive(Debug, Serialize)]
struct Line {
    slot: usize,
    path: String,
    marks: Vec<Mark>,
}

#[derive(Debug, Serialize)]
struct Mark {
    x: f64,
    y: f64,
    low: f64,
    high: f64,
    tip: String,
}

/// The points of one line.
#[derive(Debug, Clone)]
pub struct Series {
    /// Which colour and shape it has.
    pub slot: usize,
    pub points: Vec<Point>,
}

/// A value with what it may be at least and at most.
#[derive(Debug, Clone)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub range: [f64; 2],
    /// What is told when somebody points at it.
    pub tip: String,
}

/// What an axis measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Percent from zero, or below it, as far as the values reach.
    Excess,
    /// Powers of ten.
    Log,
    /// A share of a whole, in percent.
    Share,
    /// A number from zero, as far as the values reach.
    Amount,
    /// The values themselves, equally far apart for equal ratios.
    Doublings,
}

/// One axis: values on it, and where they lie.
struct Scale {
    values: [f64; 2],
    place: [f64; 2],
    log: bool,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let measure = |x: f64| if self.log { x.max(f64::MIN_POSITIVE).log10() } else { x };
        let [low, high] = self.values.map(measure);
        let share = ((measure(value) - low) / (high - low)).clamp(0.0, 1.0);
        self.place[0] + share * (self.place[1] - self.place[0])
    }

    fn ticks(&self, values: Vec<f64>, label: impl Fn(f64) -> String) -> Vec<Tick> {
        values.into_iter().map(|value| Tick { at: self.at(value), label: label(value) }).collect()
    }
}

impl Axis {
    /// Values to be marked on the axis, which span those of `points`, of which each has a least and a largest one.
    fn marks(self, points: impl Iterator<Item = [f64; 2]> + Clone) -> Vec<f64> {
        let low = points.clone().map(|p| p[0]).fold(0.0, f64::min);
        let high = points.clone().map(|p| p[1]).fold(0.0, f64::max);
        match self {
            Self::Share => vec![0.0, 25.0, 50.0, 75.0, 100.0],
            Self::Excess => steps(low, high.max(0.1) * 1.04),
            Self::Amount => steps(0.0, high.max(1e-9) * 1.04),
            Self::Log => powers(points.map(|p| p[1]).filter(|&x| x > 0.0)),
            Self::Doublings => {
                let mut values: Vec<f64> = points.flatten().filter(|&x| x > 0.0).collect();
                values.sort_by(f64::total_cmp);
                values.dedup();
                values
            }
        }
    }

    fn label(self, value: f64) -> String {
        match self {
            Self::Excess | Self::Share => format!("{} %", (value * 100.0).round() / 100.0),
            Self::Log | Self::Doublings => value.to_string(),
            // Sums of steps such as 0.2 are not quite round.
            Self::Amount => ((value * 1e6).round() / 1e6).to_string(),
        }
    }

    fn scale(self, marks: &[f64], place: [f64; 2]) -> Scale {
        let [low, high] = ends(marks);
        // Room for marks beside the first and the last value, and some length for an axis of one value.
        let values = if self == Self::Doublings { [low / 1.4, high * 1.4] } else { [low, high] };
        Scale { values, place, log: matches!(self, Self::Log | Self::Doublings) }
    }
}

impl Plot {
    /// Series over `x`, each sorted by it.
    pub fn new(titles: Titles, x_axis: Axis, y_axis: Axis, mut series: Vec<Series>) -> Self {
        series.iter_mut().for_each(|s| s.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
        let points = || series.iter().flat_map(|s| &s.points);
        let x_values = x_axis.marks(points().map(|p| [p.x, p.x]));
        let y_values = y_axis.marks(points().map(|p| if y_axis == Axis::Log { [p.y, p.y] } else { p.range }));
        let x = x_axis.scale(&x_values, [FRAME[0], FRAME[2]]);
        let y = y_axis.scale(&y_values, [FRAME[3], FRAME[1]]);
        // Series are compared at the same places: side by side, none hides another.
        let beside = |i: usize| BESIDE * (i as f64 - (series.len() as f64 - 1.0) / 2.0);
        let mark = |i: usize, p: &Point| Mark {
            x: x.at(p.x) + beside(i),
            y: y.at(p.y),
            low: y.at(p.range[0]),
            high: y.at(p.range[1]),
            tip: p.tip.clone(),
        };
        let line = |(i, s): (usize, &Series)| {
            let marks: Vec<Mark> = s.points.iter().map(|p| mark(i, p)).collect();
            let corners: Vec<String> = marks.iter().map(|m| format!("{:.1},{:.1}", m.x, m.y)).collect();
            Line { slot: s.slot, path: corners.join(" "), marks }
        };
        Self {
            titles,
            size: SIZE,
            frame: FRAME,
            lines: series.iter().enumerate().map(line).collect(),
            x_ticks: x.ticks(x_values, |v| x_axis.label(v)),
            y_ticks: y.ticks(y_values, |v| y_axis.label(v)),
        }
    }
}

fn ends(values: &[f64]) -> [f64; 2] {
    [values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(1.0)]
}

/// Round values, four to eight of them, that span `low..high`.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|x| x * power).into_iter().find(|&s| s >= rough).unwrap_or(power);
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of ten and their doubles and fivefolds that span the values.
fn powers(values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(0.0, f64::max);
    if high == 0.0 {
        return vec![0.001, 0.01];
    }
    let marks = |exponent: i32| [1.0, 2.0, 5.0].map(|x| format!("{x}e{exponent}").parse().unwrap_or(x));
    let all: Vec<f64> = (low.log10().floor() as i32..=high.log10().ceil() as i32).flat_map(marks).collect();
    let from = all.iter().rposition(|&x| x < low).unwrap_or(0);
    let to = all.iter().position(|&x| x > high).unwrap_or(all.len() - 1);
    all[from..=to].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_span_the_values() {
        assert_eq!(steps(0.0, 21.0), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
        assert_eq!(steps(-0.4, 3.3), [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(powers([0.003, 0.047].into_iter()), [0.002, 0.005, 0.01, 0.02, 0.05]);
        assert_eq!(powers(std::iter::empty()), [0.001, 0.01]);
    }

    #[test]
    fn more_lies_higher_and_further_right() {
        let point = |x: f64, y: f64| Point { x, y, range: [y - 0.5, y + 0.5], tip: String::new() };
        let series = vec![Series { slot: 1, points: vec![point(20.0, 1.0), point(8.0, 3.0)] }];
        for axis in [Axis::Excess, Axis::Log, Axis::Share, Axis::Amount, Axis::Doublings] {
            let plot = Plot::new(Titles { title: "", note: "", x: "" }, Axis::Excess, axis, series.clone());
            let [few, many] = &plot.lines[0].marks[..] else { panic!("two marks") };
            assert!(few.x < many.x && few.y < many.y, "{axis:?}: {plot:?}");
            assert!(few.high <= few.y && few.y <= few.low, "{axis:?}: {plot:?}");
            let inside =
                |m: &Mark| (FRAME[0]..=FRAME[2]).contains(&m.x) && (FRAME[1]..=FRAME[3]).contains(&m.y);
            assert!(inside(few) && inside(many), "{axis:?}: {plot:?}");
        }
    }
}
