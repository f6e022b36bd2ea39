//! The programmatic gold reward: what an honest reader would say of a response whose right answer is known.
//!
//! A prompt record may carry a `gold` object; `check` names how a response is judged (quality `q` in 0..=1):
//!
//! | `gold` | quality |
//! |---|---|
//! | `{"check": "exact", "answer": "…"}` | 1 when equal after normalisation, else at most 0.6: 0.6 · (1 − normalised edit distance) |
//! | `{"check": "contains", "answer": "…"}` | 1 when the answer occurs as a whole word (Korean particles may follow), else at most 0.4 by bigram overlap |
//! | `{"check": "lines", "n": 3, "prefix": "- "}` | 1 for exactly `n` non-empty lines that are different, start with `prefix` and say something, else at most 0.6 by share |
//! | `{"check": "pattern", "regex": "…"}` | 1 when the `regex` crate finds a match in the trimmed response, else 0 |
//! | `{"check": "reference", "answer": "…"}` | character bigram F1 against the reference answer |
//! | absent or `null` | 0: only degeneration is judged |
//!
//! Every check takes an optional `max_chars`: the length from which a response is too long (default: see
//! [`Gold::length_limit`]).
//!
//! Health `h` in 0..=1 is the product of one factor per sort of degeneration: no stop token (½), repeated n-grams,
//! length far beyond the reference, broken bytes or markup; an empty response has none. The reward is `q·h − (1 − h)`:
//! a healthy response lies in 0..=1, and a response with `h ≤ ½` never beats a healthy one, however much of the
//! answer it holds. So a policy cannot win by looping over the answer or by never stopping.
//!
//! Knows nothing of models or tokens: text in, number out, no state and no randomness.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

/// How a response is judged: the `gold` object of a prompt record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gold {
    /// `exact`, `contains`, `lines`, `pattern` or `reference`.
    check: Check,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_chars: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Check {
    Exact,
    Contains,
    Lines,
    Pattern,
    Reference,
}

/// A `gold` object that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`gold` cannot be used: {0}")]
pub struct Malformed(String);

/// The gold reward of `response` to the prompt `record`, in −1..=1; `stopped` says that the policy ended it by itself.
///
/// # Errors
/// A `gold` object that cannot be used.
pub fn reward(record: &Value, response: &str, stopped: bool) -> Result<f64, Malformed> {
    Ok(match Gold::of(record)? {
        Some(gold) => gold.reward(response, stopped),
        None => healthy(0.0, health(response, stopped, "", DEFAULT_LENGTH_LIMIT)),
    })
}

/// Characters beyond which a response without a reference is too long.
const DEFAULT_LENGTH_LIMIT: usize = 600;

impl Gold {
    /// The gold object of a prompt record, if it has one.
    pub fn of(record: &Value) -> Result<Option<Self>, Malformed> {
        match record.get("gold") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let gold: Self =
                    Self::deserialize(value).map_err(|error| Malformed(error.to_string()))?;
                gold.complete().map(|()| Some(gold))
            }
        }
    }

    /// Quality and health in one number, −1..=1.
    pub fn reward(&self, response: &str, stopped: bool) -> f64 {
        let health = health(response, stopped, self.reference(), self.length_limit());
        healthy(self.quality(response), health)
    }

    /// How right the response is, 0..=1, whatever its form.
    pub fn quality(&self, response: &str) -> f64 {
        match self.check {
            Check::Exact => exact(self.reference(), response),
            Check::Contains => contains(self.reference(), response),
            Check::Lines => lines(
                self.n.unwrap_or(1),
                self.prefix.as_deref().unwrap_or(""),
                response,
            ),
            Check::Pattern => self.pattern(response),
            Check::Reference => bigram_f1(self.reference(), response),
        }
    }

    /// Characters from which a response loses health: `max_chars`, or three times the reference and at least 80 more
    /// than it, or 120 a line, or 600.
    pub fn length_limit(&self) -> usize {
        if let Some(limit) = self.max_chars {
            return limit;
        }
        let reference = self.reference().chars().count();
        match (self.check, reference) {
            (Check::Lines, _) => self.n.unwrap_or(1).saturating_mul(120),
            (_, 0) => DEFAULT_LENGTH_LIMIT,
            (_, length) => (3 * length).max(length + 80),
        }
    }

    fn reference(&self) -> &str {
        self.answer.as_deref().unwrap_or("")
    }

    fn pattern(&self, response: &str) -> f64 {
        let found = self
            .regex
            .as_deref()
            .and_then(|pattern| regex::Regex::new(pattern).ok())
            .is_some_and(|pattern| pattern.is_match(response.trim()));
        f64::from(u8::from(found))
    }

    fn complete(&self) -> Result<(), Malformed> {
        let missing = |field: &str| {
            Err(Malformed(format!(
                "check `{}` needs `{field}`",
                serde_json::to_value(self.check)
                    .ok()
                    .as_ref()
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            )))
        };
        match self.check {
            Check::Exact | Check::Contains | Check::Reference => {
                if normalise(self.reference()).is_empty() {
                    return missing("answer");
                }
            }
            Check::Lines if self.n.unwrap_or(0) == 0 => return missing("n"),
            Check::Lines => {}
            Check::Pattern => match &self.regex {
                None => return missing("regex"),
                Some(pattern) => {
                    regex::Regex::new(pattern).map_err(|error| Malformed(error.to_string()))?;
                }
            },
        }
        Ok(())
    }
}

fn healthy(quality: f64, health: f64) -> f64 {
    (quality * health - (1.0 - health)).clamp(-1.0, 1.0)
}

/// NFKC, lower case, single spaces, no punctuation at either end.
fn normalise(text: &str) -> String {
    let text: String = text.nfkc().flat_map(char::to_lowercase).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .join(" ")
        .trim_matches(|c: char| " .,;:!?\"'`。…".contains(c))
        .to_owned()
}

fn exact(answer: &str, response: &str) -> f64 {
    let (answer, response) = (normalise(answer), normalise(response));
    if answer == response {
        return 1.0;
    }
    let (a, b): (Vec<char>, Vec<char>) = (answer.chars().collect(), response.chars().collect());
    // What is many times longer than the answer shares nothing worth counting, and the distance is quadratic.
    if b.len() > 4 * a.len() + 64 {
        return 0.0;
    }
    0.6 * (1.0 - edit_distance(&a, &b) as f64 / a.len().max(b.len()).max(1) as f64)
}

/// Levenshtein distance: insertions, deletions, substitutions.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn contains(answer: &str, response: &str) -> f64 {
    let (needle, text) = (normalise(answer), normalise(response));
    if has_word(&text, &needle) {
        1.0
    } else {
        0.4 * bigram_f1(answer, response)
    }
}

/// Whether `needle` occurs without an ASCII letter or digit growing out of either end, nor any letter before it:
/// `12` is not in `120`, `서울` is in `서울은`.
fn has_word(text: &str, needle: &str) -> bool {
    text.match_indices(needle).any(|(start, found)| {
        let before = text[..start].chars().next_back();
        let after = text[start + found.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric)
            && !after.is_some_and(|c| c.is_ascii_alphanumeric())
    })
}

fn lines(n: usize, prefix: &str, response: &str) -> f64 {
    let all: Vec<&str> = response
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let good: BTreeSet<String> = all
        .iter()
        .filter_map(|line| line.strip_prefix(prefix))
        .filter(|rest| rest.chars().filter(|c| c.is_alphanumeric()).count() >= 2)
        .map(normalise)
        .collect();
    if good.len() == n && all.len() == n {
        return 1.0;
    }
    0.6 * good.len().min(n) as f64 / all.len().max(n) as f64
}

/// F1 over the multisets of character bigrams of both texts, normalised, spaces left out.
fn bigram_f1(reference: &str, response: &str) -> f64 {
    let (a, b) = (bigrams(reference), bigrams(response));
    let total = (a.values().sum::<usize>() + b.values().sum::<usize>()) as f64;
    if total == 0.0 {
        return f64::from(u8::from(normalise(reference) == normalise(response)));
    }
    let shared: usize = a
        .iter()
        .map(|(gram, count)| count.min(b.get(gram).unwrap_or(&0)))
        .sum();
    2.0 * shared as f64 / total
}

fn bigrams(text: &str) -> BTreeMap<(char, char), usize> {
    let chars: Vec<char> = normalise(text)
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let mut counts = BTreeMap::new();
    for pair in chars.windows(2) {
        *counts.entry((pair[0], pair[1])).or_insert(0) += 1;
    }
    counts
}

/// The product of one factor per sort of degeneration, 0..=1.
fn health(response: &str, stopped: bool, reference: &str, limit: usize) -> f64 {
    if !response.chars().any(char::is_alphanumeric) {
        return 0.0;
    }
    let unstopped = if stopped { 1.0 } else { 0.5 };
    unstopped
        * (1.0 - repetition_cost(response, reference))
        * (1.0 - length_cost(response, limit))
        * (1.0 - damage_cost(response))
}

/// 0 up to the repetition that healthy text (or the reference itself) has, 1 at 0.3 beyond it.
fn repetition_cost(response: &str, reference: &str) -> f64 {
    let allowed = repetition(reference).max(0.25);
    ((repetition(response) - allowed) / 0.3).clamp(0.0, 1.0)
}

/// Share of character n-grams that occurred before: 6-grams, or 3-grams in texts under 24 characters.
fn repetition(text: &str) -> f64 {
    let chars: Vec<char> = normalise(text).chars().collect();
    let n = if chars.len() < 24 { 3 } else { 6 };
    let total = (chars.len() + 1).saturating_sub(n);
    if total < 2 {
        return 0.0;
    }
    let distinct: BTreeSet<&[char]> = chars.windows(n).collect();
    1.0 - distinct.len() as f64 / total as f64
}

/// 0 up to `limit` characters, 1 at twice as many.
fn length_cost(response: &str, limit: usize) -> f64 {
    let length = response.chars().count() as f64;
    let limit = limit.max(1) as f64;
    ((length - limit) / limit).clamp(0.0, 1.0)
}

/// Four times the share of replacement and control characters; markup of a chat template is damage at once.
fn damage_cost(response: &str) -> f64 {
    if response.contains("<|") {
        return 1.0;
    }
    let broken = response
        .chars()
        .filter(|c| *c == char::REPLACEMENT_CHARACTER || (c.is_control() && !"\n\t".contains(*c)))
        .count() as f64;
    (4.0 * broken / response.chars().count().max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn exact_record() -> Value {
        json!({"messages": [], "gold": {"check": "exact", "answer": "1000000"}})
    }

    fn every_check() -> Vec<(Value, &'static str)> {
        vec![
            (json!({"check": "exact", "answer": "17"}), "17"),
            (
                json!({"check": "contains", "answer": "서울"}),
                "수도는 서울입니다.",
            ),
            (
                json!({"check": "lines", "n": 3, "prefix": "- "}),
                "- 사과\n- 배나무\n- 포도",
            ),
            (
                json!({"check": "pattern", "regex": "^[0-9]{4}-[0-9]{2}$"}),
                "2024-05",
            ),
            (
                json!({"check": "reference", "answer": "문서를 저장하려면 파일 메뉴에서 저장을 고릅니다."}),
                "문서를 저장하려면 파일 메뉴에서 저장을 고릅니다.",
            ),
        ]
    }

    #[test]
    fn the_right_answer_gets_one() {
        for (gold, answer) in every_check() {
            let record = json!({ "gold": gold });
            assert_eq!(reward(&record, answer, true).unwrap(), 1.0, "{record}");
        }
        assert_eq!(reward(&exact_record(), "1000000.\n", true).unwrap(), 1.0);
    }

    #[test]
    fn a_wrong_exact_answer_is_clearly_worse_and_graded() {
        let record = json!({"gold": {"check": "exact", "answer": "Seoul"}});
        let near = reward(&record, "Seol", true).unwrap();
        let far = reward(&record, "Pyongyang", true).unwrap();
        assert!(near <= 0.6 && near > far && far >= 0.0, "{near} {far}");
    }

    #[test]
    fn a_number_inside_a_number_is_not_contained() {
        let record = json!({"gold": {"check": "contains", "answer": "12"}});
        assert_eq!(reward(&record, "the answer is 12", true).unwrap(), 1.0);
        assert_eq!(reward(&record, "12개입니다", true).unwrap(), 1.0);
        assert!(reward(&record, "the answer is 120", true).unwrap() < 0.5);
        assert!(reward(&record, "the answer is 312", true).unwrap() < 0.5);
    }

    #[test]
    fn lines_must_be_different_and_say_something() {
        let record = json!({"gold": {"check": "lines", "n": 2, "prefix": "* "}});
        assert_eq!(
            reward(&record, "* one apple\n* two pears", true).unwrap(),
            1.0
        );
        for bad in [
            "* one apple\n* one apple",
            "* .\n* !",
            "* one\n* two\n* three",
            "one\ntwo",
        ] {
            assert!(reward(&record, bad, true).unwrap() <= 0.6, "{bad}");
        }
    }

    #[test]
    fn degenerate_text_never_beats_a_healthy_wrong_answer() {
        for (gold, answer) in every_check() {
            let record = json!({ "gold": gold });
            let healthy_wrong = reward(&record, "I cannot tell.", true).unwrap();
            assert!(healthy_wrong >= 0.0);
            let looped = format!("{answer}\n").repeat(60);
            let rambling = format!(
                "{answer} {}",
                (0..400)
                    .map(|i| format!("{} ", i * 7919))
                    .collect::<String>()
            );
            let degenerate = [
                (String::new(), true),
                ("   \n".to_owned(), true),
                ("!!!???".to_owned(), true),
                (looped.clone(), true),
                (looped, false),
                (rambling, true),
                (answer.to_owned(), false),
                (format!("{answer}<|user|>"), true),
                (
                    format!("{answer}{}", "\u{fffd}".repeat(answer.chars().count())),
                    true,
                ),
                ("가".repeat(40), true),
                ("the ".repeat(30), true),
            ];
            for (text, stopped) in degenerate {
                let got = reward(&record, &text, stopped).unwrap();
                assert!(got <= healthy_wrong, "{record}: {got} for {text:.40}");
                assert!((-1.0..=1.0).contains(&got));
            }
        }
    }

    #[test]
    fn ordinary_prose_is_healthy() {
        let english = "To save a document, choose File and then Save. If the document is new, a dialog asks for a \
                       name and a folder. Later saves replace the file without asking.";
        let korean = "문서를 저장하려면 파일 메뉴에서 저장을 선택하세요. 새 문서이면 이름과 폴더를 묻는 대화 상자가 \
                      열립니다. 다음부터는 묻지 않고 파일을 바꿉니다.";
        for text in [english, korean] {
            assert_eq!(reward(&json!({}), text, true), Ok(0.0), "no gold, no cost");
        }
    }

    #[test]
    fn an_answer_that_repeats_by_nature_costs_nothing() {
        assert_eq!(reward(&exact_record(), "1000000", true).unwrap(), 1.0);
        let record = json!({"gold": {"check": "exact", "answer": "haha haha haha"}});
        assert_eq!(reward(&record, "haha haha haha", true).unwrap(), 1.0);
    }

    #[test]
    fn malformed_gold_is_named() {
        for (gold, part) in [
            (json!({"check": "exact"}), "answer"),
            (json!({"check": "lines", "prefix": "- "}), "`n`"),
            (json!({"check": "pattern", "regex": "("}), "regex"),
            (json!({"check": "guess"}), "guess"),
            (
                json!({"check": "exact", "answer": "a", "anser": "b"}),
                "anser",
            ),
        ] {
            let message = Gold::of(&json!({ "gold": gold })).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(Gold::of(&json!({"messages": []})), Ok(None));
    }

    #[test]
    fn edit_distance_is_levenshtein() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(edit_distance(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(edit_distance(&chars(""), &chars("ab")), 2);
    }
}
