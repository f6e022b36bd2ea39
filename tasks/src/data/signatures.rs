//! `signatures`: what near-duplicate removal must know of each document, part by part.
//!
//! A `.sig` file is `kbuild signatures 1\n`, the number of documents (u64), then for each: length in characters (u64),
//! the first 16 bytes of the text's BLAKE3, a byte that says whether a MinHash signature follows, the 112 values of the
//! signature (u64 each), the length of the id (u32) and the id. All little-endian.

use std::path::Path;

use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::minhash::{BUCKETS, HASHES_PER_BUCKET, Signature, signature};
use super::parts::{for_each, input, map_in_order, output, pool};
use super::text::length;
use crate::facts;
use crate::formats::documents::{self, Document};

pub struct Signatures;

const MAGIC: &[u8] = b"kbuild signatures 1\n";

/// What is kept of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    /// Length of the text in characters.
    pub length: u64,
    /// Equal exactly where the texts are.
    pub content: [u8; 16],
    /// None for a text of fewer than five words.
    pub signature: Option<Box<Signature>>,
}

impl Entry {
    pub fn of(document: &Document) -> Self {
        let hash = blake3::hash(document.text.as_bytes());
        let mut content = [0; 16];
        content.copy_from_slice(&hash.as_bytes()[..16]);
        Self {
            id: document.id.clone(),
            length: length(&document.text) as u64,
            content,
            signature: signature(&document.text).map(Box::new),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.length.to_le_bytes());
        out.extend(self.content);
        out.push(u8::from(self.signature.is_some()));
        if let Some(signature) = &self.signature {
            out.extend(
                signature
                    .iter()
                    .flatten()
                    .flat_map(|value| value.to_le_bytes()),
            );
        }
        out.extend((self.id.len() as u32).to_le_bytes());
        out.extend(self.id.as_bytes());
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let length = read_u64(bytes)?;
        let content = take(bytes, 16)?.try_into().ok()?;
        let signature = match take(bytes, 1)? {
            [0] => None,
            _ => {
                let mut signature = Box::new([[0; HASHES_PER_BUCKET]; BUCKETS]);
                for value in signature.iter_mut().flatten() {
                    *value = read_u64(bytes)?;
                }
                Some(signature)
            }
        };
        let n_bytes = u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?);
        let id = std::str::from_utf8(take(bytes, n_bytes as usize)?).ok()?;
        Some(Self {
            id: id.to_owned(),
            length,
            content,
            signature,
        })
    }
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(taken)
}

fn read_u64(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

/// The entries of a part, in the order of its documents.
pub fn read(path: &Path) -> Result<Vec<Entry>, Failure> {
    let bytes = std::fs::read(path).at(path)?;
    parse(&bytes).ok_or_else(|| {
        Failure::input(format!(
            "`{}` is not a complete file of signatures",
            path.display()
        ))
        .help("make the signatures again from their documents")
    })
}

fn parse(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut bytes = bytes.strip_prefix(MAGIC)?;
    let n = read_u64(&mut bytes)?;
    let entries: Option<Vec<Entry>> = (0..n).map(|_| Entry::read(&mut bytes)).collect();
    entries.filter(|_| bytes.is_empty())
}

pub fn write(path: &Path, entries: &[Entry]) -> Result<(), Failure> {
    let mut out = MAGIC.to_vec();
    out.extend((entries.len() as u64).to_le_bytes());
    for entry in entries {
        entry.write(&mut out);
    }
    std::fs::write(path, out).at(path)
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {}

impl TaskKind for Signatures {
    const NAME: &'static str = "signatures";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "MinHash signatures (14 buckets of 8, word 5-grams) for `cluster`";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "documents",
                "documents",
                Arity::One,
                "what may hold duplicates",
            )
            .output("signatures", "signatures", "one entry per document")
            .mapped(&["documents", "signatures"])
    }

    fn predict(_params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let signed = facts::carried(known.one("documents"), &["documents"]);
        Ok(facts::prediction(
            facts::without_a_model(),
            [("signatures", signed)],
        ))
    }

    fn run(_params: Params, context: &mut Context) -> Result<(), Failure> {
        let pool = pool(context)?;
        for_each(context, |_, part| {
            let mut entries = Vec::new();
            map_in_order(
                &pool,
                documents::read(input(part, "documents"))?,
                |document| Ok(Entry::of(&document)),
                |entry| {
                    entries.push(entry);
                    Ok(())
                },
            )?;
            write(output(part, "signatures"), &entries)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_and_damage_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.sig");
        let texts = ["one two three four five six", "짧은 글"];
        let entries: Vec<Entry> = texts
            .iter()
            .map(|text| Entry::of(&Document::new(*text)))
            .collect();
        write(&path, &entries).unwrap();
        assert_eq!(read(&path).unwrap(), entries);
        let bytes = std::fs::read(&path).unwrap();
        for broken in [
            &bytes[..bytes.len() - 1],
            &[&bytes[..], b"x"].concat(),
            b"",
            b"kbuild",
        ] {
            std::fs::write(&path, broken).unwrap();
            assert!(read(&path).unwrap_err().message.contains("a.sig"));
        }
    }
}
