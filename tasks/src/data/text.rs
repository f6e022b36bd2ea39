//! Words, lines and punctuation as datatrove 0.10 sees them (`utils/text.py`, words = Python's `split()`), and
//! the simplified text that duplicates are looked for in.
//!
//! Lengths are in code points. Knows nothing of thresholds or rules.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// `PUNCTUATION` of datatrove without its control characters, which [`is_punctuation`] adds.
const PUNCTUATION: &str =
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»";

/// Marks that end a sentence in any script. `…` is not one of them.
const TERMINAL: &str = "\
    !.?\u{589}\u{61d}\u{61e}\u{61f}\u{6d4}\u{700}\u{701}\u{702}\u{7f9}\u{837}\u{839}\u{83d}\u{83e}\
    \u{964}\u{965}\u{104a}\u{104b}\u{1362}\u{1367}\u{1368}\u{166e}\u{1735}\u{1736}\u{17d4}\u{17d5}\
    \u{17d6}\u{17d9}\u{17da}\u{1803}\u{1809}\u{1944}\u{1945}\u{1aa8}\u{1aa9}\u{1aaa}\u{1aab}\u{1b5a}\
    \u{1b5b}\u{1b5e}\u{1b5f}\u{1b7d}\u{1b7e}\u{1c3b}\u{1c3c}\u{1c7e}\u{1c7f}\u{203c}\u{203d}\u{2047}\
    \u{2048}\u{2049}\u{2e2e}\u{2e3c}\u{2e53}\u{2e54}\u{3002}\u{a4ff}\u{a60e}\u{a60f}\u{a6f3}\u{a6f7}\
    \u{a876}\u{a877}\u{a8ce}\u{a8cf}\u{a92f}\u{a9c8}\u{a9c9}\u{aa5d}\u{aa5e}\u{aa5f}\u{aaf0}\u{aaf1}\
    \u{abeb}\u{fe52}\u{fe56}\u{fe57}\u{ff01}\u{ff0e}\u{ff1f}\u{ff61}\u{10a56}\u{10a57}\u{10f55}\u{10f56}\
    \u{10f57}\u{10f58}\u{10f59}\u{10f86}\u{10f87}\u{10f88}\u{10f89}\u{11047}\u{11048}\u{110be}\u{110bf}\
    \u{110c0}\u{110c1}\u{11141}\u{11142}\u{11143}\u{111c5}\u{111c6}\u{111cd}\u{111de}\u{111df}\u{11238}\
    \u{11239}\u{1123b}\u{1123c}\u{112a9}\u{1144b}\u{1144c}\u{115c2}\u{115c3}\u{115c9}\u{115ca}\u{115cb}\
    \u{115cc}\u{115cd}\u{115ce}\u{115cf}\u{115d0}\u{115d1}\u{115d2}\u{115d3}\u{115d4}\u{115d5}\u{115d6}\
    \u{115d7}\u{11641}\u{11642}\u{1173c}\u{1173d}\u{1173e}\u{11944}\u{11946}\u{11a42}\u{11a43}\u{11a9b}\
    \u{11a9c}\u{11c41}\u{11c42}\u{11ef7}\u{11ef8}\u{11f43}\u{11f44}\u{16a6e}\u{16a6f}\u{16af5}\u{16b37}\
    \u{16b38}\u{16b44}\u{16e98}\u{1bc9f}\u{1da88}";

static PUNCTUATION_SET: LazyLock<HashSet<char>> = LazyLock::new(|| PUNCTUATION.chars().collect());
static TERMINAL_SET: LazyLock<HashSet<char>> = LazyLock::new(|| TERMINAL.chars().collect());

/// A character of datatrove's `PUNCTUATION`: marks and control characters, white space only in part.
pub fn is_punctuation(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\r'..='\u{1f}' | '\u{7f}'..='\u{9f}')
        || PUNCTUATION_SET.contains(&c)
}

/// A character of datatrove's `TERMINAL_PUNCTUATION`.
pub fn is_terminal(c: char) -> bool {
    TERMINAL_SET.contains(&c)
}

/// A character of datatrove's `PUNCTUATION_SET`: either of the two.
pub fn is_symbol(c: char) -> bool {
    is_punctuation(c) || is_terminal(c)
}

/// Python's `str.isspace`: Unicode white space and the four information separators.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.isalpha`: a letter by general category (Rust's `is_alphabetic` is wider).
pub fn is_letter(c: char) -> bool {
    use GeneralCategory::{
        LowercaseLetter, ModifierLetter, OtherLetter, TitlecaseLetter, UppercaseLetter,
    };
    c.is_ascii_alphabetic()
        || (!c.is_ascii()
            && matches!(
                get_general_category(c),
                LowercaseLetter | UppercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter
            ))
}

/// Python's `split()`.
pub fn words(text: &str) -> Vec<&str> {
    text.split(is_space)
        .filter(|word| !word.is_empty())
        .collect()
}

/// Python's `strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Length in code points.
pub fn length(text: &str) -> usize {
    text.chars().count()
}

/// Python's `splitlines()`: ten line ends, and no empty line after the last of them.
pub fn lines(text: &str) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((at, end)) = rest.char_indices().find(|(_, c)| is_end(*c)) {
        lines.push(&rest[..at]);
        let after = &rest[at + end.len_utf8()..];
        rest = match after.strip_prefix('\n') {
            Some(after) if end == '\r' => after,
            _ => after,
        };
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Number of sentences of a line: one for every word that ends with a terminal mark, one more for what is left.
pub fn count_sentences(line: &str) -> usize {
    let words = words(line);
    let ends = |word: &str| word.ends_with(is_terminal);
    let ended = words.iter().filter(|word| ends(word)).count();
    let open = words.last().is_some_and(|word| !ends(word));
    ended + usize::from(open)
}

static NUMBERS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\p{Nd}+([.,،٫⎖⎗⎘]\p{Nd}+)?").expect("a pattern"));

/// The text in which near-duplicates agree: lower case, numbers 0, punctuation and white space one space, no marks.
///
/// Normalised to NFD and left there: Hangul comes out as conjoining jamo, and the hashes depend on it.
pub fn simplify(text: &str) -> String {
    let lower = text.to_lowercase();
    let numbers = NUMBERS.replace_all(&lower, "0");
    let marks: String = numbers
        .chars()
        .map(|c| if is_punctuation(c) { ' ' } else { c })
        .collect();
    let simplified: String = words(&marks)
        .join(" ")
        .nfd()
        .filter(|c| c.is_ascii() || get_general_category(*c) != GeneralCategory::NonspacingMark)
        .collect();
    strip(&simplified).to_owned()
}

/// xxHash64 of the UTF-8 bytes, seed 0.
pub fn hash(text: &str) -> u64 {
    xxhash_rust::xxh64::xxh64(text.as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_have_datatroves_sizes() {
        let all = (0..=u32::from(char::MAX)).filter_map(char::from_u32);
        assert_eq!(all.clone().filter(|c| is_terminal(*c)).count(), 159);
        assert_eq!(all.filter(|c| is_symbol(*c)).count(), 281);
        assert!(!is_terminal('…') && is_punctuation('…'));
    }

    #[test]
    fn lines_end_where_pythons_do() {
        assert_eq!(
            lines("a\r\nb\n\nc\u{2028}d\u{85}"),
            ["a", "b", "", "c", "d"]
        );
        assert_eq!(lines(""), Vec::<&str>::new());
    }

    #[test]
    fn words_split_at_separators_too() {
        assert_eq!(
            words(" a\u{1c}b\u{a0}c\u{3000}한 글\n"),
            ["a", "b", "c", "한", "글"]
        );
    }

    #[test]
    fn sentences_are_counted() {
        assert_eq!(count_sentences("One. Two! Three? four"), 4);
        assert_eq!(count_sentences("pi is 3.14 now."), 1);
        assert_eq!(count_sentences("하나. 둘."), 2);
        assert_eq!(count_sentences(""), 0);
    }
}
