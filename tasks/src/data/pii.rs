//! Personal data in text: where it is and what it is, in Korean and English.
//!
//! The `regex` crate has no look-around, and `\b` fails beside Hangul (`메일kim@example.net으로`), so patterns are
//! loose and the characters around a match are looked at by hand. Where the shape alone says little (digits in a row)
//! the check digit decides; a hyphenated shape is taken as it is, since typing errors do not make a number harmless.
//! Sources: datatrove 0.10 `formatters/pii.py` (e-mail, IP), Presidio's Korean recognisers (registration numbers,
//! passport, driver licence), own patterns for phones. Service numbers such as 1588-0000 belong to companies and are
//! left alone.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// A sort of personal data; the order decides where two overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    Email,
    /// 주민등록번호, and the number of foreigners.
    ResidentNumber,
    Card,
    DriverLicence,
    /// 사업자등록번호.
    BusinessNumber,
    Phone,
    Ip,
    Passport,
}

impl Sort {
    /// What a span is replaced with: the same everywhere, so that no output depends on order.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Email => "[EMAIL]",
            Self::ResidentNumber => "[RESIDENT-NUMBER]",
            Self::Card => "[CARD]",
            Self::DriverLicence => "[DRIVER-LICENCE]",
            Self::BusinessNumber => "[BUSINESS-NUMBER]",
            Self::Phone => "[PHONE]",
            Self::Ip => "[IP]",
            Self::Passport => "[PASSPORT]",
        }
    }

    /// The name in a ledger.
    pub fn name(self) -> &'static str {
        self.placeholder().trim_matches(['[', ']'])
    }
}

/// A span of personal data, in bytes of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub span: Range<usize>,
    pub sort: Sort,
}

struct Pattern {
    sort: Sort,
    regex: Regex,
    /// Looks at the match and at the text before and after it.
    accepts: fn(&str, &str, &str) -> bool,
}

static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let pattern = |sort, regex: &str, accepts| Pattern {
        sort,
        regex: Regex::new(regex).expect("a pattern"),
        accepts,
    };
    vec![
        pattern(
            Sort::Email,
            r"[A-Za-z0-9_][A-Za-z0-9!#$%&'*+/=?^_`{|}~-]*(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}|\[(?:\d{1,3}\.){3}\d{1,3}\])",
            |_, _, _| true,
        ),
        pattern(
            Sort::ResidentNumber,
            r"\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]) ?[-–]? ?[1-8]\d{6}",
            |found, before, after| between_numbers(before, after) && is_resident_number(found),
        ),
        pattern(
            Sort::Card,
            r"\d{4}[- ]\d{4}[- ]\d{4}[- ]\d{4}|\d{4}[- ]\d{6}[- ]\d{5}|\d{15,16}",
            |found, before, after| between_numbers(before, after) && is_card(found),
        ),
        pattern(
            Sort::DriverLicence,
            r"(?:1[1-9]|2[0-68])-\d{2}-\d{6}-\d{2}",
            |_, before, after| between_numbers(before, after),
        ),
        pattern(
            Sort::BusinessNumber,
            r"\d{3}-\d{2}-\d{5}|\d{10}",
            |found, before, after| {
                between_numbers(before, after) && (found.contains('-') || is_business_number(found))
            },
        ),
        pattern(
            Sort::Phone,
            r"(?:\+?82[-. ]?\(?0?|\(?0)1[016789]\)?[-. ]?\d{3,4}[-. ]?\d{4}",
            |_, before, after| between_numbers(before, after),
        ),
        pattern(
            Sort::Phone,
            r"(?:\+?82[-. ]?\(?0?|\(?0)(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|50\d)\)?[-. ]?\d{3,4}[-. ]\d{4}",
            |_, before, after| between_numbers(before, after),
        ),
        pattern(
            Sort::Phone,
            r"(?:\+?1[-. ]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. ])\d{3}[-. ]\d{4}",
            |_, before, after| between_numbers(before, after),
        ),
        pattern(
            Sort::Ip,
            r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
            |found, before, after| {
                let version = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
                let goes_on = after
                    .strip_prefix('.')
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                between_numbers(before, after)
                    && !goes_on
                    && !before.ends_with(version)
                    && is_public(found)
            },
        ),
        pattern(
            Sort::Passport,
            r"[MSROD]\d{3}[A-Z]\d{4}|[MSROD]\d{8}",
            |_, before, after| {
                let joins = |c: char| c.is_ascii_alphanumeric();
                !before.ends_with(joins) && !after.starts_with(joins)
            },
        ),
    ]
});

/// No digit goes on before or after: the match is a whole number.
fn between_numbers(before: &str, after: &str) -> bool {
    let digit = |c: char| c.is_ascii_digit();
    !before.ends_with(digit) && !after.starts_with(digit)
}

fn digits(found: &str) -> Vec<u32> {
    found.chars().filter_map(|c| c.to_digit(10)).collect()
}

/// With a separator the shape is enough: numbers issued since October 2020 carry no check digit. Thirteen digits in a
/// row are one only if the check digit says so.
fn is_resident_number(found: &str) -> bool {
    let digits = digits(found);
    digits.len() == 13 && (!found.bytes().all(|b| b.is_ascii_digit()) || has_check_digit(&digits))
}

/// The last digit: 11 (residents) or 13 (foreigners) less the weighted sum modulo 11, of that the last digit.
fn has_check_digit(digits: &[u32]) -> bool {
    const WEIGHTS: [u32; 12] = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5];
    let sum: u32 = digits
        .iter()
        .zip(WEIGHTS)
        .map(|(digit, weight)| digit * weight)
        .sum();
    let base = if digits[6] >= 5 { 13 } else { 11 };
    (base - sum % 11) % 10 == digits[12]
}

/// Ten digits in a row are a business number only if the check digit says so; the ninth product adds its tens.
fn is_business_number(found: &str) -> bool {
    const WEIGHTS: [u32; 9] = [1, 3, 7, 1, 3, 7, 1, 3, 5];
    let digits = digits(found);
    let sum: u32 = digits
        .iter()
        .zip(WEIGHTS)
        .map(|(digit, weight)| digit * weight)
        .sum();
    digits[0] > 0 && (10 - (sum + digits[8] * 5 / 10) % 10) % 10 == digits[9]
}

/// Four hyphenated groups are a card whatever their check digit; any other shape needs it.
fn is_card(found: &str) -> bool {
    found.matches('-').count() == 3 || is_luhn(found)
}

fn is_luhn(found: &str) -> bool {
    let digits = digits(found);
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match at % 2 {
            0 => *digit,
            _ if *digit > 4 => digit * 2 - 9,
            _ => digit * 2,
        })
        .sum();
    digits.iter().any(|digit| *digit != 0) && sum.is_multiple_of(10)
}

/// Python's `ipaddress.IPv4Address.is_global`.
fn is_public(found: &str) -> bool {
    let Ok(ip) = found.parse::<Ipv4Addr>() else {
        return false;
    };
    let [a, b, c, _] = ip.octets();
    let reserved = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !reserved
}

/// Every span, in order and apart. Where two overlap, the sort that comes first wins.
pub fn find(text: &str) -> Vec<Found> {
    let mut found: Vec<Found> = PATTERNS
        .iter()
        .flat_map(|pattern| matches(pattern, text))
        .collect();
    found.sort_by_key(|found| (found.sort, found.span.start));
    let mut kept: Vec<Found> = Vec::new();
    for candidate in found {
        let apart = |other: &Found| {
            candidate.span.end <= other.span.start || other.span.end <= candidate.span.start
        };
        if kept.iter().all(apart) {
            kept.push(candidate);
        }
    }
    kept.sort_by_key(|found| found.span.start);
    kept
}

/// Matches that their neighbours allow. A refused match is tried again one character on: it may hide a good one.
fn matches(pattern: &Pattern, text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(candidate) = pattern.regex.find_at(text, at) {
        let span = candidate.range();
        let (before, after) = (&text[..span.start], &text[span.end..]);
        if (pattern.accepts)(candidate.as_str(), before, after) {
            at = span.end;
            found.push(Found {
                span,
                sort: pattern.sort,
            });
        } else {
            let first = candidate.as_str().chars().next().map_or(1, char::len_utf8);
            at = span.start + first;
        }
    }
    found
}

/// The text with every span replaced by its placeholder, and the spans of the original.
pub fn replace(text: &str) -> (String, Vec<Found>) {
    let found = find(text);
    let mut replaced = String::with_capacity(text.len());
    let mut at = 0;
    for Found { span, sort } in &found {
        replaced.push_str(&text[at..span.start]);
        replaced.push_str(sort.placeholder());
        at = span.end;
    }
    replaced.push_str(&text[at..]);
    (replaced, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> String {
        replace(text).0
    }

    #[test]
    fn what_is_glued_to_hangul_is_found() {
        for (text, expected) in [
            (
                "메일kim@example.net으로 보내세요",
                "메일[EMAIL]으로 보내세요",
            ),
            ("번호는010-1234-5678입니다", "번호는[PHONE]입니다"),
            ("전화01012345678로", "전화[PHONE]로"),
            ("국제+82-10-1234-5678번", "국제[PHONE]번"),
            ("주민번호901201-2121763번", "주민번호[RESIDENT-NUMBER]번"),
            ("서버211.188.76.137에서", "서버[IP]에서"),
            ("여권M85894480을", "여권[PASSPORT]을"),
            ("사무실(051)173-6536으로", "사무실[PHONE]으로"),
            ("면허11-23-456789-01호", "면허[DRIVER-LICENCE]호"),
            ("call (916) 555-0172.", "call [PHONE]."),
        ] {
            assert_eq!(replaced(text), expected);
        }
    }

    #[test]
    fn check_digits_decide() {
        assert_eq!(replaced("4111111111111111"), "[CARD]");
        assert_eq!(replaced("4111 1111 1111 1111"), "[CARD]");
        assert_eq!(replaced("4111 1111 1111 1112"), "4111 1111 1111 1112");
        assert_eq!(replaced("4111-1111-1111-1112"), "[CARD]");
        assert_eq!(
            replaced("사업자 220-81-62517번"),
            "사업자 [BUSINESS-NUMBER]번"
        );
        // Thirteen digits in a row need the check digit, the hyphenated shape does not.
        assert_eq!(replaced("9012012121764"), "9012012121764");
        assert_eq!(replaced("9012012121763"), "[RESIDENT-NUMBER]");
        assert_eq!(replaced("901201-2121764"), "[RESIDENT-NUMBER]");
        // So do ten, of a business number.
        assert_eq!(replaced("등록2208162517번"), "등록[BUSINESS-NUMBER]번");
        assert_eq!(replaced("2208162518"), "2208162518");
    }

    #[test]
    fn a_check_digit_for_every_remainder() {
        // The number of a resident and of a foreigner for each remainder of the weighted sum by 11, and its only last
        // digit: 11 or 13 less the remainder, modulo 10.
        for (century, base) in [(1, 11), (5, 13)] {
            let mut remainders = std::collections::BTreeSet::new();
            for region in 0..100_u32 {
                let digits: Vec<u32> =
                    [9, 0, 0, 1, 0, 1, century, region / 10, region % 10, 0, 0, 7].into();
                let weighted = digits.iter().zip([2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]);
                let remainder = weighted.map(|(digit, weight)| digit * weight).sum::<u32>() % 11;
                remainders.insert(remainder);
                for last in 0..10 {
                    let number: String = digits.iter().chain([&last]).map(u32::to_string).collect();
                    let is_right = last == (base - remainder) % 10;
                    let found = find(&number)
                        .iter()
                        .any(|found| found.sort == Sort::ResidentNumber);
                    assert_eq!(found, is_right, "{number}");
                }
            }
            assert_eq!(remainders.len(), 11);
        }
    }

    #[test]
    fn what_only_looks_alike_stays() {
        for text in [
            "2024-02-16 v3.12.0 ISBN 978-89-6977-144-6 126,144,311원 제57362호",
            "127.0.0.1 192.168.0.10 v1.2.3.4 999.1.1.1 1.2.3.4.5",
            "임진왜란 1592-1598, 전화 1588-0000, 3.141592653589793",
            "a@b, @handle, user@localhost, M1234567890, 00000000000000000",
        ] {
            assert_eq!(replaced(text), text);
        }
    }

    #[test]
    fn spans_are_bytes_of_the_original() {
        let text = "가 kim@example.net 나 010-1234-5678";
        let (_, found) = replace(text);
        let values: Vec<&str> = found
            .iter()
            .map(|found| &text[found.span.clone()])
            .collect();
        assert_eq!(values, ["kim@example.net", "010-1234-5678"]);
    }

    proptest::proptest! {
        #[test]
        fn what_was_replaced_stays_replaced(text in "[가-힣a-z0-9@.+() -]{0,60}") {
            let once = replaced(&text);
            proptest::prop_assert_eq!(replaced(&once), once);
        }
    }
}
