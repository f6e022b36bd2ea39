//! `tokenize`: documents to token ids, part by part, in datatrove's layout.

use kbuild_engine::facts::{Fact, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{for_each, input, map_in_order, output, pool};
use crate::facts;
use crate::formats::documents;
use crate::formats::tokenizer::Tokenizer;
use crate::formats::tokens::{ShardWriter, Width};

pub struct Tokenize;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Begin every document with the tokenizer's beginning-of-text token. Every document ends with end-of-text.
    pub bos: bool,
}

impl TaskKind for Tokenize {
    const NAME: &'static str = "tokenize";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "encodes documents, each ended by the end-of-text token";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "documents",
                "documents",
                Arity::One,
                "what to encode; special tokens in it are text",
            )
            .input("tokenizer", "tokenizer", Arity::One, "with what")
            .output("tokens", "tokens", "one shard per part")
            .mapped(&["documents", "tokens"])
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut encoded = facts::carried(known.one("tokenizer"), &["vocab_size", "vocab"]);
        // A token stands for at least one byte; each document has an end, and a beginning if asked for.
        let most = known.one("documents").and_then(|of| {
            let ends = 1 + u64::from(params.bos);
            Some(facts::at_most(of, "bytes")? + ends * facts::at_most(of, "documents")?)
        });
        if let Some(max) = most {
            encoded.set_fact("tokens", Fact::Bounded { min: 0, max });
        }
        Ok(facts::prediction(
            facts::without_a_model(),
            [("tokens", encoded)],
        ))
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let tokenizer = Tokenizer::open(&context.one("tokenizer").path)?;
        let eos = tokenizer.require_eos()?;
        let bos = first_token(&params, &tokenizer)?;
        let name = format!("blake3:{}", tokenizer.digest());
        let width = Width::of_vocabulary(tokenizer.vocab_size());
        let pool = pool(context)?;
        // Before the parts: a fact belongs to those that follow it.
        context.fact("tokens", "vocab_size", tokenizer.vocab_size());
        context.fact("tokens", "vocab", tokenizer.digest().to_hex());
        for_each(context, |_, part| {
            let mut writer = ShardWriter::create(output(part, "tokens"), &name, width)?;
            map_in_order(
                &pool,
                documents::read(input(part, "documents"))?,
                |document| {
                    let mut ids: Vec<u32> = bos.into_iter().collect();
                    ids.extend(tokenizer.encode_literal(&document.text)?);
                    ids.push(eos);
                    Ok(ids)
                },
                |ids| writer.push(&ids),
            )?;
            writer.finish()
        })
    }
}

fn first_token(params: &Params, tokenizer: &Tokenizer) -> Result<Option<u32>, Failure> {
    match (params.bos, tokenizer.bos()) {
        (true, None) => Err(Failure::input("the tokenizer names no `bos_token`")
            .help("leave out `bos`, or train a tokenizer that has one")),
        (true, bos) => Ok(bos),
        (false, _) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::documents::{Document, write_all};
    use crate::formats::tokens::TokenShards;
    use crate::testing::{Job, artifact, predict, shards};
    use kbuild_engine::artifact::Shape;
    use kbuild_engine::facts::Fact;
    use serde_json::json;
    use std::path::Path;

    fn tokenizer() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tokenizer")
    }

    #[test]
    fn documents_come_back_from_their_tokens() {
        let kinds = crate::kinds();
        let root = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| root.path().join(name));
        let texts = ["안녕 the <eos> 🐈", "", "line\nline"];
        write_all(&paths[0], &texts.map(Document::new)).unwrap();
        write_all::<Document>(&paths[1], &[]).unwrap();
        let run = |threads| {
            Job::new(&kinds, "tokenize", json!({ "bos": true }))
                .input("documents", shards(&paths))
                .input("tokenizer", artifact(Shape::Directory, &tokenizer()))
                .threads(threads)
                .run()
                .unwrap()
        };
        let done = run(1);
        let tokens = TokenShards::open(&done.output("tokens").parts).unwrap();
        let tokenizer = Tokenizer::open(&tokenizer()).unwrap();
        for (range, text) in tokens.documents().zip(texts) {
            let ids = tokens.tokens(range);
            assert_eq!((ids[0], ids[ids.len() - 1]), (1, 2));
            let inner = &ids[1..ids.len() - 1];
            assert!(!inner.contains(&2));
            assert_eq!(tokenizer.decode(inner, false).unwrap(), text);
        }
        assert_eq!(tokens.n_documents(), 3);
        assert_eq!(done.output("tokens").facts["vocab_size"], 272);
        assert_eq!(run(3).digest("tokens"), done.digest("tokens"));
    }

    #[test]
    fn the_vocabulary_goes_through() {
        let kinds = crate::kinds();
        let mut facts = kbuild_engine::facts::Facts::default();
        facts.set("vocab_size", 300);
        facts.set_fact("vocab", Fact::Symbol("tok.tokenizer".to_owned()));
        let inputs = [("tokenizer", facts.clone())];
        let prediction = predict(&kinds, "tokenize", json!({}), &inputs).unwrap();
        assert_eq!(prediction.outputs["tokens"], facts);
    }
}
