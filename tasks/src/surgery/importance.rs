//! `importance`: forward passes over calibration text, and a score for every part of a model (recipe 6.1).
//!
//! One measurement serves any number of `prune` tasks.

use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::observe::{Aggregation, Aggregations, Tally};
use super::scores::{Scores, digest_of};
use crate::facts;
use crate::formats::tokens::TokenShards;
use crate::model::memory::Work;
use crate::model::{Batch, Core, Device, Head, Model, Numerics, Site};
use crate::train::model_files;

/// The `importance` kind.
pub struct Importance;

/// Which text is read, and how activations become scores.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Calibration sequences (Minitron, modelopt: 1024), spread evenly over the tokens.
    pub samples: usize,
    /// Tokens of a sequence, at most; a sequence never crosses a document.
    pub seq_len: usize,
    /// Sequences in a micro-batch: layer scores are means over micro-batches, all others do not depend on it.
    pub micro_batch: usize,
    /// Over the positions of a sequence: mean of absolute values, or L2.
    pub sequence_aggregation: Aggregation,
    /// Over sequences.
    pub batch_aggregation: Aggregation,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            samples: 1024,
            seq_len: 512,
            micro_batch: 8,
            sequence_aggregation: Aggregation::Mean,
            batch_aggregation: Aggregation::L2,
        }
    }
}

impl Params {
    fn complaints(&self, context: Option<usize>) -> Vec<Complaint> {
        let zero = [
            ("samples", self.samples),
            ("seq_len", self.seq_len),
            ("micro_batch", self.micro_batch),
        ];
        let mut found: Vec<Complaint> = zero
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(name, _)| {
                Complaint::new(
                    &format!("params.{name}"),
                    "0 measures nothing",
                    "use 1 or more",
                )
            })
            .collect();
        if let Some(context) = context.filter(|context| self.seq_len > *context) {
            found.push(Complaint::new(
                "params.seq_len",
                format!(
                    "{} tokens are longer than the model's context of {context}",
                    self.seq_len
                ),
                format!("use at most {context}"),
            ));
        }
        found
    }
}

impl TaskKind for Importance {
    const NAME: &'static str = "importance";
    const VERSION: u32 = 3;
    const SUMMARY: &'static str =
        "Scores channels, neurons, heads and layers of a model by their activations";

    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("model", "model", Arity::One, "the model that is measured")
            .input(
                "tokens",
                "tokens",
                Arity::Many,
                "calibration text in the model's tokens",
            )
            .output("importance", "importance", "scores by axis")
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let model = known.one("model");
        let size = |name: &str| facts::size(model?, name);
        let mut complaints = params.complaints(size("max_position_embeddings"));
        complaints.extend(facts::vocab_complaints(known, &["model", "tokens"]));
        facts::answer(complaints, || {
            let most = (params.samples * params.seq_len) as u64;
            let there = facts::sum(known, "tokens", "tokens").map(|there| there.min(most));
            let rows = params
                .seq_len
                .saturating_mul(params.micro_batch.min(params.samples));
            let backend = facts::backend(known, Numerics::F32);
            let memory = facts::memory(model, Head::Language, Work::Observe, rows, backend);
            facts::prediction(
                facts::forward(model, there, memory),
                [("importance", facts::carried(model, &facts::SHAPE))],
            )
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let path = context.one("model").path.clone();
        let model = Model::load(&path)?;
        if let Some(tokenizer) = model_files::tokenizer_beside(&path, &model.config)? {
            for tokens in context.many("tokens") {
                model_files::check_tokenizer(tokens, &tokenizer)?;
            }
        }
        let complaint = params.complaints(Some(model.config.max_position_embeddings));
        if let Some(complaint) = complaint.into_iter().next() {
            return Err(Failure::input(complaint.message).help(complaint.help));
        }
        let parts: Vec<_> = context
            .many("tokens")
            .iter()
            .flat_map(|tokens| tokens.parts.clone())
            .collect();
        let sequences = calibration(&TokenShards::open(&parts)?, &params)?;
        if sequences.len() < params.samples {
            context.note(format!(
                "the calibration text has {} sequences, not {}",
                sequences.len(),
                params.samples
            ));
        }
        let of = facts::of_config(&model.config);
        let digest = digest_of(&model);
        let scores = measure(model, &sequences, &params, context)?;
        let measured = json!({
            "samples": sequences.len(),
            "tokens": sequences.iter().map(Vec::len).sum::<usize>(),
            "params": params,
            "model": digest,
        });
        scores.save(context.output("importance"), &measured)?;
        facts::state(
            context,
            "importance",
            &facts::carried(Some(&of), &facts::SHAPE),
        );
        Ok(())
    }
}

/// Pieces of documents, at most `seq_len` long, spread evenly over everything there is. Pieces shorter than a quarter
/// of that weigh as much as long ones and say less: they are taken only where there is nothing else.
fn calibration(shards: &TokenShards, params: &Params) -> Result<Vec<Vec<u32>>, Failure> {
    let length = params.seq_len as u64;
    let pieces = shards.documents().flat_map(|document| {
        let end = document.end;
        document
            .step_by(params.seq_len)
            .map(move |start| start..end.min(start + length))
    });
    let (long, short): (Vec<_>, Vec<_>) =
        pieces.partition(|piece| 4 * (piece.end - piece.start) >= length);
    let pieces = if long.is_empty() { short } else { long };
    if pieces.is_empty() {
        return Err(Failure::input("the calibration text is empty")
            .help("bind tokens with at least one document"));
    }
    let taken = params.samples.min(pieces.len());
    let pick = |sample: usize| &pieces[sample * pieces.len() / taken];
    Ok((0..taken)
        .map(|sample| shards.tokens(pick(sample).clone()))
        .collect())
}

/// Scores of a model over sequences, in micro-batches in order.
fn measure(
    model: Model,
    sequences: &[Vec<u32>],
    params: &Params,
    context: &mut Context,
) -> Result<Scores, Failure> {
    let device = Device::open(context.device(), context.threads())?;
    let mut core = Core::new(model, &device)?;
    let mut tally = Tally::new(
        core.config(),
        Aggregations {
            sequence: params.sequence_aggregation,
            batch: params.batch_aggregation,
        },
    );
    let mut done = 0;
    for chunk in sequences.chunks(params.micro_batch) {
        observe(&mut core, &Batch::of(chunk), &mut tally)?;
        done += chunk.len();
        context.progress(done as u64, sequences.len() as u64, "sequences");
        if context.should_stop() {
            return Err(Failure::interrupted());
        }
    }
    Ok(tally.scores())
}

/// Adds one micro-batch to a tally.
pub fn observe(core: &mut Core, batch: &Batch, tally: &mut Tally) -> Result<(), Failure> {
    let mut before: Vec<f32> = Vec::new();
    let mut see = |layer: usize, site: Site, values: &[f32]| match site {
        Site::LayerInput => {
            before.clear();
            before.extend_from_slice(values);
        }
        Site::InputNorm => tally.input_norm(layer, values, batch),
        Site::Attended => tally.attention(layer, values, batch),
        Site::PostNorm => tally.post_norm(layer, values, batch),
        Site::Activated => tally.intermediate(layer, values, batch),
        Site::LayerOutput => tally.block(layer, &before, values),
    };
    core.forward_only(batch, Some(&mut see))?;
    tally.end_batch();
    Ok(())
}
