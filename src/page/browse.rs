//! A graph that a person opens and walks through: one HTML file with pan, zoom, search and details.
//!
//! Two drawings of the same tasks, each laid out beforehand: composites and matrices as one box, and every task. The
//! script only moves, dims and shows what is there; without it the first drawing still stands.

use minijinja::{Environment, context};
use serde::Serialize;

use super::dag;
use super::graph::Drawing;

/// What is told of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Info {
    pub name: String,
    pub kind: String,
    /// `hit`, `miss`, `unknown` or `blocked`.
    pub status: &'static str,
    /// Why, in a line.
    pub reason: String,
    /// First digits of the key, where it is known.
    pub key: String,
    /// How long it took when it ran last.
    pub took: String,
}

/// A drawing for the script: which tasks each box stands for, and the edges.
#[derive(Serialize)]
struct Sheet {
    boxes: Vec<Vec<usize>>,
    edges: Vec<(usize, usize)>,
}

/// The page for some tasks; `infos` are those of the nodes of `drawing`, in order.
pub fn html(title: &str, lead: &str, drawing: &Drawing, infos: &[Info]) -> String {
    let marked = drawing.marked(infos.iter().map(|info| info.status));
    let (grouped, members) = marked.grouped(|inside| match inside {
        [only] => infos[*only].kind.clone(),
        several => format!("{} tasks", several.len()),
    });
    let every = marked.reduced();
    let sheets = [
        Sheet {
            boxes: members,
            edges: grouped.edges.clone(),
        },
        Sheet {
            boxes: (0..infos.len()).map(|at| vec![at]).collect(),
            edges: every.edges.clone(),
        },
    ];
    let count = |status: &str| infos.iter().filter(|info| info.status == status).count();
    let counts: Vec<_> = [
        ("hit", "up to date"),
        ("miss", "to run"),
        ("unknown", "known later"),
        ("blocked", "blocked"),
    ]
    .iter()
    .map(|(status, words)| context! { status => *status, words => *words, n => count(status) })
    .collect();
    let values = context! {
        title, lead, counts,
        graph_style => super::GRAPH_STYLE,
        style => include_str!("browse.css"),
        script => include_str!("browse.js"),
        grouped => dag::svg(&grouped.nodes, &grouped.edges),
        every => dag::svg(&every.nodes, &every.edges),
        data => json(&(infos, sheets)),
    };
    let mut templates = Environment::new();
    templates
        .add_template("browse.html", include_str!("browse.html"))
        .and_then(|()| templates.get_template("browse.html")?.render(values))
        .expect("the template is part of the program, and its values are those above")
}

/// JSON that may stand inside a script element.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .unwrap_or_default()
        .replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, status: &'static str) -> Info {
        Info {
            name: name.to_owned(),
            kind: "train".to_owned(),
            status,
            reason: "a</script>b".to_owned(),
            key: String::new(),
            took: String::new(),
        }
    }

    #[test]
    fn the_page_holds_both_drawings_and_reaches_nowhere() {
        let infos = [
            info("a@x=1", "hit"),
            info("a@x=2", "miss"),
            info("b", "unknown"),
        ];
        let node = |info: &Info| dag::Node {
            name: info.name.clone(),
            detail: "train".to_owned(),
            stage: "model",
            mark: "",
        };
        let drawing = Drawing {
            nodes: infos.iter().map(node).collect(),
            edges: vec![(0, 2), (1, 2)],
        };
        let page = html("t<", "3 tasks", &drawing, &infos);
        assert_eq!(page.matches("<svg class=\"dag\"").count(), 2);
        assert_eq!(
            page.matches("class=\"node model miss\"").count(),
            2,
            "a group has its worst status"
        );
        assert!(page.contains("2 tasks") && page.contains("t&lt;"));
        assert!(
            page.contains("a\\u003c/script>b"),
            "no text ends the script"
        );
        let page = page.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "src=", "url(", "@import", "fetch("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
