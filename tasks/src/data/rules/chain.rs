//! Rule sets in order, with single thresholds changed by the name of their rule.

use super::c4::C4;
use super::code::Code;
use super::fineweb::FineWeb;
use super::korean::Korean;
use super::quality::Quality;
use super::repetition::Repetition;
use super::{Rule, Verdict};

/// One rule set with its thresholds.
#[derive(Debug, Clone, PartialEq)]
pub enum Set {
    Repetition(Repetition),
    Quality(Quality),
    C4(C4),
    FineWeb(FineWeb),
    Korean(Korean),
    Code(Code),
}

impl Set {
    fn judge(&self, text: &str) -> Verdict {
        match self {
            Self::Repetition(set) => set.judge(text),
            Self::Quality(set) => set.judge(text),
            Self::C4(set) => set.judge(text),
            Self::FineWeb(set) => set.judge(text),
            Self::Korean(set) => set.judge(text),
            Self::Code(set) => set.judge(text),
        }
    }

    /// The threshold behind a rule name, where this set has one.
    fn threshold(&mut self, rule: &str) -> Option<&mut f64> {
        match self {
            Self::Repetition(set) => repetition(set, rule),
            Self::Quality(set) => quality(set, rule),
            Self::C4(set) => match rule {
                "too_few_sentences" => Some(&mut set.min_sentences),
                "too_few_words" => Some(&mut set.min_words_per_line),
                _ => None,
            },
            Self::FineWeb(set) => match rule {
                "line_punct_ratio" => Some(&mut set.line_punct_ratio),
                "short_line_ratio" => Some(&mut set.short_line_ratio),
                "char_dup_ratio" => Some(&mut set.char_dup_ratio),
                "list_ratio" => Some(&mut set.list_ratio),
                _ => None,
            },
            Self::Korean(set) => korean(set, rule),
            Self::Code(set) => match rule {
                "code_long_line" => Some(&mut set.max_line_length),
                "code_long_mean_line" => Some(&mut set.max_mean_line_length),
                "code_below_alphanumeric" => Some(&mut set.min_alphanumeric),
                _ => None,
            },
        }
    }

    /// The switch behind a rule name, where the rule has no threshold.
    fn switch(&mut self, rule: &str) -> Option<&mut bool> {
        match (self, rule) {
            (Self::C4(set), "curly_bracket") => Some(&mut set.curly_bracket),
            (Self::C4(set), "lorem_ipsum") => Some(&mut set.lorem_ipsum),
            (Self::C4(set), "no_terminal_punct") => Some(&mut set.terminal_punctuation),
            (Self::Code(set), "code_generated") => Some(&mut set.generated),
            _ => None,
        }
    }
}

fn repetition<'a>(set: &'a mut Repetition, rule: &str) -> Option<&'a mut f64> {
    let n = |prefix: &str, suffix: &str| -> Option<usize> {
        rule.strip_prefix(prefix)?
            .strip_suffix(suffix)?
            .parse()
            .ok()
    };
    if let Some(n) = n("top_", "_gram") {
        return set.top_n_gram.get_mut(n.checked_sub(2)?);
    }
    if let Some(n) = n("duplicated_", "_n_grams") {
        return set.duplicated_n_grams.get_mut(n.checked_sub(5)?);
    }
    match rule {
        "dup_para_frac" => Some(&mut set.dup_para_frac),
        "dup_para_char_frac" => Some(&mut set.dup_para_char_frac),
        "dup_line_frac" => Some(&mut set.dup_line_frac),
        "dup_line_char_frac" => Some(&mut set.dup_line_char_frac),
        _ => None,
    }
}

fn quality<'a>(set: &'a mut Quality, rule: &str) -> Option<&'a mut f64> {
    match rule {
        "gopher_short_doc" => Some(&mut set.min_words),
        "gopher_long_doc" => Some(&mut set.max_words),
        "gopher_below_avg_threshold" => Some(&mut set.min_mean_word_length),
        "gopher_above_avg_threshold" => Some(&mut set.max_mean_word_length),
        "gopher_too_many_hashes" => Some(&mut set.max_hashes),
        "gopher_too_many_ellipsis" => Some(&mut set.max_ellipses),
        "gopher_too_many_bullets" => Some(&mut set.max_bullet_lines),
        "gopher_too_many_end_ellipsis" => Some(&mut set.max_ellipsis_lines),
        "gopher_below_alpha_threshold" => Some(&mut set.min_alpha_words),
        "gopher_enough_stop_words" => Some(&mut set.min_stop_words),
        _ => None,
    }
}

fn korean<'a>(set: &'a mut Korean, rule: &str) -> Option<&'a mut f64> {
    match rule {
        "korean_short_doc" => Some(&mut set.min_chars),
        "korean_long_doc" => Some(&mut set.max_chars),
        "korean_below_avg_threshold" => Some(&mut set.min_mean_word_length),
        "korean_above_avg_threshold" => Some(&mut set.max_mean_word_length),
        "korean_too_many_symbols" => Some(&mut set.max_symbols),
        "korean_too_many_bullets" => Some(&mut set.max_bullet_lines),
        "korean_too_many_end_ellipsis" => Some(&mut set.max_ellipsis_lines),
        "korean_below_hangul" => Some(&mut set.min_hangul),
        _ => None,
    }
}

/// Rule sets in the order in which they judge.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain(pub Vec<Set>);

impl Chain {
    /// FineWeb's English chain: repetition, quality, C4 without terminal punctuation, line shapes.
    pub fn fineweb() -> Self {
        Self(vec![
            Set::Repetition(Repetition::GOPHER),
            Set::Quality(Quality::GOPHER),
            Set::C4(C4::FINEWEB),
            Set::FineWeb(FineWeb::ENGLISH),
        ])
    }

    /// FineWeb-2's chain for `kor_Hang`. Its quality thresholds count morphemes: with words it drops most good text.
    pub fn fineweb2() -> Self {
        Self(vec![
            Set::Repetition(Repetition::KOREAN),
            Set::FineWeb(FineWeb::KOREAN),
            Set::Quality(Quality::KOREAN),
        ])
    }

    /// Korean by white-space words: what of FineWeb-2 counts lines and characters, and DPS for words.
    pub fn korean() -> Self {
        Self(vec![
            Set::Repetition(Repetition::KOREAN),
            Set::FineWeb(FineWeb::KOREAN),
            Set::Korean(Korean::DPS),
        ])
    }

    pub fn gopher() -> Self {
        Self(vec![
            Set::Repetition(Repetition::GOPHER),
            Set::Quality(Quality::GOPHER),
        ])
    }

    pub fn c4() -> Self {
        Self(vec![Set::C4(C4::ORIGINAL)])
    }

    pub fn code() -> Self {
        Self(vec![Set::Code(Code::STACK)])
    }

    /// Changes the threshold of every set that has `rule` (0 switches the rule off); false where none has it.
    pub fn set_threshold(&mut self, rule: &str, value: f64) -> bool {
        let mut found = false;
        for set in &mut self.0 {
            if let Some(threshold) = set.threshold(rule) {
                *threshold = value;
                found = true;
            } else if let Some(switch) = set.switch(rule) {
                *switch = value != 0.0;
                found = true;
            }
        }
        found
    }

    /// Runs the sets in order over the text as the one before left it; the first that drops it names the rule.
    pub fn judge(&self, text: &str) -> Verdict {
        let mut changed: Option<String> = None;
        for set in &self.0 {
            match set.judge(changed.as_deref().unwrap_or(text)) {
                Verdict::Keep => {}
                Verdict::Change(text) => changed = Some(text),
                Verdict::Drop(rule) => return Verdict::Drop(rule),
            }
        }
        changed.map_or(Verdict::Keep, Verdict::Change)
    }

    /// The first rule that drops the text.
    pub fn reason(&self, text: &str) -> Option<Rule> {
        match self.judge(text) {
            Verdict::Drop(rule) => Some(rule),
            Verdict::Keep | Verdict::Change(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_changed_by_the_name_of_their_rule() {
        let mut chain = Chain::fineweb();
        let text = "This is a line about the sea, and it ends as well as any line that we read so far. \
            Nobody knows who wrote it down first";
        assert_eq!(chain.reason(text).as_deref(), Some("gopher_short_doc"));
        assert!(chain.set_threshold("gopher_short_doc", 5.0));
        assert_eq!(chain.reason(text).as_deref(), Some("too_few_sentences"));
        assert!(chain.set_threshold("too_few_sentences", 1.0));
        assert_eq!(chain.reason(text).as_deref(), Some("line_punct_ratio"));
        assert!(chain.set_threshold("line_punct_ratio", 0.0));
        assert_eq!(chain.judge(text), Verdict::Keep);
        assert!(chain.set_threshold("top_4_gram", 0.0));
        assert!(chain.set_threshold("duplicated_10_n_grams", 0.0));
        for unknown in ["top_1_gram", "top_5_gram", "duplicated_4_n_grams", "x"] {
            assert!(!chain.set_threshold(unknown, 0.0), "{unknown}");
        }
    }
}
