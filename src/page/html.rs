//! A page as a value: sections of tables, charts and a graph; and its HTML, one file that needs no other.

use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

/// A whole page.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Page {
    pub title: String,
    pub lead: String,
    /// The numbers that stand on top.
    pub headline: Vec<Item>,
    pub sections: Vec<Section>,
    pub footer: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    pub label: String,
    pub value: String,
    pub tone: Tone,
}

/// How a number is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Tone {
    #[default]
    #[serde(rename = "")]
    Plain,
    #[serde(rename = "good")]
    Good,
    #[serde(rename = "bad")]
    Bad,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Section {
    /// Anchor of the section.
    pub id: String,
    pub title: String,
    pub lead: String,
    pub blocks: Vec<Block>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    Table(Table),
    Chart(Chart),
    /// An SVG element.
    Graph(String),
}

/// The first column names the row; the others are numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Table {
    pub caption: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    pub text: String,
    /// An SVG element before the text.
    pub picture: String,
    pub tone: Tone,
}

#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    pub caption: String,
    /// An SVG element.
    pub svg: String,
    /// Label of each line, in the order of their colours.
    pub legend: Vec<String>,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    pub fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

impl Page {
    /// The page as HTML: style and pictures inline, no script, nothing from a network.
    pub fn to_html(&self) -> String {
        let mut templates = Environment::new();
        templates
            .add_template("page.html", include_str!("page.html"))
            .expect("the template is part of the program");
        let template = templates
            .get_template("page.html")
            .expect("it was just added");
        let style =
            context! { style => include_str!("page.css"), graph_style => super::GRAPH_STYLE };
        let values =
            context! { ..style, ..minijinja::Value::from(minijinja::value::Serde(self.clone())) };
        template
            .render(values)
            .expect("every value of the template is a field of the page")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_file_and_escapes_what_it_is_given() {
        let table = Table {
            columns: vec!["rule".into(), "dropped".into()],
            rows: vec![vec![Cell::text("<short>"), Cell::text("3").tone(Tone::Bad)]],
            ..Table::default()
        };
        let section = Section {
            id: "rules".into(),
            title: "Rules & counts".into(),
            lead: "한국어".into(),
            blocks: vec![Block::Table(table)],
        };
        let page = Page {
            title: "a<b".into(),
            sections: vec![section],
            ..Page::default()
        };
        let html = page.to_html();
        assert!(
            html.contains("&lt;short&gt;") && html.contains("a&lt;b") && html.contains("한국어")
        );
        assert!(html.contains("class=\"n bad\""));
        for outside in ["http://", "https://", "<script", "url(", "@import"] {
            assert!(
                !html
                    .replace("http://www.w3.org/2000/svg", "")
                    .contains(outside),
                "{outside}"
            );
        }
    }
}
