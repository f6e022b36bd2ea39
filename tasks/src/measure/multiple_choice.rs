//! Multiple choice and likelihood metrics with the semantics of lm-eval 0.4 (`lm_eval/api/{model,task,metrics}.py`),
//! CORE centring (nanochat) and pass@k. Knows no model: log-likelihoods in, numbers out.

use crate::formats::tokenizer::Tokenizer;
use kbuild_engine::runner::Failure;

/// A context and a continuation as ids, split the way lm-eval splits them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub context: Vec<u32>,
    pub continuation: Vec<u32>,
    /// The ids of the context alone are how the ids of the whole begin. Where not, the split is by length, as lm-eval
    /// does it, and the numbers of this item mean less.
    pub is_prefix: bool,
}

/// `encode_pair`: trailing spaces of the context move to the continuation; the ids of the whole are cut at the number
/// of ids of the context. An empty context becomes `prefix` (bos, else eos).
pub fn encode_pair(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
    prefix: u32,
) -> Result<Pair, Failure> {
    let kept = context.trim_end();
    let continuation = format!("{}{continuation}", &context[kept.len()..]);
    if kept.is_empty() {
        return Ok(Pair {
            context: vec![prefix],
            continuation: tokenizer.encode_literal(&continuation)?,
            is_prefix: true,
        });
    }
    let whole = tokenizer.encode_literal(&format!("{kept}{continuation}"))?;
    let context = tokenizer.encode_literal(kept)?;
    let at = context.len().min(whole.len());
    Ok(Pair {
        is_prefix: whole[..at] == context[..],
        continuation: whole[at..].to_vec(),
        context,
    })
}

/// One choice of an item with its log-likelihood.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice<'a> {
    /// Without the delimiter.
    pub text: &'a str,
    /// Sum of log-probabilities of the continuation, nats.
    pub log_likelihood: f64,
}

/// What divides the log-likelihood before the best choice is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalisation {
    /// `acc`
    None,
    /// `acc_norm`: Unicode characters of the choice.
    Characters,
    /// `acc_bytes`: UTF-8 bytes of the choice.
    Bytes,
}

/// Index of the best choice; ties go to the first. None without choices.
pub fn predict(choices: &[Choice<'_>], normalisation: Normalisation) -> Option<usize> {
    let score = |choice: &Choice<'_>| {
        let length = match normalisation {
            Normalisation::None => 1,
            Normalisation::Characters => choice.text.chars().count(),
            Normalisation::Bytes => choice.text.len(),
        };
        choice.log_likelihood / length.max(1) as f64
    };
    let mut best: Option<(usize, f64)> = None;
    for (index, choice) in choices.iter().enumerate() {
        let score = score(choice);
        if best.is_none_or(|(_, top)| score > top) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// Likelihood of running text: sums over documents.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rolling {
    pub log_likelihood: f64,
    pub bytes: usize,
    pub words: usize,
}

impl Rolling {
    pub fn bits_per_byte(&self) -> f64 {
        bits_per_byte(-self.log_likelihood, self.bytes)
    }

    pub fn byte_perplexity(&self) -> f64 {
        (-self.log_likelihood / self.bytes.max(1) as f64).exp()
    }

    pub fn word_perplexity(&self) -> f64 {
        (-self.log_likelihood / self.words.max(1) as f64).exp()
    }
}

/// Bits per byte of `nats` spent on `bytes` of text.
pub fn bits_per_byte(nats: f64, bytes: usize) -> f64 {
    nats / (std::f64::consts::LN_2 * bytes.max(1) as f64)
}

/// CORE: 0 at the random baseline, 1 at perfection.
pub fn centred(accuracy: f64, baseline: f64) -> f64 {
    (accuracy - baseline) / (1.0 - baseline)
}

/// `1 − C(n−c, k) / C(n, k)`: the chance that one of k of n samples, c of them right, is right.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    if n < c + k {
        return 1.0;
    }
    let miss: f64 = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    1.0 - miss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_first_and_lengths_matter() {
        let choices = [
            Choice {
                text: "가나다",
                log_likelihood: -6.0,
            },
            Choice {
                text: "abcd",
                log_likelihood: -6.0,
            },
        ];
        assert_eq!(predict(&choices, Normalisation::None), Some(0));
        assert_eq!(predict(&choices, Normalisation::Characters), Some(1));
        assert_eq!(predict(&choices, Normalisation::Bytes), Some(0));
        assert_eq!(predict(&[], Normalisation::None), None);
    }
}
