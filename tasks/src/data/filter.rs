//! `filter`: drops documents that rules of counting find bad, and says which rule it was.

use std::collections::BTreeMap;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{self, Outcome};
use super::rules::Verdict;
use super::rules::chain::Chain;
use crate::facts;

pub struct Filter;

/// What the documents are written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    #[default]
    En,
    Ko,
    Code,
}

/// A chain of rule sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// English: Gopher repetition and quality, C4 without terminal punctuation, FineWeb line shapes.
    Fineweb,
    /// FineWeb-2's thresholds for Korean. They count morphemes; with words they drop most good text.
    Fineweb2,
    /// Korean by white-space words: FineWeb-2 for lines and repetition, DPS for words and characters.
    Korean,
    /// Source code: line lengths, alphanumeric share, generated files (The Stack).
    Code,
    /// Gopher repetition and quality alone.
    Gopher,
    /// C4 with terminal punctuation alone.
    C4,
    /// No rule: every document stays.
    None,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Decides the chain where `rules` is not given: `en` is `fineweb`, `ko` is `korean`, `code` is `code`.
    pub language: Language,
    /// The chain of rule sets.
    pub rules: Option<Rules>,
    /// Other thresholds, by the name of the rule as it stands in the ledger (`gopher_short_doc = 30`); 0 switches a
    /// rule off.
    pub thresholds: BTreeMap<String, f64>,
}

impl Params {
    /// The chain with its thresholds, or the names that no rule of it has.
    fn chain(&self) -> Result<Chain, Vec<String>> {
        let rules = self.rules.unwrap_or(match self.language {
            Language::En => Rules::Fineweb,
            Language::Ko => Rules::Korean,
            Language::Code => Rules::Code,
        });
        let mut chain = match rules {
            Rules::Fineweb => Chain::fineweb(),
            Rules::Fineweb2 => Chain::fineweb2(),
            Rules::Korean => Chain::korean(),
            Rules::Code => Chain::code(),
            Rules::Gopher => Chain::gopher(),
            Rules::C4 => Chain::c4(),
            Rules::None => Chain(Vec::new()),
        };
        let mut unknown = Vec::new();
        for (rule, value) in &self.thresholds {
            if !chain.set_threshold(rule, *value) {
                unknown.push(rule.clone());
            }
        }
        if unknown.is_empty() {
            Ok(chain)
        } else {
            Err(unknown)
        }
    }
}

impl TaskKind for Filter {
    const NAME: &'static str = "filter";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "drops documents by heuristic rules (Gopher, C4, FineWeb, Korean, code) and counts which";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("documents", "documents", Arity::One, "what to judge")
            .output("documents", "documents", "what stays")
            .output("ledger", "ledger", "what was dropped, by rule")
            .mapped(&["documents", "ledger"])
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let complain = |rule: String| {
            Complaint::new(
                "params.thresholds",
                format!("no rule of this chain is called `{rule}`"),
                "rules are called as in the ledger: `gopher_short_doc`, `line_punct_ratio`, `korean_short_doc`, …",
            )
        };
        let negative = params
            .thresholds
            .iter()
            .filter(|(_, value)| value.is_nan() || **value < 0.0);
        let negative = negative.map(|(rule, value)| {
            Complaint::new(
                &format!("params.thresholds.{rule}"),
                format!("the threshold is {value}, expected 0 or more"),
                "0 switches the rule off",
            )
        });
        let unknown = params.chain().err().unwrap_or_default();
        let complaints = unknown.into_iter().map(complain).chain(negative);
        facts::answer(complaints.collect(), || {
            let kept = facts::some_of(known.one("documents"), &["documents", "bytes"]);
            facts::prediction(
                facts::without_a_model(),
                [("documents", kept), ("ledger", Facts::default())],
            )
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let chain = params.chain().map_err(|unknown| {
            Failure::input(format!(
                "no rule of this chain is called `{}`",
                unknown.join("`, `")
            ))
        })?;
        parts::clean(context, |mut document, _| {
            Ok(match chain.judge(&document.text) {
                Verdict::Keep => Outcome::Keep(document),
                Verdict::Change(text) => {
                    document.text = text;
                    Outcome::Keep(document)
                }
                Verdict::Drop(rule) => Outcome::Drop(rule.into_owned()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::data::ledger::Ledger;
    use crate::formats::documents::{Document, read_all, write_all};
    use crate::testing::{Job, predict, shards};
    use kbuild_engine::runner::Event;
    use serde_json::json;

    const GOOD: &str = "스프레드시트에서 함수를 사용하면 계산이 훨씬 간단해집니다. 먼저 결과를 넣을 칸을 선택하고 \
        등호로 시작하는 수식을 입력하세요. 입력을 마치면 값이 바로 나타나며, 다른 칸으로 복사할 때 주소가 자동으로 \
        바뀝니다. 주소를 그대로 두려면 달러 기호를 붙입니다. 여러 표를 한꺼번에 다루는 방법은 다음 장에서 설명합니다.";

    #[test]
    fn parts_are_judged_alone_and_counted() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| root.path().join(name));
        write_all(
            &paths[0],
            &[
                Document::new(GOOD),
                Document::new("열쇠는 문 옆의 작은 서랍에 넣어 두었으니 나중에 꺼내 가세요"),
            ],
        )
        .unwrap();
        write_all::<Document>(&paths[1], &[]).unwrap();
        let job = Job::new(&kinds, "filter", json!({ "language": "ko" }));
        let done = job.input("documents", shards(&paths)).run().unwrap();
        let parts = done.output("documents").parts;
        assert_eq!(read_all(&parts[0]).unwrap(), vec![Document::new(GOOD)]);
        assert_eq!(read_all(&parts[1]).unwrap(), vec![]);
        let ledger = Ledger::read(&done.output("ledger").parts[0]).unwrap();
        assert_eq!((ledger.input.documents, ledger.kept.documents), (2, 1));
        assert_eq!(ledger.dropped["top_3_gram"].documents, 1);
        let parts_done = |event: &&Event| matches!(event, Event::Part { .. });
        assert_eq!(done.events.iter().filter(parts_done).count(), 2);
    }

    #[test]
    fn threads_change_no_byte() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let documents: Vec<Document> = (0..3000)
            .map(|n| Document::new(format!("{GOOD} {}", "가나다 ".repeat(n % 50))))
            .collect();
        write_all(&path, &documents).unwrap();
        let digest = |threads| {
            let job = Job::new(&kinds, "filter", json!({ "language": "ko" }));
            let job = job.input("documents", shards(std::slice::from_ref(&path)));
            job.threads(threads).run().unwrap().digest("documents")
        };
        assert_eq!(digest(1), digest(3));
    }

    #[test]
    fn a_threshold_without_a_rule_is_a_complaint() {
        let kinds = crate::kinds();
        let params = json!({ "thresholds": { "gopher_short_doc": 5, "short": 1 } });
        let complaints = predict(&kinds, "filter", params, &[]).unwrap_err();
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].message.contains("`short`"));
    }

    #[test]
    fn a_damaged_shard_is_named() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("broken.jsonl.zst");
        write_all(&path, &[Document::new(GOOD)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
        let job = Job::new(&kinds, "filter", json!({}));
        let failure = job.input("documents", shards(&[path])).run().err().unwrap();
        assert!(
            failure.message.contains("broken.jsonl.zst`, line"),
            "{failure}"
        );
    }
}
