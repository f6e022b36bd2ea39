//! FineWeb quality: how lines end, how long they are, how many there are per word.
//!
//! Penedo et al. 2024 as datatrove 0.10 `fineweb_quality_filter.py` computes it; Korean thresholds are FineWeb-2's
//! `kor_Hang`.

use super::repetition::duplicates;
use super::{Verdict, above, below, share};
use crate::data::text::{is_space, is_terminal, length, words};

/// Thresholds; 0 switches a rule off.
#[derive(Debug, Clone, PartialEq)]
pub struct FineWeb {
    /// Lines that end with a terminal mark, at least.
    pub line_punct_ratio: f64,
    /// Lines of at most 30 characters, at most.
    pub short_line_ratio: f64,
    /// Characters of duplicate lines, at most.
    pub char_dup_ratio: f64,
    /// Newlines per word, at most.
    pub list_ratio: f64,
}

const SHORT_LINE: usize = 30;

impl FineWeb {
    pub const ENGLISH: Self = Self {
        line_punct_ratio: 0.12,
        short_line_ratio: 0.67,
        char_dup_ratio: 0.01,
        list_ratio: 0.3,
    };

    pub const KOREAN: Self = Self {
        line_punct_ratio: 0.062,
        short_line_ratio: 0.0,
        char_dup_ratio: 0.1,
        list_ratio: 0.196,
    };

    pub fn judge(&self, text: &str) -> Verdict {
        let lines: Vec<&str> = text
            .split('\n')
            .filter(|line| !line.chars().all(is_space))
            .collect();
        if lines.is_empty() {
            return Verdict::drop("empty");
        }
        let share_of = |test: fn(&str) -> bool| {
            share(lines.iter().filter(|line| test(line)).count(), lines.len())
        };
        if below(
            share_of(|line| line.ends_with(is_terminal)),
            self.line_punct_ratio,
        ) {
            return Verdict::drop("line_punct_ratio");
        }
        if above(
            share_of(|line| length(line) <= SHORT_LINE),
            self.short_line_ratio,
        ) {
            return Verdict::drop("short_line_ratio");
        }
        let n_newlines = text.matches('\n').count();
        let (_, chars) = duplicates(lines.iter().copied());
        if above(share(chars, length(text) - n_newlines), self.char_dup_ratio) {
            return Verdict::drop("char_dup_ratio");
        }
        if above(share(n_newlines, words(text).len()), self.list_ratio) {
            return Verdict::drop("list_ratio");
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_text() {
        let rule = |text: &str| FineWeb::ENGLISH.judge(text);
        assert_eq!(rule(" \n\n"), Verdict::drop("empty"));
        assert_eq!(
            rule("no mark at the end"),
            Verdict::drop("line_punct_ratio")
        );
        assert_eq!(rule("Short one."), Verdict::drop("short_line_ratio"));
        let line = "This line is long enough to count as a line.";
        assert_eq!(rule(line), Verdict::Keep);
        assert_eq!(
            rule(&format!("{line}\n{line}")),
            Verdict::drop("char_dup_ratio")
        );
        assert_eq!(
            rule(&format!("{line}\n\n\n\n")),
            Verdict::drop("list_ratio")
        );
    }
}
