//! Models, tokenizers and templates of strangers: whatever is in them, the answer is an error that names the file.

use std::fs;
use std::path::{Path, PathBuf};

use kbuild_tasks::formats::chat::Message;
use kbuild_tasks::formats::tokenizer::Tokenizer;
use kbuild_tasks::model::{Config, Model};
use serde_json::{Value, json};
use tempfile::TempDir;

fn vectors(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(path)
}

/// A model that loads, with its tokenizer.
fn model() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for source in ["models/a", "tokenizer"] {
        for entry in fs::read_dir(vectors(source)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
        }
    }
    directory
}

/// Loads everything and uses it: the first error in words, with its help.
fn error(directory: &Path) -> Option<String> {
    let loaded = Model::load(directory);
    if let Err(error) = loaded {
        return Some(format!("{error} {}", error.help()));
    }
    let used = Tokenizer::open(directory).and_then(|tokenizer| {
        let text = tokenizer.render(&[Message::new("user", "안녕, world")], true)?;
        let ids = tokenizer.encode(&text)?;
        tokenizer.encode_literal(&text)?;
        tokenizer.byte_lengths();
        tokenizer.decode(&ids, false)
    });
    used.err()
        .map(|failure| format!("{} {}", failure.message, failure.help))
}

fn change(directory: &Path, name: &str, pointer: &str, value: Value) {
    let path = directory.join(name);
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    json.pointer_mut(parent).unwrap()[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn what_is_wrong_is_said() {
    assert_eq!(error(model().path()), None);
    let nested = (0..60).fold(
        json!({"type": "NFC"}),
        |inner, _| json!({"type": "Sequence", "normalizers": [inner]}),
    );
    let cases = [
        (
            "config.json",
            "/num_hidden_layers",
            json!(10_000_000),
            "`num_hidden_layers` is 10000000",
        ),
        (
            "config.json",
            "/num_hidden_layers",
            json!(4000),
            "it describes",
        ),
        (
            "config.json",
            "/num_hidden_layers",
            json!(1_u64 << 63),
            "`num_hidden_layers`",
        ),
        (
            "config.json",
            "/max_position_embeddings",
            json!(1_u64 << 60),
            "`max_position_embeddings`",
        ),
        (
            "config.json",
            "/hidden_size",
            json!(1_u64 << 63),
            "`hidden_size`",
        ),
        (
            "config.json",
            "/hidden_size",
            json!(1 << 20),
            "it describes",
        ),
        (
            "config.json",
            "/num_attention_heads",
            json!(0),
            "`num_attention_heads` is 0",
        ),
        ("config.json", "/head_dim", json!(1_u64 << 62), "`head_dim`"),
        (
            "config.json",
            "/vocab_size",
            json!(1_u64 << 62),
            "`vocab_size`",
        ),
        ("config.json", "/vocab_size", json!(-1), "config.json"),
        (
            "config.json",
            "/rms_norm_eps",
            json!(-1.0),
            "`rms_norm_eps`",
        ),
        ("config.json", "/rope_theta", json!(0), "`rope_theta`"),
        ("tokenizer.json", "/normalizer", nested, "nested"),
        (
            "tokenizer.json",
            "/model",
            json!({"type": "WordPiece"}),
            "tokenizer.json",
        ),
        (
            "tokenizer.json",
            "/added_tokens",
            json!([{"id": 4_000_000_000_u32, "content": "x"}]),
            "tokenizer.json",
        ),
        (
            "tokenizer.json",
            "/model/vocab/huge",
            json!(4_294_967_295_u32),
            "the largest id is",
        ),
    ];
    for (file, pointer, value, words) in cases {
        let directory = model();
        change(directory.path(), file, pointer, value);
        let error = error(directory.path()).unwrap_or_default();
        assert!(error.contains(words), "{file} {pointer}: {error}");
    }
}

#[test]
fn padding_and_truncation_change_no_ids() {
    let directory = model();
    let ids = || {
        let tokenizer = Tokenizer::open(directory.path()).unwrap();
        tokenizer.encode("some words of a text").unwrap()
    };
    let expected = ids();
    let padding = json!({"strategy": {"Fixed": 4_000_000_000_u32}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"});
    let truncation =
        json!({"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    change(directory.path(), "tokenizer.json", "/padding", padding);
    change(
        directory.path(),
        "tokenizer.json",
        "/truncation",
        truncation,
    );
    assert_eq!(ids(), expected);
}

#[test]
fn shards_lie_beside_the_index() {
    for name in [
        "../model.safetensors",
        "/etc/passwd",
        "a/../model.safetensors",
        "..",
    ] {
        let directory = model();
        let index = json!({"weight_map": {"model.norm.weight": name}});
        fs::write(
            directory.path().join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
        let error = error(directory.path()).unwrap();
        assert!(error.contains("beside the index"), "{error}");
    }
}

#[test]
fn headers_that_lie_are_told() {
    for length in [0, 1, 1 << 20, u64::MAX, 1 << 63] {
        let directory = model();
        let path = directory.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8].copy_from_slice(&u64::to_le_bytes(length));
        fs::write(&path, bytes).unwrap();
        let error = error(directory.path()).unwrap();
        assert!(error.contains("model.safetensors"), "{error}");
    }
}

/// Numbers that look like chance, the same in every run (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

fn mutated(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    const EXTREMES: [&str; 8] = [
        "0",
        "-1",
        "1e308",
        "4294967295",
        "9223372036854775807",
        "18446744073709551615",
        "null",
        "[]",
    ];
    let mut bytes = bytes.to_vec();
    // The front of a file says how the rest is read.
    let front = bytes.len().min(4096);
    match chance.below(3) {
        0 => bytes.truncate(chance.below(bytes.len())),
        1 => {
            for _ in 0..=chance.below(4) {
                let at = chance.below(front);
                bytes[at] ^= 1 << chance.below(8);
            }
        }
        _ => {
            let is_digit = |at: &usize| bytes[*at].is_ascii_digit();
            let digits: Vec<usize> = (0..front).filter(is_digit).collect();
            if !digits.is_empty() {
                let start = digits[chance.below(digits.len())];
                let length = bytes[start..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit());
                let end = start + length.count();
                bytes.splice(start..end, EXTREMES[chance.below(EXTREMES.len())].bytes());
            }
        }
    }
    bytes
}

#[test]
fn damaged_files_never_end_the_program() {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let names = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ];
    let directory = model();
    for case in 0..300 {
        let path = directory.path().join(names[case % names.len()]);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, mutated(&whole, &mut chance)).unwrap();
        // An error or none: it must come back.
        let _ = error(directory.path());
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(error(directory.path()), None);
    assert!(Config::load(directory.path()).is_ok());
}
