//! `extract`: raw pages and texts become documents.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure, Part};
use schemars::JsonSchema;
use scraper::Selector;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use unicode_normalization::UnicodeNormalization;

use super::html::{self, Selectors};
use super::ledger::Ledger;
use super::page::Refusal;
use super::parts::{for_each, input, map_in_order, output, pool};
use crate::facts;
use crate::formats::documents::{
    Document, Records, Writer, content_id, looks_like_json, read_text,
};

pub struct Extract;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// CSS selector of the part of a page that holds the text; by default the usual places are tried (`main`,
    /// `article`, `#content`, …).
    pub main: Option<String>,
    /// CSS selectors of parts to leave out, besides scripts, menus, footers and what is hidden.
    pub drop: Vec<String>,
    /// Pages with fewer characters of text are dropped.
    pub min_chars: u64,
}

/// Bytes of a CSS selector: the parser calls itself for each bracket in a bracket.
const LONGEST_SELECTOR: usize = 1024;

impl Params {
    fn selectors(&self) -> Result<Selectors, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let mut parse = |at: &str, css: &String| {
            if css.len() > LONGEST_SELECTOR {
                let message = format!("the selector is longer than {LONGEST_SELECTOR} bytes");
                complaints.push(Complaint::new(at, message, "give several shorter ones"));
                return None;
            }
            let parsed = Selector::parse(css);
            if let Err(error) = &parsed {
                let message = format!("`{css}` is not a CSS selector: {error}");
                complaints.push(Complaint::new(
                    at,
                    message,
                    "for example `.menu`, `#content`, `table.layout`",
                ));
            }
            parsed.ok()
        };
        let main = self.main.as_ref().and_then(|css| parse("params.main", css));
        let drop = self
            .drop
            .iter()
            .filter_map(|css| parse("params.drop", css))
            .collect();
        if complaints.is_empty() {
            Ok(Selectors { main, drop })
        } else {
            Err(complaints)
        }
    }
}

/// A raw record: a page or a text, and whatever else it carries.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    id: Option<Value>,
    #[serde(default)]
    html: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default, alias = "metadata")]
    meta: Option<Map<String, Value>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Raw {
    fn of(text: String) -> Self {
        let start = text.trim_start().to_ascii_lowercase();
        let is_page = start.starts_with("<!doctype html") || start.starts_with("<html");
        let (html, text) = if is_page {
            (Some(text), None)
        } else {
            (None, Some(text))
        };
        Self {
            id: None,
            html,
            text,
            meta: None,
            rest: Map::new(),
        }
    }

    /// The raw text and the document that was made of it, or why its page was given up.
    fn document(
        self,
        selectors: &Selectors,
    ) -> Result<(String, Result<Document, Refusal>), Failure> {
        let mut meta = self.rest;
        meta.extend(self.meta.unwrap_or_default());
        let (raw, text) = match (self.html, self.text) {
            (Some(page), _) => {
                let found = match html::extract(&page, selectors) {
                    Ok(found) => found,
                    Err(refusal) => return Ok((page, Err(refusal))),
                };
                describe(&found, &mut meta);
                (page, found.text)
            }
            (None, Some(text)) => {
                let normal = normal(&text);
                (text, normal)
            }
            (None, None) => {
                return Err(Failure::input("a raw record has neither `html` nor `text`")
                    .help("give every record one of the two"));
            }
        };
        let id = match self.id {
            Some(Value::String(id)) => id,
            Some(Value::Number(number)) => number.to_string(),
            _ => content_id(&raw),
        };
        Ok((raw, Ok(Document { id, text, meta })))
    }
}

fn describe(page: &html::Page, meta: &mut Map<String, Value>) {
    if !page.title.is_empty() {
        meta.insert("title".to_owned(), json!(page.title));
    }
    if let Some(language) = &page.language {
        meta.insert("language".to_owned(), json!(language));
    }
    if !page.headings.is_empty() {
        meta.insert("headings".to_owned(), json!(page.headings));
    }
}

/// A text that was no page: composed, unix line ends, no invisible marks, no space at the end of a line.
fn normal(text: &str) -> String {
    let visible: String = text.nfc().filter(|c| !html::is_invisible(*c)).collect();
    let lines: Vec<&str> = visible.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

impl TaskKind for Extract {
    const NAME: &'static str = "extract";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "takes the main text out of HTML pages and raw records";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "raw",
                "raw|documents",
                Arity::One,
                "records with `html` or `text`, HTML files, plain text",
            )
            .output(
                "documents",
                "documents",
                "their text; `meta` has title, language and headings",
            )
            .output("ledger", "ledger", "how many pages held no text")
            .mapped(&["raw", "documents", "ledger"])
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        params.selectors()?;
        let kept = facts::some_of(known.one("raw"), &["documents"]);
        Ok(facts::prediction(
            facts::without_a_model(),
            [("documents", kept), ("ledger", Facts::default())],
        ))
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        params
            .selectors()
            .map_err(|complaints| Failure::input(complaints[0].message.clone()))?;
        let pool = pool(context)?;
        for_each(context, |_, part| run_part(&params, &pool, part))
    }
}

fn run_part(params: &Params, pool: &rayon::ThreadPool, part: &Part) -> Result<(), Failure> {
    let mut ledger = Ledger::default();
    let mut writer = Writer::create(output(part, "documents"))?;
    // Selectors are not shared between threads: each record parses them again, which is cheap beside its page.
    let extract = |raw: Raw| {
        let selectors = params.selectors().unwrap_or_default();
        raw.document(&selectors)
    };
    map_in_order(pool, raws(part)?, extract, |(raw, document)| {
        let document = match document {
            Ok(document) => document,
            Err(refusal) => {
                ledger.drop(refusal.rule(), &raw);
                return Ok(());
            }
        };
        if document.text.is_empty() {
            ledger.drop("no_text", &raw);
        } else if (document.text.chars().count() as u64) < params.min_chars {
            ledger.drop("short_text", &raw);
        } else {
            ledger.keep(&raw, &document.text);
            writer.write(&document)?;
        }
        Ok(())
    })?;
    writer.finish()?;
    ledger.write(output(part, "ledger"))
}

fn raws(part: &Part) -> Result<Box<dyn Iterator<Item = Result<Raw, Failure>>>, Failure> {
    let path = input(part, "raw");
    if looks_like_json(path)? {
        return Ok(Box::new(Records::<Raw>::open(path)?));
    }
    Ok(Box::new(std::iter::once(Ok(Raw::of(read_text(path)?)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::documents::read_all;
    use crate::testing::{Job, predict, shards};

    #[test]
    fn pages_and_texts_become_documents() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let (records, page) = (root.path().join("a.jsonl"), root.path().join("b.html"));
        let lines = [
            json!({"id": "p", "source": "s", "html": "<title>T</title><body><h2>H</h2><p>body"}),
            json!({"text": "e\u{301}\r\nx  \n\n"}),
            json!({"html": "<nav>menu</nav>"}),
        ];
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        std::fs::write(&records, lines.join("\n")).unwrap();
        std::fs::write(&page, "<!DOCTYPE html><p>whole file").unwrap();
        let job = Job::new(&kinds, "extract", json!({}));
        let done = job.input("raw", shards(&[records, page])).run().unwrap();
        let parts = done.output("documents").parts;
        let documents = read_all(&parts[0]).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            (documents[0].id.as_str(), documents[0].text.as_str()),
            ("p", "H\nbody")
        );
        let meta = json!({"headings": [[2, "H"]], "source": "s", "title": "T"});
        assert_eq!(Value::Object(documents[0].meta.clone()), meta);
        assert_eq!(documents[1].text, "é\nx");
        assert_eq!(read_all(&parts[1]).unwrap()[0].text, "whole file");
        let ledger = Ledger::read(&done.output("ledger").parts[0]).unwrap();
        assert_eq!(ledger.dropped["no_text"].documents, 1);
    }

    #[test]
    fn a_selector_that_is_none_is_a_complaint() {
        let kinds = crate::kinds();
        let params = json!({"drop": [".ok", "p >> "]});
        let complaints = predict(&kinds, "extract", params, &[]).unwrap_err();
        assert_eq!(complaints.len(), 1);
        assert_eq!(complaints[0].at, "params.drop");
    }
}
