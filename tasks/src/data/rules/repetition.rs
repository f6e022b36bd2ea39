//! Gopher repetition: shares of repeated lines, paragraphs and word n-grams.
//!
//! Rae et al. 2021 (arXiv 2112.11446) table A1, as datatrove 0.10 `gopher_repetition_filter.py` computes it: a
//! duplicate is every occurrence after the first, lengths are code points, the first failing rule names the reason.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::{Rule, Verdict, above, share};
use crate::data::text::{length, strip, words};

/// The largest shares that are let through; 0 switches a rule off.
#[derive(Debug, Clone, PartialEq)]
pub struct Repetition {
    pub dup_para_frac: f64,
    pub dup_para_char_frac: f64,
    pub dup_line_frac: f64,
    pub dup_line_char_frac: f64,
    /// Characters of the most frequent 2-, 3- and 4-gram.
    pub top_n_gram: [f64; 3],
    /// Characters of repeated 5- to 10-grams.
    pub duplicated_n_grams: [f64; 6],
}

impl Repetition {
    pub const GOPHER: Self = Self {
        dup_para_frac: 0.3,
        dup_para_char_frac: 0.2,
        dup_line_frac: 0.3,
        dup_line_char_frac: 0.2,
        top_n_gram: [0.2, 0.18, 0.16],
        duplicated_n_grams: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
    };

    /// FineWeb-2 `kor_Hang` (fitted to morphemes).
    pub const KOREAN: Self = Self {
        dup_para_frac: 0.0,
        dup_para_char_frac: 0.0,
        dup_line_frac: 0.374,
        dup_line_char_frac: 0.0,
        top_n_gram: [0.282, 0.228, 0.185],
        duplicated_n_grams: [0.201, 0.184, 0.168, 0.154, 0.140, 0.127],
    };

    pub fn judge(&self, text: &str) -> Verdict {
        if text.is_empty() {
            return Verdict::drop("empty");
        }
        let n_chars = length(text);
        if let Some(rule) = self
            .paragraphs(text, n_chars)
            .or_else(|| self.lines(text, n_chars))
        {
            return Verdict::drop(rule);
        }
        match self.n_grams(text, n_chars) {
            Some(rule) => Verdict::Drop(rule),
            None => Verdict::Keep,
        }
    }

    fn paragraphs(&self, text: &str, n_chars: usize) -> Option<&'static str> {
        let paragraphs = split_runs(strip(text), 2);
        let (n, chars) = duplicates(paragraphs.iter().copied());
        if above(share(n, paragraphs.len()), self.dup_para_frac) {
            return Some("dup_para_frac");
        }
        above(share(chars, n_chars), self.dup_para_char_frac).then_some("dup_para_char_frac")
    }

    fn lines(&self, text: &str, n_chars: usize) -> Option<&'static str> {
        let lines = split_runs(text, 1);
        let (n, chars) = duplicates(lines.iter().copied());
        if above(share(n, lines.len()), self.dup_line_frac) {
            return Some("dup_line_frac");
        }
        above(share(chars, n_chars), self.dup_line_char_frac).then_some("dup_line_char_frac")
    }

    fn n_grams(&self, text: &str, n_chars: usize) -> Option<Rule> {
        let words = words(text);
        let spaced = Grams::new(&words, " ");
        for (n, max) in (2..).zip(self.top_n_gram) {
            if above(share(spaced.top(n), n_chars), max) {
                return Some(format!("top_{n}_gram").into());
            }
        }
        let glued = Grams::new(&words, "");
        for (n, max) in (5..).zip(self.duplicated_n_grams) {
            if above(share(glued.repeated(n), n_chars), max) {
                return Some(format!("duplicated_{n}_n_grams").into());
            }
        }
        None
    }
}

/// Splits at runs of at least `min` newlines.
fn split_runs(text: &str, min: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let run = bytes[at..]
            .iter()
            .take_while(|byte| **byte == b'\n')
            .count();
        if run >= min {
            parts.push(&text[start..at]);
            start = at + run;
        }
        at += run.max(1);
    }
    parts.push(&text[start..]);
    parts
}

/// Occurrences after the first, and their characters.
pub fn duplicates<'a>(elements: impl Iterator<Item = &'a str>) -> (usize, usize) {
    let mut seen = HashSet::new();
    let repeated = elements.filter(|element| !seen.insert(*element));
    repeated.fold((0, 0), |(n, chars), element| {
        (n + 1, chars + length(element))
    })
}

/// Words joined by a separator, so that every n-gram is a slice.
struct Grams {
    joined: String,
    /// Where each word starts and ends: `(byte, byte)`.
    spans: Vec<(usize, usize)>,
}

impl Grams {
    fn new(words: &[&str], separator: &str) -> Self {
        let mut spans = Vec::with_capacity(words.len());
        let mut joined = String::new();
        for word in words {
            let start = joined.len();
            joined.push_str(word);
            spans.push((start, joined.len()));
            joined.push_str(separator);
        }
        Self { joined, spans }
    }

    fn n_gram(&self, at: usize, n: usize) -> &str {
        &self.joined[self.spans[at].0..self.spans[at + n - 1].1]
    }

    /// Characters of the most frequent n-gram times its count; of equally frequent ones the first seen.
    fn top(&self, n: usize) -> usize {
        let n_grams = (self.spans.len() + 1).saturating_sub(n);
        let counts = count((0..n_grams).map(|at| self.n_gram(at, n)));
        counts
            .into_iter()
            .max_by_key(|(_, (count, first))| (*count, std::cmp::Reverse(*first)))
            .map_or(0, |(n_gram, (count, _))| length(n_gram) * count)
    }

    /// Characters of repeated n-grams, left to right, jumping over each that is found.
    fn repeated(&self, n: usize) -> usize {
        let n_grams = (self.spans.len() + 1).saturating_sub(n);
        let mut seen = HashSet::new();
        let (mut chars, mut at) = (0, 0);
        while at < n_grams {
            let n_gram = self.n_gram(at, n);
            if seen.insert(n_gram) {
                at += 1;
            } else {
                chars += length(n_gram);
                at += n;
            }
        }
        chars
    }
}

/// How often each element occurs, and where first.
fn count<T: Hash + Eq>(elements: impl Iterator<Item = T>) -> HashMap<T, (usize, usize)> {
    let mut counts = HashMap::new();
    for (index, element) in elements.enumerate() {
        counts.entry(element).or_insert((0, index)).0 += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newline_runs_split_as_pythons_regex_does() {
        assert_eq!(split_runs("a\n\nb\nc\n\n\nd", 2), ["a", "b\nc", "d"]);
        assert_eq!(split_runs("\na\n\nb\n", 1), ["", "a", "b", ""]);
    }

    #[test]
    fn the_first_of_equally_frequent_n_grams_counts() {
        let words = ["aa", "b", "cc", "d"];
        assert_eq!(Grams::new(&words, " ").top(2), "aa b".len());
        assert_eq!(Grams::new(&words[..1], " ").top(2), 0);
    }

    #[test]
    fn repeated_lines_are_named() {
        let text = "the same line here\n".repeat(5);
        let verdict = Repetition::GOPHER.judge(&text);
        assert_eq!(verdict, Verdict::drop("dup_line_frac"));
        assert_eq!(Repetition::GOPHER.judge(""), Verdict::drop("empty"));
    }
}
