//! `log-probabilities`: what a reference model gives the completions of preference pairs (recipe 10.1).
//!
//! A node of its own, so that a sweep over β or the loss costs one pass of the reference.

use std::collections::HashMap;
use std::path::Path;

use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model_files;
use super::pair_batch::{self, PairBatch, groups};
use super::params::Numerics;
use super::records::{TokenPair, identity};
use super::steps;
use crate::facts;
use crate::model::memory::Work;
use crate::model::{Core, Head};

pub struct LogProbabilities;

/// How the pass is made.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Tokens that go through the model at once; changes rounding, nothing else.
    pub micro_batch_tokens: usize,
    /// Number format of the arithmetic.
    pub numerics: Numerics,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            micro_batch_tokens: 8192,
            numerics: Numerics::F32,
        }
    }
}

/// The content of the artifact: one number per pair each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PairLogProbabilities {
    /// Which pairs these are of, see [`pairs_digest`]; absent in a file from elsewhere.
    pub pairs: Option<String>,
    /// Σ ln p over the chosen completion.
    pub chosen: Vec<f64>,
    pub rejected: Vec<f64>,
}

/// The name of the file's only metadata: the digest of the pairs.
const PAIRS: &str = "pairs";

/// Digest of the token ids of pairs, in their order.
pub fn pairs_digest(pairs: &[TokenPair]) -> String {
    let ids: Vec<[&Vec<u32>; 3]> = pairs
        .iter()
        .map(|pair| [&pair.prompt, &pair.chosen, &pair.rejected])
        .collect();
    identity(&ids)
}

impl PairLogProbabilities {
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let bytes =
            |values: &[f64]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
        let (chosen, rejected) = (bytes(&self.chosen), bytes(&self.rejected));
        let shape = vec![self.chosen.len()];
        let invalid = |error: safetensors::SafeTensorError| {
            Failure::input(format!("`{}`: {error}", path.display()))
        };
        let tensors = [
            (
                "chosen",
                TensorView::new(Dtype::F64, shape.clone(), &chosen).map_err(invalid)?,
            ),
            (
                "rejected",
                TensorView::new(Dtype::F64, shape.clone(), &rejected).map_err(invalid)?,
            ),
        ];
        let pairs = self.pairs.clone();
        let metadata = pairs.map(|pairs| HashMap::from([(PAIRS.to_owned(), pairs)]));
        safetensors::serialize_to_file(tensors, metadata, path).map_err(invalid)
    }

    pub fn load(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path).at(path)?;
        let damaged = |error: safetensors::SafeTensorError| {
            Failure::input(format!("`{}`: {error}", path.display()))
                .help("expected the output of `log-probabilities`")
        };
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let read = |name: &str| -> Result<Vec<f64>, Failure> {
            let view = file.tensor(name).map_err(damaged)?;
            let (values, _) = view.data().as_chunks::<8>();
            Ok(values.iter().map(|raw| f64::from_le_bytes(*raw)).collect())
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let metadata = header.metadata().as_ref();
        Ok(Self {
            pairs: metadata.and_then(|metadata| metadata.get(PAIRS)).cloned(),
            chosen: read("chosen")?,
            rejected: read("rejected")?,
        })
    }
}

impl TaskKind for LogProbabilities {
    const NAME: &'static str = "log-probabilities";
    const VERSION: u32 = 3;
    const SUMMARY: &'static str = "log-probabilities of preference pairs under a reference model";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("model", "model", Arity::One, "the reference")
            .input("pairs", "pairs", Arity::One, "pairs in token ids")
            .output(
                "log-probabilities",
                "log-probabilities",
                "sums over the tokens of each completion",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = facts::vocab_complaints(known, &["model", "pairs"]);
        complaints.extend(facts::pairs_complaint(known, "model", "pairs"));
        if params.micro_batch_tokens == 0 {
            complaints.push(Complaint::new(
                "params.micro_batch_tokens",
                "`micro_batch_tokens` is 0",
                "8192 is the default",
            ));
        }
        facts::answer(complaints, || {
            let tokens = facts::sum(known, "pairs", "tokens");
            let model = known.one("model");
            let rows = pair_batch::largest(known, params.micro_batch_tokens, None);
            let (head, work) = (Head::Language, Work::Read);
            let memory = pair_batch::memory(known, model, head, work, rows, params.numerics);
            let cost = facts::forward(model, tokens, memory);
            let mut sums = facts::carried(known.one("pairs"), &["pairs"]);
            sums.set("numerics", params.numerics.name());
            facts::prediction(cost, [("log-probabilities", sums)])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let artifact = context.one("model");
        let model = model_files::load(artifact)?;
        let tokenizer = model_files::tokenizer(&artifact.path, &model.config)?;
        model_files::check_tokenizer(context.one("pairs"), &tokenizer)?;
        let pairs = pair_batch::read([&context.one("pairs").path], &model.config)?;
        let mut core = Core::new(model, &steps::device(context, params.numerics)?)?;
        let all: Vec<usize> = (0..pairs.len()).collect();
        let mut found = PairLogProbabilities {
            pairs: Some(pairs_digest(&pairs)),
            ..PairLogProbabilities::default()
        };
        for group in groups(&pairs, &all, params.micro_batch_tokens) {
            if context.should_stop() {
                return Err(Failure::interrupted());
            }
            let batch = PairBatch::of(group.iter().map(|&pair| &pairs[pair]));
            let tokens = batch.log_probabilities(&mut core, false)?;
            for pair in batch.sums(&tokens).chunks_exact(2) {
                found.chosen.push(pair[0]);
                found.rejected.push(pair[1]);
            }
            context.progress(found.chosen.len() as u64, pairs.len() as u64, "pairs");
        }
        found.save(context.output("log-probabilities"))?;
        context.fact("log-probabilities", "pairs", pairs.len());
        context.fact("log-probabilities", "numerics", params.numerics.name());
        Ok(())
    }
}
