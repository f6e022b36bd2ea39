//! `anonymize`: replaces personal data by placeholders and counts them.

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{self, Outcome};
use super::pii;
use crate::facts;

pub struct Anonymize;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

impl TaskKind for Anonymize {
    const NAME: &'static str = "anonymize";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "replaces personal data (e-mail, phone, IP, card, Korean registration numbers) by placeholders";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("documents", "documents", Arity::One, "what to look through")
            .output("documents", "documents", "the same with placeholders")
            .output("ledger", "ledger", "what was replaced, by sort")
            .mapped(&["documents", "ledger"])
    }

    fn predict(_params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let kept = facts::carried(known.one("documents"), &["documents"]);
        Ok(facts::prediction(
            facts::without_a_model(),
            [("documents", kept), ("ledger", Facts::default())],
        ))
    }

    fn run(_params: Params, context: &mut Context) -> Result<(), Failure> {
        parts::clean(context, |mut document, ledger| {
            let (text, found) = pii::replace(&document.text);
            for found in found {
                ledger.replace(found.sort.name(), 1);
            }
            document.text = text;
            Ok(Outcome::Keep(document))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::data::ledger::Ledger;
    use crate::formats::documents::{Document, read_all, write_all};
    use crate::testing::{Job, shards};
    use serde_json::json;

    #[test]
    fn replacements_are_counted_by_sort() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let texts = [
            "문의kim@example.net",
            "또 lee@example.net 또는 010-1234-5678",
        ];
        write_all(&path, &texts.map(Document::new)).unwrap();
        let job = Job::new(&kinds, "anonymize", json!({}));
        let done = job.input("documents", shards(&[path])).run().unwrap();
        let documents = read_all(&done.output("documents").parts[0]).unwrap();
        assert_eq!(documents[1].text, "또 [EMAIL] 또는 [PHONE]");
        assert_eq!(documents[1].id, Document::new(texts[1]).id);
        let ledger = Ledger::read(&done.output("ledger").parts[0]).unwrap();
        assert_eq!((ledger.replaced["EMAIL"], ledger.replaced["PHONE"]), (2, 1));
        assert_eq!(ledger.changed, 2);
    }
}
