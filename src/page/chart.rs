//! Line charts as SVG: axes with labels, a grid, one line a series.
//!
//! Our own because the plotting crates fix colours in the drawing; here they come from the style sheet, so that one
//! chart reads well in light and dark.

use std::fmt::Write as _;

use super::escape;
use crate::console::text;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// More points than this per line are averaged in equal buckets: a page stays small.
const MAX_POINTS: usize = 240;
/// Colours that the style sheet has for lines.
pub const N_COLOURS: usize = 8;

/// One line: its label and its points, x rising.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub label: String,
    pub points: Vec<(f64, f64)>,
}

/// What an axis is about.
pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
}

/// The chart as an SVG element; empty where there is no finite point.
pub fn line_chart(series: &[Series], axes: &Axes<'_>) -> String {
    let finite = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite();
    let points = || series.iter().flat_map(|line| &line.points).filter(finite);
    if points().next().is_none() {
        return String::new();
    }
    let x = Scale::new(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let y = Scale::new(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut out = format!(
        "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{} by {}\">\n",
        escape(axes.y),
        escape(axes.x)
    );
    out.push_str(&grid(&x, &y, axes));
    for (i, line) in series.iter().enumerate() {
        let points: Vec<(f64, f64)> = line.points.iter().filter(finite).copied().collect();
        let _ = writeln!(
            out,
            "<polyline class=\"line s{}\" points=\"{}\"><title>{}</title></polyline>",
            i % N_COLOURS,
            polyline(&thin(&points), &x, &y),
            escape(&line.label)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// A value with its interval on a line from 0 to 1, with a mark at one half.
pub fn interval(value: f64, low: f64, high: f64) -> String {
    let x = |share: f64| 4.0 + 112.0 * share.clamp(0.0, 1.0);
    format!(
        "<svg class=\"interval\" viewBox=\"0 0 120 16\" width=\"120\" height=\"16\" role=\"img\" aria-label=\"{:.0} \
         percent\"><line class=\"half\" x1=\"60\" x2=\"60\" y1=\"1\" y2=\"15\"/><line class=\"span\" x1=\"{:.1}\" \
         x2=\"{:.1}\" y1=\"8\" y2=\"8\"/><circle cx=\"{:.1}\" cy=\"8\" r=\"4\"/></svg>",
        value * 100.0,
        x(low),
        x(high),
        x(value)
    )
}

fn grid(x: &Scale, y: &Scale, axes: &Axes<'_>) -> String {
    let mut out = String::new();
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick y\" \
             x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            tick_label(tick, y.step)
        );
    }
    for tick in x.ticks() {
        let at = x.at(tick);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><text class=\"tick x\" \
             x=\"{at:.1}\" y=\"{}\">{}</text>",
            bottom + 16.0,
            tick_label(tick, x.step)
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"axis x\" x=\"{:.1}\" y=\"{}\">{}</text><text class=\"axis y\" transform=\"translate(13 {:.1}) \
         rotate(-90)\">{}</text>",
        f64::midpoint(LEFT, right),
        HEIGHT - 6.0,
        escape(axes.x),
        f64::midpoint(TOP, bottom),
        escape(axes.y)
    );
    out
}

/// Values to places, with round ticks.
struct Scale {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low == high {
            (low, high) = (low - 0.5, high + 0.5);
        }
        let step = round_step((high - low) / 5.0);
        Self {
            low,
            high,
            step,
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let first = (self.low / self.step).ceil() as i64;
        let last = (self.high / self.step).floor() as i64;
        (first..=last).map(|n| n as f64 * self.step)
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|digit| digit * power >= step * 0.999);
    digit.unwrap_or(10.0) * power
}

fn tick_label(value: f64, step: f64) -> String {
    if step >= 1.0 {
        return text::count(value);
    }
    let decimals = (-step.log10()).ceil().clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |bucket: &[(f64, f64)]| {
        let n = bucket.len() as f64;
        let sum = bucket
            .iter()
            .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / n, sum.1 / n)
    };
    points.chunks(size).map(mean).collect()
}

fn polyline(points: &[(f64, f64)], x: &Scale, y: &Scale) -> String {
    let place = |point: &(f64, f64)| format!("{:.1},{:.1}", x.at(point.0), y.at(point.1));
    points.iter().map(place).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: Vec<(f64, f64)>) -> Series {
        Series {
            label: "loss".to_owned(),
            points,
        }
    }

    #[test]
    fn ticks_are_round() {
        let scale = Scale::new([0.0, 1300.0].into_iter(), 0.0, 100.0);
        assert_eq!(scale.ticks().collect::<Vec<_>>(), [0.0, 500.0, 1000.0]);
        assert_eq!(tick_label(1500.0, 500.0), "1.50k");
        assert_eq!(tick_label(0.3, 0.1), "0.3");
        assert_eq!(round_step(0.13), 0.2);
    }

    #[test]
    fn what_is_not_a_number_is_left_out() {
        let axes = Axes {
            x: "step",
            y: "loss",
        };
        assert_eq!(line_chart(&[series(vec![(0.0, f64::NAN)])], &axes), "");
        let drawn = line_chart(
            &[series(vec![(0.0, 3.0), (1.0, f64::NAN), (2.0, 2.0)])],
            &axes,
        );
        assert!(!drawn.contains("NaN"));
        assert_eq!(drawn.matches("<polyline").count(), 1);
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_mean() {
        let points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), 1.0)).collect();
        let thinned = thin(&points);
        assert!(thinned.len() <= MAX_POINTS);
        assert!(thinned.iter().all(|point| point.1 == 1.0));
    }

    #[test]
    fn one_point_is_drawn() {
        let axes = Axes {
            x: "step",
            y: "loss",
        };
        assert!(line_chart(&[series(vec![(5.0, 3.0)])], &axes).contains("polyline"));
    }
}
