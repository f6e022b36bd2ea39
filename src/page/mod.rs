//! Pictures and pages for people: graphs, charts, and the report of a pipeline as one HTML file.
//!
//! Strings in, strings out. What is drawn was measured elsewhere.

pub mod browse;
pub mod chart;
pub mod dag;
pub mod graph;
pub mod html;
pub mod layout;
pub mod report;

/// Style of a drawn graph, shared by the page and by a picture that stands alone.
pub const GRAPH_STYLE: &str = include_str!("graph.css");

/// Text as it stands in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
