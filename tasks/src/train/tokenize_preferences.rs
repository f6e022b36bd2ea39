//! `tokenize-preferences`: preferences as text → pairs of token ids.
//!
//! Log-probabilities, reward models and DPO all read these ids, so that none of them can see other tokens than another.

use kbuild_engine::facts::{Fact, Facts, Prediction};
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Artifact, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dialogue::{Boundary, tokenize_preference};
use super::model_files;
use super::overflow::{Ledger, OnOverflow};
use super::records::{self, TokenPair};
use crate::facts;
use crate::formats::chat::Preference;
use crate::formats::documents::Records;
use crate::formats::tokenizer::Tokenizer;

pub struct TokenizePreferences;

/// How preferences become tokens.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Longest sequence of prompt and completion, in tokens. Required.
    pub max_length: Option<usize>,
    /// What to do with pairs that are longer.
    pub on_overflow: OnOverflow,
    /// What to do where a prompt's tokens are not the first tokens of prompt and answer.
    pub boundary: Boundary,
    /// The pairs to skip at the beginning.
    pub first: usize,
    /// How many pairs to take from there; all when absent.
    pub count: Option<usize>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_length: None,
            on_overflow: OnOverflow::Error,
            boundary: Boundary::Error,
            first: 0,
            count: None,
        }
    }
}

impl TaskKind for TokenizePreferences {
    const NAME: &'static str = "tokenize-preferences";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "turns preferences into pairs of token ids";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input(
                "preferences",
                "preferences",
                Arity::Many,
                "prompts with a better and a worse answer",
            )
            .input(
                "tokenizer",
                "tokenizer|model|reward-model",
                Arity::One,
                "the tokenizer and chat template",
            )
            .output("pairs", "pairs", "the same in token ids")
            .output("report", "report", "what was kept, cut and dropped")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = Vec::new();
        if params.max_length.is_none_or(|length| length < 2) {
            complaints.push(Complaint::new(
                "params.max_length",
                "`max_length` is required and is 2 or more",
                "set it to at most the model's context length; nothing is cut silently",
            ));
        }
        facts::answer(complaints, || {
            let mut pairs = facts::carried(known.one("tokenizer"), &["vocab"]);
            if let Some(length) = params.max_length {
                pairs.set("max_length", length);
            }
            if let Some(max) = params.count.map(|count| count as u64) {
                pairs.set_fact("pairs", Fact::Bounded { min: 0, max });
            }
            facts::prediction(
                facts::without_a_model(),
                [("pairs", pairs), ("report", Facts::default())],
            )
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let tokenizer = Tokenizer::open(&context.one("tokenizer").path)?;
        let max_length = params
            .max_length
            .ok_or_else(|| Failure::input("`max_length` is required"))?;
        let mut ledger = Ledger::default();
        let mut pairs = Vec::new();
        let wanted = params.count.unwrap_or(usize::MAX);
        for record in preferences(context.many("preferences"))
            .skip(params.first)
            .take(wanted)
        {
            let (preference, place) = record?;
            let [prompt, chosen, rejected] =
                tokenize_preference(&tokenizer, &preference, params.boundary)
                    .map_err(|failure| at_place(failure, &place))?;
            let pair = TokenPair {
                prompt,
                chosen,
                rejected,
                margin: None,
                domain: preference.domain,
            };
            pairs.extend(fit(
                pair,
                max_length,
                params.on_overflow,
                &place,
                &mut ledger,
            )?);
        }
        if pairs.is_empty() {
            return Err(
                Failure::input("no pair is left").help("raise `max_length`, or check the input")
            );
        }
        records::write(context.output("pairs"), &pairs)?;
        records::write_report(context.output("report"), &ledger)?;
        context.fact("pairs", "pairs", pairs.len());
        context.fact("pairs", "tokens", ledger.tokens);
        context.fact("pairs", "max_length", max_length);
        model_files::state_tokenizer(context, "pairs", &tokenizer);
        Ok(())
    }
}

/// Every preference with where it stands.
fn preferences(
    artifacts: &[Artifact],
) -> impl Iterator<Item = Result<(Preference, String), Failure>> + '_ {
    let parts = artifacts.iter().flat_map(|artifact| &artifact.parts);
    parts.flat_map(|part| match Records::<Preference>::open(part) {
        Ok(records) => records
            .enumerate()
            .map(|(index, record)| {
                record.map(|record| {
                    (
                        record,
                        format!("`{}`, record {}", part.display(), index + 1),
                    )
                })
            })
            .collect::<Vec<_>>(),
        Err(failure) => vec![Err(failure)],
    })
}

/// Names the record that a failure is about.
pub fn at_place(failure: Failure, place: &str) -> Failure {
    Failure {
        message: format!("{place}: {}", failure.message),
        ..failure
    }
}

/// The pair if it fits, cut or left out as asked for.
fn fit(
    pair: TokenPair,
    max_length: usize,
    on_overflow: OnOverflow,
    place: &str,
    ledger: &mut Ledger,
) -> Result<Option<TokenPair>, Failure> {
    ledger.rows += 1;
    let length = pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
    let kept = if length <= max_length {
        Some(pair)
    } else {
        match on_overflow {
            OnOverflow::Error => {
                return Err(Failure::input(format!(
                    "{place}: prompt and answer are {length} tokens, `max_length` is {max_length}"
                ))
                .help("raise `max_length`, or set `on_overflow` to \"drop\" or \"truncate_keep_start\""));
            }
            OnOverflow::Drop => {
                ledger.dropped_too_long += 1;
                ledger.dropped_tokens += pair.n_tokens();
                None
            }
            OnOverflow::TruncateKeepStart => {
                ledger.truncated += 1;
                let before = pair.n_tokens();
                let lost = [&pair.chosen, &pair.rejected]
                    .iter()
                    .filter(|answer| pair.prompt.len() + answer.len() > max_length)
                    .count();
                ledger.lost_stop += lost;
                let cut = truncate(pair, max_length);
                ledger.without_targets += usize::from(cut.is_none());
                ledger.dropped_tokens += before - cut.as_ref().map_or(0, TokenPair::n_tokens);
                cut
            }
        }
    };
    if let Some(pair) = &kept {
        ledger.kept += 1;
        ledger.tokens += pair.n_tokens();
        ledger.targets += pair.chosen.len() + pair.rejected.len();
    }
    Ok(kept)
}

/// The first `max_length` tokens of both sequences; nothing where an answer has no token left (TRL `keep_start`).
pub fn truncate(mut pair: TokenPair, max_length: usize) -> Option<TokenPair> {
    let room = max_length.checked_sub(pair.prompt.len())?;
    pair.chosen.truncate(room);
    pair.rejected.truncate(room);
    (room > 0 && !pair.chosen.is_empty() && !pair.rejected.is_empty()).then_some(pair)
}
