//! `decontaminate` and `decontaminate-chat`: drop what shares a run of words with an evaluation set.
//!
//! datatrove 0.10 `decont/n_grams.py`: n-grams of simplified words, xxHash64. An evaluation text that is shorter than n
//! words counts as a whole, from five words on.

use std::collections::HashSet;
use std::path::Path;

use kbuild_engine::facts::{Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure, Part};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ledger::Ledger;
use super::parts::{for_each, input, map_in_order, output, pool};
use super::text::{hash, simplify, words};
use crate::facts;
use crate::formats::documents::{Records, Writer, looks_like_json, read_text};

/// Evaluation texts with fewer words are too common to look for.
const MIN_WORDS: usize = 5;

type Record = Map<String, Value>;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Words in a row that must agree; of an evaluation text with fewer, from five up, all of them.
    pub n_gram: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self { n_gram: 12 }
    }
}

/// Runs of words of the evaluation texts.
#[derive(Debug, Default)]
struct Evaluation {
    /// `(words, hash)`: full runs, and whole texts that are shorter.
    runs: HashSet<(usize, u64)>,
    /// The lengths that occur in `runs`.
    lengths: Vec<usize>,
}

impl Evaluation {
    fn of(texts: impl IntoIterator<Item = String>, n: usize) -> Self {
        let mut runs = HashSet::new();
        for text in texts {
            let simplified = simplify(&text);
            let words = words(&simplified);
            let length = n.min(words.len());
            if length >= MIN_WORDS.min(n) {
                runs.extend(
                    words
                        .windows(length)
                        .map(|run| (length, hash(&run.join(" ")))),
                );
            }
        }
        let lengths: HashSet<usize> = runs.iter().map(|(length, _)| *length).collect();
        let mut lengths: Vec<usize> = lengths.into_iter().collect();
        lengths.sort_unstable();
        Self { runs, lengths }
    }

    fn overlaps(&self, text: &str) -> bool {
        let simplified = simplify(text);
        let words = words(&simplified);
        self.lengths.iter().any(|length| {
            words
                .windows(*length)
                .any(|run| self.runs.contains(&(*length, hash(&run.join(" ")))))
        })
    }
}

/// Every text of a record, whatever its shape: `text`, `messages`, `prompt` and answers.
fn texts_of(record: &Record) -> Vec<String> {
    const FIELDS: [&str; 6] = ["text", "messages", "prompt", "chosen", "question", "answer"];
    FIELDS
        .iter()
        .filter_map(|field| record.get(*field))
        .flat_map(|value| match value {
            Value::String(text) => vec![text.clone()],
            Value::Array(messages) => messages
                .iter()
                .filter_map(|message| message["content"].as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        })
        .collect()
}

fn evaluation_texts(path: &Path) -> Result<Vec<String>, Failure> {
    if !looks_like_json(path)? {
        return Ok(vec![read_text(path)?]);
    }
    let mut texts = Vec::new();
    for record in Records::<Record>::open(path)? {
        texts.extend(texts_of(&record?));
    }
    Ok(texts)
}

fn ports(format: &'static str, name: &'static str) -> Ports {
    Ports::new()
        .input(name, format, Arity::One, "what may hold evaluation texts")
        .input(
            "evaluation",
            "documents|chat|prompts|preferences|labels",
            Arity::Many,
            "what must not be trained on",
        )
        .output(name, format, "what shares no run of words")
        .output("ledger", "ledger", "how much overlapped")
        .mapped(&[name, "ledger"])
}

fn predict(params: &Params, known: &Known<'_>, port: &str) -> Result<Prediction, Vec<Complaint>> {
    if params.n_gram == 0 {
        return Err(vec![Complaint::new(
            "params.n_gram",
            "runs of 0 words agree everywhere",
            "12 is the default; fewer than 5 find common phrases",
        )]);
    }
    let kept = facts::some_of(known.one(port), &["documents", "bytes"]);
    Ok(facts::prediction(
        facts::without_a_model(),
        [(port, kept), ("ledger", Facts::default())],
    ))
}

fn run(params: &Params, context: &mut Context, port: &str) -> Result<(), Failure> {
    let mut texts = Vec::new();
    for path in context.files("evaluation") {
        texts.extend(evaluation_texts(&path)?);
    }
    let evaluation = Evaluation::of(texts, params.n_gram as usize);
    if evaluation.runs.is_empty() {
        return Err(
            Failure::input("the evaluation set holds no text of at least five words").help(
                "bind the evaluation set itself: records with `text`, `messages` or `prompt`",
            ),
        );
    }
    let pool = pool(context)?;
    for_each(context, |_, part| run_part(&evaluation, &pool, part, port))
}

fn run_part(
    evaluation: &Evaluation,
    pool: &rayon::ThreadPool,
    part: &Part,
    port: &str,
) -> Result<(), Failure> {
    let mut ledger = Ledger::default();
    let mut writer = Writer::create(output(part, port))?;
    let judge = |record: Record| {
        let text = texts_of(&record).join("\n");
        Ok((evaluation.overlaps(&text), text, record))
    };
    let records = Records::<Record>::open(input(part, port))?;
    map_in_order(pool, records, judge, |(overlaps, text, record)| {
        if overlaps {
            ledger.drop("contaminated", &text);
            return Ok(());
        }
        ledger.keep(&text, &text);
        writer.write(&record)
    })?;
    writer.finish()?;
    ledger.write(output(part, "ledger"))
}

pub struct Decontaminate;

impl TaskKind for Decontaminate {
    const NAME: &'static str = "decontaminate";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "drops documents that share 12 words in a row, or a short text as a whole, with an evaluation set";

    type Params = Params;

    fn ports() -> Ports {
        ports("documents", "documents")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        predict(params, known, "documents")
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        run(&params, context, "documents")
    }
}

pub struct DecontaminateChat;

impl TaskKind for DecontaminateChat {
    const NAME: &'static str = "decontaminate-chat";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "drops conversations that share 12 words in a row, or a short text as a whole, with an evaluation set";

    type Params = Params;

    fn ports() -> Ports {
        ports("chat", "chat")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        predict(params, known, "chat")
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        run(&params, context, "chat")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::documents::{Document, read_all, write_all};
    use crate::testing::{Job, artifact, shards};
    use kbuild_engine::artifact::Shape;
    use kbuild_engine::runner::RequestInput;
    use serde_json::json;

    const QUESTION: &str = "What is the sum of all whole numbers from one to one hundred, exactly?";

    #[test]
    fn twelve_words_in_a_row_are_found_in_any_dress() {
        let evaluation = Evaluation::of(
            [QUESTION.to_owned(), "Who wrote Hamlet in 1601?".to_owned()],
            12,
        );
        assert!(evaluation.overlaps(&format!("He asked:\n{}", QUESTION.to_uppercase())));
        assert!(evaluation.overlaps("and so: who wrote hamlet in 1999, then"));
        assert!(
            !evaluation.overlaps("What is the sum of all whole numbers from two to one hundred?")
        );
    }

    #[test]
    fn documents_and_conversations_go() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let [documents, chats, evaluation] = ["d", "c", "e"].map(|name| root.path().join(name));
        write_all(
            &documents,
            &[Document::new(QUESTION), Document::new("else")],
        )
        .unwrap();
        let chat =
            |text: &str| json!({"messages": [{"role": "user", "content": text}], "domain": "x"});
        write_all(&chats, &[chat(QUESTION), chat("else")]).unwrap();
        write_all(
            &evaluation,
            &[json!({"prompt": [{"role": "user", "content": QUESTION}]})],
        )
        .unwrap();
        // Labels, and sources that may be labels, are files without parts.
        let run = |kind: &str, port: &str, path, evaluation: RequestInput| {
            Job::new(&kinds, kind, json!({}))
                .input(port, shards(&[path]))
                .input("evaluation", evaluation)
                .run()
                .unwrap()
        };
        let done = run(
            "decontaminate",
            "documents",
            documents,
            shards(std::slice::from_ref(&evaluation)),
        );
        let left = read_all(&done.output("documents").parts[0]).unwrap();
        assert_eq!(left, vec![Document::new("else")]);
        let ledger = Ledger::read(&done.output("ledger").parts[0]).unwrap();
        assert_eq!(ledger.dropped["contaminated"].documents, 1);

        let done = run(
            "decontaminate-chat",
            "chat",
            chats,
            artifact(Shape::File, &evaluation),
        );
        let left: Vec<Value> = Records::open(&done.output("chat").parts[0])
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(left, vec![chat("else")]);
    }
}
