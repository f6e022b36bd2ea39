//! `drop`: removes the documents that a drop list names, part by part.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure, Part};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::DropList;
use super::ledger::Ledger;
use super::parts::{for_each, input, output};
use crate::facts;
use crate::formats::documents::{self, Writer};

pub struct Drop;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

impl TaskKind for Drop {
    const NAME: &'static str = "drop";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "removes the documents that the drop list of `cluster` names";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "documents",
                "documents",
                Arity::One,
                "the documents that were clustered",
            )
            .input(
                "drop-list",
                "drop-list",
                Arity::One,
                "what goes, one list per part",
            )
            .output("documents", "documents", "what stays")
            .output("ledger", "ledger", "exact and near-duplicates")
            .mapped(&["documents", "drop-list", "ledger"])
    }

    fn predict(_params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let kept = facts::some_of(known.one("documents"), &["documents", "bytes"]);
        Ok(facts::prediction(
            facts::without_a_model(),
            [("documents", kept), ("ledger", Facts::default())],
        ))
    }

    fn run(_params: Params, context: &mut Context) -> Result<(), Failure> {
        for_each(context, |_, part| run_part(part))
    }
}

fn run_part(part: &Part) -> Result<(), Failure> {
    let from = input(part, "documents");
    let list = DropList::read(input(part, "drop-list"))?;
    let mut dropped = list.drop.iter().peekable();
    let mut ledger = Ledger::default();
    let mut writer = Writer::create(output(part, "documents"))?;
    let mut n_documents = 0;
    for document in documents::read(from)? {
        let document = document?;
        match dropped.next_if(|dropped| dropped.at == n_documents) {
            Some(dropped) if dropped.id == document.id => {
                ledger.drop(dropped.reason.rule(), &document.text);
            }
            Some(dropped) => return Err(mismatch(part, &dropped.id, &document.id)),
            None => {
                ledger.keep(&document.text, &document.text);
                writer.write(&document)?;
            }
        }
        n_documents += 1;
    }
    // What is left is out of order, or past the end: nothing that it names was dropped.
    if let Some(left) = dropped.next() {
        return Err(mismatch(part, &left.id, "none in its place"));
    }
    if n_documents != list.documents {
        let (expected, found) = (list.documents.to_string(), n_documents.to_string());
        return Err(mismatch(part, &expected, &found));
    }
    writer.finish()?;
    ledger.write(output(part, "ledger"))
}

fn mismatch(part: &Part, expected: &str, found: &str) -> Failure {
    Failure::input(format!(
        "the drop list `{}` was made for other documents: expected `{expected}`, found `{found}`",
        input(part, "drop-list").display()
    ))
    .help("give `drop` the documents whose signatures went into `cluster`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::documents::{Document, read_all, write_all};
    use crate::testing::{Job, shards};
    use serde_json::json;

    #[test]
    fn duplicates_go_through_signatures_cluster_and_drop() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| root.path().join(name));
        let copy = "이 문서는 두 번 나오는 아주 흔한 안내문이며 여러 곳에 복사되어 있습니다";
        let texts = [vec![copy, "다른 글"], vec!["셋째 글", copy]];
        for (path, texts) in paths.iter().zip(&texts) {
            let documents: Vec<Document> = texts.iter().map(|text| Document::new(*text)).collect();
            write_all(path, &documents).unwrap();
        }
        let documents = shards(&paths);
        let signed = Job::new(&kinds, "signatures", json!({}))
            .input("documents", documents.clone())
            .run()
            .unwrap();
        let clustered = Job::new(&kinds, "cluster", json!({}))
            .input("signatures", signed.output("signatures"))
            .run()
            .unwrap();
        let drop = |documents| {
            Job::new(&kinds, "drop", json!({}))
                .input("documents", documents)
                .input("drop-list", clustered.output("drop-list"))
                .run()
        };
        let done = drop(documents).unwrap();
        let parts = done.output("documents").parts;
        assert_eq!(read_all(&parts[0]).unwrap().len(), 2);
        assert_eq!(read_all(&parts[1]).unwrap(), vec![Document::new("셋째 글")]);
        let ledger = Ledger::read(&done.output("ledger").parts[1]).unwrap();
        assert_eq!(ledger.dropped["exact_duplicate"].documents, 1);

        write_all(&paths[1], &[Document::new("x"), Document::new("y")]).unwrap();
        let failure = drop(shards(&paths)).err().unwrap();
        assert!(failure.message.contains("other documents"), "{failure}");
    }
}
