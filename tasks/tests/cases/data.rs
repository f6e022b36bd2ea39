//! Cases of text: filters, simplified text, signatures, the tokenizer.
//!
//! The documents of `data/*.jsonl` are named by set and id. A line that holds its `text` runs as it is; the text of the
//! others is looked for in the directory that `KBUILD_DATA` names, and they are skipped without it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use kbuild_tasks::data::minhash::{PARAMETERS, signature};
use kbuild_tasks::data::rules::Verdict;
use kbuild_tasks::data::rules::c4::C4;
use kbuild_tasks::data::rules::fineweb::FineWeb;
use kbuild_tasks::data::rules::quality::Quality;
use kbuild_tasks::data::rules::repetition::Repetition;
use kbuild_tasks::data::text::{hash, simplify};
use kbuild_tasks::formats::documents::read_all;
use kbuild_tasks::formats::tokenizer::Tokenizer;
use serde_json::Value;

use super::{Case, Vectors};

pub const CASES: &[Case] = &[
    Case {
        id: "tokenizer/tokenizer.json",
        run: tokenizer,
    },
    Case {
        id: "data/small.json#simplify_text",
        run: small_simplify,
    },
    Case {
        id: "data/small.json#xxhash64",
        run: small_hash,
    },
    Case {
        id: "data/small.json#minhash_params_*",
        run: small_parameters,
    },
    Case {
        id: "data/*",
        run: documents,
    },
];

/// Byte-level BPE as transformers encodes it: ids of the rendered chats of `sft.json`, and back.
fn tokenizer(vectors: &Vectors) {
    let tokenizer = Tokenizer::open(&vectors.path("tokenizer")).expect("the tokenizer opens");
    let cases = vectors.json("sft/sft.json");
    for example in cases["examples"].as_array().expect("examples") {
        let text = example["text"].as_str().expect("a text");
        let ids: Vec<u32> = serde_json::from_value(example["input_ids"].clone()).expect("ids");
        assert_eq!(tokenizer.encode(text).unwrap(), ids);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        let messages: Vec<kbuild_tasks::formats::chat::Message> =
            serde_json::from_value(example["messages"].clone()).expect("messages");
        assert_eq!(tokenizer.render(&messages, false).unwrap(), text);
        let prompt = example["generation_prompt_text"].as_str().expect("a text");
        let asked = &messages[..messages.len() - 1];
        assert_eq!(tokenizer.render(asked, true).unwrap(), prompt);
    }
}

fn pairs(vectors: &Vectors, key: &str) -> Vec<(String, Value)> {
    serde_json::from_value(vectors.json("data/small.json")[key].clone()).expect("pairs")
}

fn small_simplify(vectors: &Vectors) {
    for (text, simplified) in pairs(vectors, "simplify_text") {
        assert_eq!(Value::from(simplify(&text)), simplified, "{text:?}");
    }
}

fn small_hash(vectors: &Vectors) {
    for (text, hashed) in pairs(vectors, "xxhash64") {
        assert_eq!(Value::from(hash(&text)), hashed, "{text:?}");
    }
}

fn small_parameters(vectors: &Vectors) {
    let small = vectors.json("data/small.json");
    let first: [Vec<u64>; 2] =
        serde_json::from_value(small["minhash_params_first3"].clone()).expect("numbers");
    let (a, b): (Vec<u64>, Vec<u64>) = PARAMETERS.iter().copied().unzip();
    assert_eq!((&a[..3], &b[..3]), (&first[0][..], &first[1][..]));
    let all = comma_separated(&[a, b].concat());
    assert_eq!(sha256(all.as_bytes()), small["minhash_params_sha256"]);
}

fn comma_separated(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    numbers.join(",")
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decisions, simplified texts and signatures of whole documents.
fn documents(vectors: &Vectors) {
    let texts = Texts::default();
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let files = vectors.files();
    let lines = files
        .iter()
        .filter(|name| name.starts_with("data/") && name.ends_with(".jsonl"));
    for name in lines {
        for case in vectors.json_lines(name) {
            let count = counts.entry(name.clone()).or_default();
            match texts.of(&case) {
                Some(text) => {
                    document(&case, &text);
                    count.0 += 1;
                }
                None => count.1 += 1,
            }
        }
    }
    for (name, (n_run, n_skipped)) in &counts {
        println!("{name}: {n_run} documents run, {n_skipped} without their text");
    }
    assert!(
        counts.values().any(|(n_run, _)| *n_run > 0),
        "no document ran"
    );
}

fn document(case: &Value, text: &str) {
    let place = format!("{} {}", case["set"], case["id"]);
    assert_eq!(Value::from(sha256(text.as_bytes())), case["text_sha256"]);
    let simplified = Value::from(sha256(simplify(text).as_bytes()));
    assert_eq!(simplified, case["simplified_sha256"], "{place}");
    if let Some(expected) = case.get("minhash_ws") {
        assert_eq!(short_signature(text), *expected, "{place}");
    }
    for (rule, expected) in case["ws"].as_object().expect("decisions") {
        if rule.ends_with("_out_sha256") {
            continue;
        }
        let Some(verdict) = decide(rule, text) else {
            continue;
        };
        let (decision, output) = match &verdict {
            Verdict::Keep => ("keep", Some(text)),
            Verdict::Change(changed) => ("keep", Some(changed.as_str())),
            Verdict::Drop(reason) => (reason.as_ref(), None),
        };
        assert_eq!(decision, expected, "{place}: {rule}");
        if let (Some(output), Some(hash)) = (output, case["ws"].get(format!("{rule}_out_sha256"))) {
            assert_eq!(
                Value::from(sha256(output.as_bytes())),
                *hash,
                "{place}: {rule}"
            );
        }
    }
}

fn decide(rule: &str, text: &str) -> Option<Verdict> {
    Some(match rule {
        "gopher_rep" => Repetition::GOPHER.judge(text),
        "gopher_rep_kor" => Repetition::KOREAN.judge(text),
        "gopher_qual" => Quality::GOPHER.judge(text),
        "gopher_qual_kor" => Quality::KOREAN.judge(text),
        "c4" => C4::FINEWEB.judge(text),
        "c4_terminal" => C4::ORIGINAL.judge(text),
        "fineweb" => FineWeb::ENGLISH.judge(text),
        "fineweb_kor" => FineWeb::KOREAN.judge(text),
        _ => return None,
    })
}

/// Per bucket: the first two values, and the hash of all eight.
fn short_signature(text: &str) -> Value {
    let Some(signature) = signature(text) else {
        return Value::Null;
    };
    let buckets = signature.iter().map(|bucket| {
        let hash = sha256(comma_separated(bucket).as_bytes());
        serde_json::json!([bucket[0], bucket[1], hash[..16]])
    });
    Value::Array(buckets.collect())
}

/// Texts by set and id, read from `KBUILD_DATA` when first asked for.
#[derive(Default)]
struct Texts {
    sets: std::cell::RefCell<HashMap<String, HashMap<String, String>>>,
}

impl Texts {
    fn of(&self, case: &Value) -> Option<String> {
        if let Some(text) = case["text"].as_str() {
            return Some(text.to_owned());
        }
        let root = PathBuf::from(std::env::var_os("KBUILD_DATA")?);
        let (set, id) = (case["set"].as_str()?, case["id"].as_str()?);
        let mut sets = self.sets.borrow_mut();
        let texts = sets.entry(set.to_owned()).or_insert_with(|| {
            let path = root.join(format!("{set}.jsonl.zst"));
            if !path.exists() {
                return HashMap::new();
            }
            let documents = read_all(&path).expect("a readable set");
            documents.into_iter().map(|d| (d.id, d.text)).collect()
        });
        texts.get(id).cloned()
    }
}
