//! Sequences packed end to end, without padding: what one forward pass reads.
//!
//! Positions restart in each sequence and no token sees another sequence. It knows no labels: a loss is given rows.
//! What is generated comes token by token instead, each a [`Row`] of its own.

use super::error::ModelError;

/// A token that follows what a slot of a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub slot: usize,
    pub token: u32,
    /// Tokens of its sequence before it.
    pub position: usize,
}

/// Packed sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tokens of all sequences, end to end.
    pub tokens: Vec<u32>,
    /// Where each sequence ends (exclusive), ascending; the last is `tokens.len()`.
    pub ends: Vec<usize>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// One batch of these sequences in order; empty ones are left out.
    pub fn of<S: AsRef<[u32]>>(sequences: impl IntoIterator<Item = S>) -> Self {
        let mut batch = Self::new();
        for sequence in sequences {
            batch.push(sequence.as_ref());
        }
        batch
    }

    /// Appends a sequence; an empty one changes nothing.
    pub fn push(&mut self, sequence: &[u32]) {
        if !sequence.is_empty() {
            self.tokens.extend_from_slice(sequence);
            self.ends.push(self.tokens.len());
        }
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
        self.ends.clear();
    }

    /// Number of tokens, `N`.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Row range of each sequence.
    pub fn sequences(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end)
    }

    /// Length of the longest sequence.
    pub fn longest(&self) -> usize {
        self.sequences().map(|rows| rows.len()).max().unwrap_or(0)
    }

    /// Checks ends and token ids against a vocabulary.
    pub fn validate(&self, vocab_size: usize) -> Result<(), ModelError> {
        let ascending = self.ends.is_sorted_by(|a, b| a < b) && self.ends.first() != Some(&0);
        if !ascending || self.ends.last().copied().unwrap_or(0) != self.tokens.len() {
            return Err(ModelError::invalid(
                format!(
                    "sequence ends must ascend from above 0 to {}",
                    self.tokens.len()
                ),
                "build batches with `Batch::push`",
            ));
        }
        match (self.tokens.iter().enumerate()).find(|(_, token)| **token as usize >= vocab_size) {
            Some((at, token)) => Err(ModelError::invalid(
                format!("token {token} at {at} lies outside a vocabulary of {vocab_size}"),
                "tokenize with the tokenizer of this model",
            )),
            None => Ok(()),
        }
    }
}
