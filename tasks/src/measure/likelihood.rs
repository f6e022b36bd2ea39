//! What a language model thinks of given tokens: sums of log-probabilities, without a gradient.
//!
//! Every number belongs to one sequence, so that how sequences are grouped into batches changes nothing but speed.

use kbuild_engine::runner::Failure;

use crate::model::{Batch, Core, Device, Head, Model};

/// A language model ready to read.
pub struct Reader {
    core: Core,
}

/// What one continuation is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Continuation {
    /// Σ ln p, nats.
    pub log_likelihood: f64,
    /// Every token is the most likely one.
    pub is_greedy: bool,
}

impl Reader {
    /// # Errors
    /// The model is a reward model, or the device is not there.
    pub fn new(model: Model, device: &str, threads: usize) -> Result<Self, Failure> {
        if model.config.head != Head::Language {
            return Err(
                Failure::input("a reward model gives no likelihoods").help("bind a language model")
            );
        }
        let core = Core::new(model, &Device::open(device, threads)?)?;
        Ok(Self { core })
    }

    /// `ln p` of every token but the first of each sequence, in order.
    pub fn log_probabilities(&mut self, batch: &Batch) -> Result<Vec<f64>, Failure> {
        let (rows, targets) = predictions(batch);
        self.core.forward_only(batch, None)?;
        let mut out = vec![0.0; rows.len()];
        self.core.lm_head(&rows, false, &mut |range, logits| {
            let found = logits.log_probabilities(&targets[range.clone()]);
            out[range].copy_from_slice(&found);
        })?;
        Ok(out)
    }

    /// The likelihood of `continuation` behind `context`, cut from the left to what the model can read.
    pub fn continuation(
        &mut self,
        context: &[u32],
        continuation: &[u32],
    ) -> Result<Continuation, Failure> {
        let limit = self.core.config().max_position_embeddings + 1;
        let mut tokens = [context, continuation].concat();
        tokens.drain(..tokens.len().saturating_sub(limit));
        let n = continuation.len().min(tokens.len().saturating_sub(1));
        // The last token predicts nothing that is asked for.
        let batch = Batch::of([&tokens[..tokens.len().saturating_sub(1)]]);
        let rows: Vec<usize> = (batch.len() - n..batch.len()).collect();
        let targets = &tokens[tokens.len() - n..];
        self.core.forward_only(&batch, None)?;
        let (mut sum, mut correct) = (0.0, 0);
        self.core.lm_head(&rows, false, &mut |range, logits| {
            let sums = logits.cross_entropy(&targets[range], 1.0, 0.0, false);
            sum -= sums.cross_entropy;
            correct += sums.correct;
        })?;
        Ok(Continuation {
            log_likelihood: sum,
            is_greedy: correct == n as u64,
        })
    }
}

/// Rows that predict, and what they predict.
fn predictions(batch: &Batch) -> (Vec<usize>, Vec<u32>) {
    let mut rows = Vec::with_capacity(batch.len());
    let mut targets = Vec::with_capacity(batch.len());
    for range in batch.sequences() {
        for row in range.start..range.end - 1 {
            rows.push(row);
            targets.push(batch.tokens[row + 1]);
        }
    }
    (rows, targets)
}
