//! Wrong Kananafiles over the real kinds, and every word that is said about them.
//!
//! `wrong.txt` is the table: what all cases share, then each case under a line `--- name`, what is said of it under
//! `>>>`. A line `$ --profile NAME` or `$ --set NAME=VALUE` is the command line. `UPDATE=1` writes what is said anew;
//! mistakes that need no kind of a language model are in `engine/src/kananafile/tests/wrong.txt`.

use std::path::{Path, PathBuf};

use kbuild_engine::kananafile::{Options, Problem, load};
use kbuild_engine::kind::Kinds;

/// The file that includes every case.
const BASE: &str = "base.kanana";

struct Case {
    name: String,
    /// Words of the command line.
    words: Vec<String>,
    text: String,
    said: String,
}

/// The table: what is shared, and the cases.
fn table() -> (String, Vec<Case>) {
    let text = std::fs::read_to_string(path()).expect("the table is there");
    let mut pieces = text.split("--- ");
    let base = pieces.next().expect("something is shared").to_owned();
    (base, pieces.map(case).collect())
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong.txt")
}

fn case(piece: &str) -> Case {
    let (name, rest) = piece.split_once('\n').expect("a case has a name");
    let (text, said) = rest.split_once(">>>\n").unwrap_or((rest, ""));
    let (words, text) = match text
        .strip_prefix("$ ")
        .and_then(|rest| rest.split_once('\n'))
    {
        Some((words, text)) => (words.split(' ').map(str::to_owned).collect(), text),
        None => (Vec::new(), text),
    };
    Case {
        name: name.to_owned(),
        words,
        text: text.to_owned(),
        said: said.to_owned(),
    }
}

/// What is said of a case: problems of its own file, and those without a place.
fn said(kinds: &Kinds, base: &str, case: &Case) -> String {
    let read = |path: &str| match path {
        BASE => Ok(base.to_owned()),
        "Kananafile" => Ok(case.text.clone()),
        _ => Err("no such file".to_owned()),
    };
    let mut profiles = Vec::new();
    let mut set = Vec::new();
    for pair in case.words.chunks(2) {
        match pair {
            [word, value] if word == "--profile" => profiles.push(value.clone()),
            [word, value] if word == "--set" => {
                let (name, value) = value.split_once('=').expect("NAME=VALUE");
                set.push((name.to_owned(), value.to_owned()));
            }
            _ => panic!("{}: `{pair:?}`", case.name),
        }
    }
    let options = Options {
        file: BASE,
        profiles: &profiles,
        set: &set,
        reserved: &["plan", "check"],
    };
    let problems = match load(&read, kinds, &options) {
        Ok(kananafile) => kananafile.warnings,
        Err(problems) => problems,
    };
    let own = |problem: &&Problem| problem.file != BASE;
    let lines: Vec<String> = problems
        .iter()
        .filter(own)
        .map(|problem| format!("{problem}\n"))
        .collect();
    lines.concat()
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place_and_a_way_out() {
    let kinds = kbuild_tasks::kinds();
    let (base, mut cases) = table();
    let mut different = Vec::new();
    for case in &mut cases {
        let said = said(&kinds, &base, case);
        assert!(!said.is_empty(), "{}: nothing is wrong", case.name);
        if said != case.said {
            different.push(format!("--- {}\n{said}", case.name));
            case.said = said;
        }
    }
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path(), written(&base, &cases)).expect("the table is written");
    } else {
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
}

fn written(base: &str, cases: &[Case]) -> String {
    let mut text = base.to_owned();
    for case in cases {
        let words = match case.words.as_slice() {
            [] => String::new(),
            words => format!("$ {}\n", words.join(" ")),
        };
        text += &format!("--- {}\n{words}{}>>>\n{}", case.name, case.text, case.said);
    }
    text
}

/// What all cases share is right by itself.
#[test]
fn what_the_cases_share_is_right() {
    let (base, _) = table();
    let read = |path: &str| match path {
        BASE => Ok(base.clone()),
        _ => Ok(String::new()),
    };
    let options = Options {
        file: BASE,
        ..Options::default()
    };
    if let Err(problems) = load(&read, &kbuild_tasks::kinds(), &options) {
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}", said.join("\n"));
    }
}
