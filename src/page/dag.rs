//! Draws a graph of tasks as SVG. Colours come from the style sheet, so that the picture follows light and dark.
//!
//! Knows nothing of builds: it is given names, lines of text and edges.

use std::fmt::Write as _;

use super::escape;
use super::layout::{COLUMN, Point, layout};
use crate::console::text;

const BOX_WIDTH: f64 = COLUMN - 16.0;
const BOX_HEIGHT: f64 = 44.0;
/// Columns of text that a box has room for at the font size of the style sheet.
const BOX_COLUMNS: usize = 23;

/// A box of the drawing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// The line below the name: kind, duration.
    pub detail: String,
    /// Class of the style sheet: which colour.
    pub stage: &'static str,
    /// Class of its status; empty where none is drawn.
    pub mark: &'static str,
}

/// The graph as an SVG element. Edges go from an earlier to a later node.
pub fn svg(nodes: &[Node], edges: &[(usize, usize)]) -> String {
    let layout = layout(nodes.len(), edges);
    let (width, height) = (layout.width.ceil(), layout.height.ceil());
    let mut out = format!(
        "<svg class=\"dag\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"graph of tasks\">\n"
    );
    for route in &layout.routes {
        let _ = writeln!(out, "<path class=\"edge\" d=\"{}\"/>", curve(route));
    }
    for (node, at) in nodes.iter().zip(&layout.nodes) {
        out.push_str(&node_svg(node, *at));
    }
    out.push_str("</svg>\n");
    out
}

/// The class of a task's box, from the format of its first output.
pub fn stage(format: &str) -> &'static str {
    match format {
        "model" | "reward-model" | "optimizer-state" => "model",
        "tokenizer" | "tokens" => "tokens",
        "samples" | "scores" | "pairs" | "log-probabilities" => "align",
        "report" | "choice" | "metrics" | "importance" | "page" => "measure",
        _ => "data",
    }
}

fn node_svg(node: &Node, (x, y): Point) -> String {
    let (left, top) = (x - BOX_WIDTH / 2.0, y - BOX_HEIGHT / 2.0);
    let mark = match node.mark {
        "" => String::new(),
        _ => format!(
            "<circle class=\"mark\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
            left + 10.0,
            top + 10.0
        ),
    };
    let class = format!("node {} {}", node.stage, node.mark);
    format!(
        "<g class=\"{}\" data-name=\"{name}\" data-status=\"{}\"><title>{name} ({detail})</title><rect \
         x=\"{left:.1}\" y=\"{top:.1}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\"/>{mark}<text \
         x=\"{x:.1}\" y=\"{:.1}\">{}</text><text class=\"detail\" x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>\n",
        class.trim_end(),
        node.mark,
        y - 4.0,
        escape(&text::fit(&node.name, Some(BOX_COLUMNS))),
        y + 13.0,
        escape(&text::fit(&node.detail, Some(BOX_COLUMNS + 4))),
        name = escape(&node.name),
        detail = escape(&node.detail),
    )
}

/// A smooth path from the lower side of the first box to the upper side of the last.
fn curve(route: &[Point]) -> String {
    let last = route.len() - 1;
    let shifted = |(i, point): (usize, &Point)| match i {
        0 => (point.0, point.1 + BOX_HEIGHT / 2.0),
        i if i == last => (point.0, point.1 - BOX_HEIGHT / 2.0 - 3.0),
        _ => *point,
    };
    let points: Vec<Point> = route.iter().enumerate().map(shifted).collect();
    let mut path = format!("M{:.1} {:.1}", points[0].0, points[0].1);
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let middle = f64::midpoint(y0, y1);
        let _ = write!(
            path,
            "C{x0:.1} {middle:.1} {x1:.1} {middle:.1} {x1:.1} {y1:.1}"
        );
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_cut() {
        let node = |name: &str| Node {
            name: name.to_owned(),
            detail: "pretrain".to_owned(),
            stage: stage("model"),
            mark: "",
        };
        let drawn = svg(
            &[node("a<b"), node("한국어-문서-정리-단계-하나-둘")],
            &[(0, 1)],
        );
        assert!(drawn.contains("a&lt;b") && !drawn.contains("a<b"));
        assert!(drawn.contains("한국어-문서-정리-단계-…"), "{drawn}");
        assert_eq!(drawn.matches("class=\"edge\"").count(), 1);
        assert_eq!(drawn.matches("class=\"node model\"").count(), 2);
    }
}
