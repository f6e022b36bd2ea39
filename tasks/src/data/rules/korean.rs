//! Korean text by white-space words and characters: the thresholds of DPS, the open pipeline behind Polyglot-Ko.
//!
//! EleutherAI/dps@af3c664 `configs/korean_job.yaml`. FineWeb-2's Korean thresholds count morphemes and drop good text
//! where words are split at white space; these do not.

use super::quality::ends_with_ellipsis;
use super::{Verdict, above, below, share};
use crate::data::text::{is_space, length, lines, words};

/// Thresholds; 0 switches a rule off.
#[derive(Debug, Clone, PartialEq)]
pub struct Korean {
    pub min_chars: f64,
    pub max_chars: f64,
    pub min_mean_word_length: f64,
    pub max_mean_word_length: f64,
    /// `…`, `...` and `#` per word.
    pub max_symbols: f64,
    pub max_bullet_lines: f64,
    pub max_ellipsis_lines: f64,
    /// Hangul of all characters that are not white space.
    pub min_hangul: f64,
}

impl Korean {
    pub const DPS: Self = Self {
        min_chars: 50.0,
        max_chars: 100_000.0,
        min_mean_word_length: 3.0,
        max_mean_word_length: 10.0,
        max_symbols: 0.1,
        max_bullet_lines: 0.9,
        max_ellipsis_lines: 0.3,
        min_hangul: 0.25,
    };

    pub fn judge(&self, text: &str) -> Verdict {
        let rule = self
            .lengths(text)
            .or_else(|| self.symbols(text))
            .or_else(|| self.line_shapes(text))
            .or_else(|| below(hangul(text), self.min_hangul).then_some("korean_below_hangul"));
        rule.map_or(Verdict::Keep, Verdict::drop)
    }

    fn lengths(&self, text: &str) -> Option<&'static str> {
        let n_chars = length(text) as f64;
        let words = words(text);
        if words.is_empty() || below(n_chars, self.min_chars) {
            return Some("korean_short_doc");
        }
        if above(n_chars, self.max_chars) {
            return Some("korean_long_doc");
        }
        let mean = share(words.iter().map(|word| length(word)).sum(), words.len());
        if below(mean, self.min_mean_word_length) {
            return Some("korean_below_avg_threshold");
        }
        above(mean, self.max_mean_word_length).then_some("korean_above_avg_threshold")
    }

    fn symbols(&self, text: &str) -> Option<&'static str> {
        let n_words = words(text).len();
        ["…", "...", "#"]
            .iter()
            .any(|symbol| {
                above(
                    share(text.matches(symbol).count(), n_words),
                    self.max_symbols,
                )
            })
            .then_some("korean_too_many_symbols")
    }

    fn line_shapes(&self, text: &str) -> Option<&'static str> {
        let lines = lines(text);
        let count = |test: fn(&str) -> bool| lines.iter().filter(|line| test(line)).count();
        if above(
            share(count(starts_with_bullet), lines.len()),
            self.max_bullet_lines,
        ) {
            return Some("korean_too_many_bullets");
        }
        let ellipses = share(count(ends_with_ellipsis), lines.len());
        above(ellipses, self.max_ellipsis_lines).then_some("korean_too_many_end_ellipsis")
    }
}

fn starts_with_bullet(line: &str) -> bool {
    let line = line.trim_start_matches(is_space);
    line.starts_with(['*', '·', '•', '‧', 'ㆍ'])
}

/// Share of `[ㄱ-힣]` in what is not white space.
fn hangul(text: &str) -> f64 {
    let (mut n_hangul, mut n) = (0, 0);
    for c in text.chars().filter(|c| !is_space(*c)) {
        n += 1;
        n_hangul += usize::from(('ㄱ'..='힣').contains(&c));
    }
    share(n_hangul, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_text() {
        let rule = |text: &str| Korean::DPS.judge(text);
        let good = "스프레드시트에서 함수를 사용하면 계산이 훨씬 간단해집니다. ".repeat(3);
        assert_eq!(rule(&good), Verdict::Keep);
        assert_eq!(rule("짧은 글입니다"), Verdict::drop("korean_short_doc"));
        let english = "these sheets make sums very simple ".repeat(3);
        assert_eq!(rule(&english), Verdict::drop("korean_below_hangul"));
        let bullets = "• 스프레드시트 함수의 간단한 목록\n".repeat(9);
        assert_eq!(rule(&bullets), Verdict::drop("korean_too_many_bullets"));
        let letters = "가 나 다 라 ".repeat(20);
        assert_eq!(rule(&letters), Verdict::drop("korean_below_avg_threshold"));
    }
}
