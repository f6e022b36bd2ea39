//! Lines of the artifacts that travel between sampling, scoring, pairing and training.
//!
//! Token ids are what is trained on; text beside them is a view. Nothing downstream tokenizes a sampled text again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use kbuild_engine::digest::Digest;
use kbuild_engine::runner::{AtPath, Failure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::formats::chat::Conversation;
use crate::formats::documents::Records;

/// A line of `pairs`: a prompt and two completions, the better one first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenPair {
    pub prompt: Vec<u32>,
    pub chosen: Vec<u32>,
    pub rejected: Vec<u32>,
    /// How much better, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

impl TokenPair {
    /// Prompt and chosen completion, then prompt and rejected completion.
    pub fn sequences(&self) -> [Vec<u32>; 2] {
        [&self.chosen, &self.rejected].map(|completion| {
            let mut tokens = self.prompt.clone();
            tokens.extend_from_slice(completion);
            tokens
        })
    }

    /// Tokens of both sequences.
    pub fn n_tokens(&self) -> usize {
        2 * self.prompt.len() + self.chosen.len() + self.rejected.len()
    }
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// With a stop token, which is the last of its ids.
    Stop,
    /// At the limit of new tokens or of positions.
    Length,
}

/// One sampled response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub ids: Vec<u32>,
    /// Of each id under the policy, at temperature 1 and without filters.
    pub log_probabilities: Vec<f32>,
    pub finish: FinishReason,
    /// What the ids say, without special tokens.
    pub text: String,
}

/// A line of `samples`: a prompt and its K responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampledPrompt {
    /// Position of the prompt among all prompts of the task.
    pub prompt: usize,
    /// The record that the prompt was rendered from.
    pub record: Conversation,
    pub ids: Vec<u32>,
    pub responses: Vec<Response>,
}

/// A line of `scores`: one response's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// As in the samples.
    pub prompt: usize,
    /// Position among the prompt's responses.
    pub response: usize,
    pub score: f64,
    /// Tokens of the response.
    pub length: usize,
    pub stopped: bool,
    /// Which prompt and which response this is the score of, see [`identity`]; absent in scores from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_digest: Option<String>,
}

/// A short digest of a value's JSON: what belongs together has equal ones, whatever its position.
pub fn identity<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_vec(value).unwrap_or_default();
    Digest::of(&json).to_hex()[..16].to_owned()
}

/// Whether two identities are known to differ.
pub fn differ(one: Option<&String>, other: Option<&String>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// Every record of a file of JSON lines.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Failure> {
    Records::open(path)?.collect()
}

/// Every record of the shards of an artifact in order.
pub fn read_shards<T: DeserializeOwned>(
    parts: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<Vec<T>, Failure> {
    let mut records = Vec::new();
    for part in parts {
        records.extend(read::<T>(part.as_ref())?);
    }
    Ok(records)
}

/// Writes one JSON object a line.
pub fn write<T: Serialize>(
    path: &Path,
    records: impl IntoIterator<Item = T>,
) -> Result<(), Failure> {
    let mut file = BufWriter::new(File::create(path).at(path)?);
    for record in records {
        let line = serde_json::to_string(&record)
            .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))?;
        writeln!(file, "{line}").at(path)?;
    }
    file.flush().at(path)
}

/// Writes a report: one JSON object, for people and programs.
pub fn write_report<T: Serialize>(path: &Path, report: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))?;
    text.push('\n');
    std::fs::write(path, text).at(path)
}
