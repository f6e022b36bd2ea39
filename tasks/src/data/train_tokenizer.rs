//! `train-tokenizer`: byte-level BPE of exactly the size that was asked for, as a Hugging Face directory.

use std::path::Path;

use kbuild_engine::facts::{Fact, Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::parts::pool;
use crate::facts;
use crate::formats::documents;
use crate::formats::tokenizer;

pub struct TrainTokenizer;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Size of the vocabulary, special tokens and the 256 bytes included. Delivered exactly, or the task fails.
    pub vocab_size: u64,
    /// Special tokens, which get the first ids in this order.
    pub special_tokens: Vec<String>,
    /// The special token that begins a text.
    pub bos_token: String,
    /// The special token that ends a text.
    pub eos_token: String,
    /// The special token that fills up a batch.
    pub pad_token: String,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// Chat template (Jinja).
    pub chat_template: String,
}

const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\
    {% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}<|user|>{{ m.content }}<|end|>{% endif %}\
    {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

impl Default for Params {
    fn default() -> Self {
        let special = [
            "<pad>",
            "<bos>",
            "<eos>",
            "<|user|>",
            "<|assistant|>",
            "<|end|>",
        ];
        Self {
            vocab_size: 4096,
            special_tokens: special.map(str::to_owned).to_vec(),
            bos_token: "<bos>".to_owned(),
            eos_token: "<eos>".to_owned(),
            pad_token: "<pad>".to_owned(),
            min_frequency: 2,
            chat_template: CHAT_TEMPLATE.to_owned(),
        }
    }
}

const BYTES: u64 = 256;

/// More than any tokenizer in use has.
const MOST_TOKENS: u64 = 1 << 24;

impl TaskKind for TrainTokenizer {
    const NAME: &'static str = "train-tokenizer";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "trains a byte-level BPE tokenizer on a sample of documents";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "documents",
                "documents",
                Arity::Many,
                "a frozen sample of every language",
            )
            .output(
                "tokenizer",
                "tokenizer",
                "loads in transformers as PreTrainedTokenizerFast",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        facts::answer(complaints(params), || {
            let mut trained = Facts::default();
            trained.set("vocab_size", params.vocab_size);
            trained.set_fact("vocab", Fact::Symbol(format!("{}.tokenizer", known.task)));
            facts::prediction(facts::without_a_model(), [("tokenizer", trained)])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        if let Some(complaint) = complaints(&params).first() {
            return Err(Failure::input(complaint.message.clone()).help(complaint.help.clone()));
        }
        let texts = texts(context)?;
        let pool = pool(context)?;
        let trained = pool.install(|| train(&params, &texts))?;
        write(&params, &trained, context.output("tokenizer"))?;
        let written = tokenizer::Tokenizer::open(context.output("tokenizer"))?;
        context.fact("tokenizer", "vocab_size", written.vocab_size());
        context.fact("tokenizer", "vocab", written.digest().to_hex());
        Ok(())
    }
}

fn complaints(params: &Params) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let least = BYTES + params.special_tokens.len() as u64;
    if params.vocab_size > MOST_TOKENS {
        complaints.push(Complaint::new(
            "params.vocab_size",
            format!("a vocabulary of {} tokens", params.vocab_size),
            format!("use at most {MOST_TOKENS}; common ones have 32,000 to 256,000"),
        ));
    }
    if params.vocab_size < least {
        complaints.push(Complaint::new(
            "params.vocab_size",
            format!(
                "{least} tokens are taken by bytes and special tokens, found {}",
                params.vocab_size
            ),
            "ask for more",
        ));
    }
    let roles = [
        ("bos_token", &params.bos_token),
        ("eos_token", &params.eos_token),
        ("pad_token", &params.pad_token),
    ];
    for (role, token) in roles {
        if !params.special_tokens.contains(token) {
            complaints.push(Complaint::new(
                &format!("params.{role}"),
                format!("`{token}` is not one of the special tokens"),
                "add it to `special_tokens`",
            ));
        }
    }
    if params.pad_token == params.eos_token {
        complaints.push(Complaint::new(
            "params.pad_token",
            "padding and end of text are the same token",
            "give padding a token of its own: a model that never sees an end learns none",
        ));
    }
    complaints
}

fn texts(context: &Context) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    for path in context.files("documents") {
        for document in documents::read(&path)? {
            texts.push(document?.text);
        }
    }
    Ok(texts)
}

/// Trains on texts. Ties between pairs are broken by id, so that threads and hash seeds change nothing.
fn train(params: &Params, texts: &[String]) -> Result<Tokenizer, Failure> {
    let failed = |error: tokenizers::Error| Failure::input(format!("the training failed: {error}"));
    let special = params
        .special_tokens
        .iter()
        .map(|token| AddedToken::from(token.as_str(), true));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(params.vocab_size as usize)
        .min_frequency(params.min_frequency)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.collect())
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    tokenizer
        .train(&mut trainer, texts.iter())
        .map_err(failed)?;
    let found = tokenizer.get_vocab_size(true) as u64;
    if found != params.vocab_size {
        return Err(Failure::input(format!(
            "the sample yields {found} tokens, {} were asked for",
            params.vocab_size
        ))
        .help("lower `vocab_size` or `min_frequency`, or give a larger sample"));
    }
    Ok(tokenizer)
}

fn write(params: &Params, tokenizer: &Tokenizer, directory: &Path) -> Result<(), Failure> {
    let json = tokenizer
        .to_string(true)
        .map_err(|error| Failure::input(format!("the tokenizer cannot be written: {error}")))?;
    let config = json!({
        "bos_token": params.bos_token,
        "clean_up_tokenization_spaces": false,
        "eos_token": params.eos_token,
        "model_max_length": 1e30,
        "pad_token": params.pad_token,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let config = serde_json::to_string_pretty(&config).expect("names are JSON");
    std::fs::create_dir_all(directory).at(directory)?;
    for (name, text) in [
        ("tokenizer.json", json),
        ("tokenizer_config.json", config + "\n"),
        ("chat_template.jinja", params.chat_template.clone()),
    ] {
        let path = directory.join(name);
        std::fs::write(&path, text).at(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::chat::Message;
    use crate::formats::documents::{Document, write_all};
    use crate::testing::{Done, Job, predict, shards};

    fn run(vocab_size: u64, threads: usize) -> Result<Done, Failure> {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let documents: Vec<Document> = (0..200)
            .map(|n| {
                Document::new(format!(
                    "the {n} cats 고양이 {} sat on the mat 매트 위에",
                    n * 7
                ))
            })
            .collect();
        write_all(&path, &documents).unwrap();
        let job = Job::new(
            &kinds,
            "train-tokenizer",
            json!({ "vocab_size": vocab_size }),
        );
        job.input("documents", shards(&[path]))
            .threads(threads)
            .run()
    }

    #[test]
    fn the_size_is_delivered_and_the_bytes_are_always_the_same() {
        let done = run(320, 1).unwrap();
        let tokenizer = tokenizer::Tokenizer::open(done.path("tokenizer")).unwrap();
        assert_eq!(tokenizer.vocab_size(), 320);
        assert_eq!(
            (tokenizer.pad(), tokenizer.bos(), tokenizer.eos()),
            (Some(0), Some(1), Some(2))
        );
        let text = "고양이 the cat 🐈 <eos>\n";
        let ids = tokenizer.encode_literal(text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        let chat = tokenizer
            .render(&[Message::new("user", "안녕")], true)
            .unwrap();
        assert_eq!(chat, "<bos><|user|>안녕<|end|><|assistant|>");
        assert_eq!(done.output("tokenizer").facts["vocab_size"], 320);
        assert_eq!(
            done.output("tokenizer").facts["vocab"],
            tokenizer.digest().to_hex()
        );
        assert_eq!(
            run(320, 2).unwrap().digest("tokenizer"),
            done.digest("tokenizer")
        );
    }

    #[test]
    fn a_size_that_the_sample_does_not_yield_fails() {
        let failure = run(4096, 1).err().unwrap();
        assert!(failure.message.contains("4096 were asked for"), "{failure}");
    }

    #[test]
    fn what_cannot_be_is_a_complaint() {
        let kinds = crate::kinds();
        let params = json!({"vocab_size": 100, "eos_token": "<end>", "pad_token": "<end>"});
        let complaints = predict(&kinds, "train-tokenizer", params, &[]).unwrap_err();
        let at: Vec<&str> = complaints
            .iter()
            .map(|complaint| complaint.at.as_str())
            .collect();
        assert_eq!(
            at,
            [
                "params.vocab_size",
                "params.eos_token",
                "params.pad_token",
                "params.pad_token"
            ]
        );
    }
}
