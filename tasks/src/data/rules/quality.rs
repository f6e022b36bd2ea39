//! Gopher quality: counts and shapes of words and lines.
//!
//! Rae et al. 2021 (arXiv 2112.11446) section A.1.1, as datatrove 0.10 `gopher_quality_filter.py` computes it; words
//! are Python's `split()`. Korean thresholds are FineWeb-2's `kor_Hang`, which were fitted to morphemes.

use std::collections::HashSet;

use super::{Verdict, above, below, share};
use crate::data::text::{is_letter, is_symbol, length, lines, words};

/// Thresholds; 0 switches a rule off.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    pub min_words: f64,
    pub max_words: f64,
    pub min_mean_word_length: f64,
    pub max_mean_word_length: f64,
    /// `#`, and ellipses, per word.
    pub max_hashes: f64,
    pub max_ellipses: f64,
    pub max_bullet_lines: f64,
    pub max_ellipsis_lines: f64,
    /// Words with a letter, of all words.
    pub min_alpha_words: f64,
    /// Different stop words.
    pub min_stop_words: f64,
    pub stop_words: &'static [&'static str],
}

impl Quality {
    pub const GOPHER: Self = Self {
        min_words: 50.0,
        max_words: 100_000.0,
        min_mean_word_length: 3.0,
        max_mean_word_length: 10.0,
        max_hashes: 0.1,
        max_ellipses: 0.1,
        max_bullet_lines: 0.9,
        max_ellipsis_lines: 0.3,
        min_alpha_words: 0.8,
        min_stop_words: 2.0,
        stop_words: &["the", "be", "to", "of", "and", "that", "have", "with"],
    };

    pub const KOREAN: Self = Self {
        min_mean_word_length: 1.0,
        max_mean_word_length: 6.0,
        min_alpha_words: 0.791,
        stop_words: &[
            "의", "다", "이", "는", "에", "을", "한", "년", "하", "은", "를", "했", "고", "에서",
            "가", "있", "으로", "인", "월", "로", "되",
        ],
        ..Self::GOPHER
    };

    pub fn judge(&self, text: &str) -> Verdict {
        let words = words(text);
        let rule = self
            .lengths(&words)
            .or_else(|| self.symbols(text, words.len()))
            .or_else(|| self.line_shapes(text))
            .or_else(|| self.vocabulary(&words));
        rule.map_or(Verdict::Keep, Verdict::drop)
    }

    fn lengths(&self, words: &[&str]) -> Option<&'static str> {
        let non_symbol = words.iter().filter(|word| !word.chars().all(is_symbol));
        let (n, chars) = non_symbol.fold((0, 0), |(n, chars), word| (n + 1, chars + length(word)));
        // Means and shares of nothing decide nothing.
        if n == 0 || below(n as f64, self.min_words) {
            return Some("gopher_short_doc");
        }
        if above(n as f64, self.max_words) {
            return Some("gopher_long_doc");
        }
        let mean = share(chars, n);
        if below(mean, self.min_mean_word_length) {
            return Some("gopher_below_avg_threshold");
        }
        above(mean, self.max_mean_word_length).then_some("gopher_above_avg_threshold")
    }

    fn symbols(&self, text: &str, n_words: usize) -> Option<&'static str> {
        let count = |symbol: &str| text.matches(symbol).count();
        if above(share(count("#"), n_words), self.max_hashes) {
            return Some("gopher_too_many_hashes");
        }
        let ellipses = share(count("...") + count("…"), n_words);
        above(ellipses, self.max_ellipses).then_some("gopher_too_many_ellipsis")
    }

    fn line_shapes(&self, text: &str) -> Option<&'static str> {
        let lines = lines(text);
        let count = |test: fn(&str) -> bool| lines.iter().filter(|line| test(line)).count();
        if above(
            share(count(starts_with_bullet), lines.len()),
            self.max_bullet_lines,
        ) {
            return Some("gopher_too_many_bullets");
        }
        let ellipses = share(count(ends_with_ellipsis), lines.len());
        above(ellipses, self.max_ellipsis_lines).then_some("gopher_too_many_end_ellipsis")
    }

    fn vocabulary(&self, words: &[&str]) -> Option<&'static str> {
        let alpha = words
            .iter()
            .filter(|word| word.chars().any(is_letter))
            .count();
        if below(share(alpha, words.len()), self.min_alpha_words) {
            return Some("gopher_below_alpha_threshold");
        }
        let seen: HashSet<&str> = words.iter().copied().collect();
        let n_stop = self
            .stop_words
            .iter()
            .filter(|word| seen.contains(**word))
            .count();
        below(n_stop as f64, self.min_stop_words).then_some("gopher_enough_stop_words")
    }
}

fn starts_with_bullet(line: &str) -> bool {
    let line = line.trim_start_matches(crate::data::text::is_space);
    line.starts_with(['•', '-'])
}

pub fn ends_with_ellipsis(line: &str) -> bool {
    let line = line.trim_end_matches(crate::data::text::is_space);
    line.ends_with("...") || line.ends_with('…')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_symbols_alone_is_short() {
        let verdict = Verdict::drop("gopher_short_doc");
        assert_eq!(Quality::GOPHER.judge(""), verdict);
        assert_eq!(Quality::GOPHER.judge(&"-- ".repeat(99)), verdict);
    }

    #[test]
    fn stop_words_are_counted_once_each() {
        let text = "the house stood there quietly ".repeat(12);
        let verdict = Quality::GOPHER.judge(&text);
        assert_eq!(verdict, Verdict::drop("gopher_enough_stop_words"));
        let text = "the house stood and waited quietly ".repeat(12);
        assert_eq!(Quality::GOPHER.judge(&text), Verdict::Keep);
    }
}
