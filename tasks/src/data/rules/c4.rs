//! C4: a filter of lines that changes the text, and drops what is left with too few sentences.
//!
//! Raffel et al. 2020 as datatrove 0.10 `c4_filters.py` computes it. The order of checks matters: a line that is gone
//! early cannot condemn the document. Sentences are counted by [`count_sentences`] where
//! datatrove asks spaCy: of 1,500 English documents 24 are decided otherwise.

use std::sync::LazyLock;

use regex::Regex;

use super::Verdict;
use crate::data::text::{count_sentences, length, lines, strip, words};

/// Which rules are on, and their limits; 0 switches a limit off.
#[derive(Debug, Clone, PartialEq)]
pub struct C4 {
    /// Only lines that end in `. ? ! " '` (FineWeb leaves this out).
    pub terminal_punctuation: bool,
    pub lorem_ipsum: bool,
    pub curly_bracket: bool,
    pub min_sentences: f64,
    pub min_words_per_line: f64,
}

static CITATION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\[\d*\]|\[edit\]|\[citation needed\]").expect("a pattern"));

const MAX_WORD_LENGTH: usize = 1000;

const POLICY: &[&str] = &[
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
];

enum Line {
    Keep(String),
    Skip,
    DropDocument(&'static str),
}

impl C4 {
    pub const ORIGINAL: Self = Self {
        terminal_punctuation: true,
        lorem_ipsum: true,
        curly_bracket: true,
        min_sentences: 5.0,
        min_words_per_line: 3.0,
    };

    pub const FINEWEB: Self = Self {
        terminal_punctuation: false,
        ..Self::ORIGINAL
    };

    pub fn judge(&self, text: &str) -> Verdict {
        let mut kept = Vec::new();
        let mut n_sentences = 0;
        for line in lines(text) {
            match self.line(strip(line)) {
                Line::Keep(line) => {
                    n_sentences += count_sentences(&line);
                    kept.push(line);
                }
                Line::Skip => {}
                Line::DropDocument(rule) => return Verdict::drop(rule),
            }
        }
        if (n_sentences as f64) < self.min_sentences {
            return Verdict::drop("too_few_sentences");
        }
        let changed = kept.join("\n");
        match strip(&changed) {
            same if same == text => Verdict::Keep,
            changed => Verdict::Change(changed.to_owned()),
        }
    }

    fn line(&self, line: &str) -> Line {
        let words = words(line);
        if words.iter().any(|word| length(word) > MAX_WORD_LENGTH) {
            return Line::Skip;
        }
        let line = CITATION.replace_all(line, "");
        if self.terminal_punctuation && !ends_a_sentence(&line) {
            return Line::Skip;
        }
        if (words.len() as f64) < self.min_words_per_line {
            return Line::Skip;
        }
        let lower = line.to_lowercase();
        if self.lorem_ipsum && lower.contains("lorem ipsum") {
            return Line::DropDocument("lorem_ipsum");
        }
        if lower.contains("javascript") {
            return Line::Skip;
        }
        if self.curly_bracket && line.contains('{') {
            return Line::DropDocument("curly_bracket");
        }
        if POLICY.iter().any(|phrase| lower.contains(phrase)) {
            return Line::Skip;
        }
        Line::Keep(line.into_owned())
    }
}

fn ends_a_sentence(line: &str) -> bool {
    line.ends_with(['.', '?', '!', '"', '\'']) && !line.ends_with("...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_gone_condemns_nothing() {
        let sentences = "This is one. This is two. This is three. This is four. This is five.";
        let text = format!("{{ menu\n{sentences}\nuses javascript here {{");
        let kept = Verdict::Change(sentences.to_owned());
        assert_eq!(C4::FINEWEB.judge(&text), kept);
        let text = format!("a menu of {{\n{sentences}");
        assert_eq!(C4::FINEWEB.judge(&text), Verdict::drop("curly_bracket"));
        assert_eq!(C4::ORIGINAL.judge(&text), kept);
    }

    #[test]
    fn citations_go_and_short_texts_go() {
        let text = "One thing happened.[1] Two. Three. Four.[citation needed] Five is it.";
        let kept = "One thing happened. Two. Three. Four. Five is it.";
        assert_eq!(C4::ORIGINAL.judge(text), Verdict::Change(kept.to_owned()));
        let verdict = C4::ORIGINAL.judge("Only one sentence here.");
        assert_eq!(verdict, Verdict::drop("too_few_sentences"));
    }
}
