//! Wrong Kananafiles, and every word that is said about them.
//!
//! `wrong.txt` holds the cases, each under a line `--- name`; the snapshot holds what is said of each.

use std::fmt::Write;

use super::super::{Options, Severity};
use crate::testing::load_with;

fn cases() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = include_str!("wrong.txt");
    all.split("--- ")
        .skip(1)
        .map(|case| case.split_once('\n').unwrap())
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let mut said = String::new();
    for (name, text) in cases() {
        let text = format!("kananafile = 1\n{text}");
        let problems = match load_with(&text, &[], &Options::default()) {
            Ok(kananafile) => kananafile.warnings,
            Err(problems) => {
                let errors = problems.iter().filter(|p| p.severity == Severity::Error);
                assert!(errors.count() > 0, "{name}");
                problems
            }
        };
        assert!(!problems.is_empty(), "{name}: nothing is wrong");
        writeln!(said, "--- {name}").unwrap();
        for problem in problems {
            let marked = &text[problem.span.clone()];
            writeln!(said, "{problem}\n  marks: {marked:?}").unwrap();
        }
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_problem_knows_its_line() {
    let text = "kananafile = 1\n# 가\n[task.a]\nkind = \"claen\"\n";
    let problems = load_with(text, &[], &Options::default()).unwrap_err();
    let problem = &problems[0];
    assert_eq!((problem.line, problem.column), (4, 8));
    assert_eq!(problem.excerpt, "kind = \"claen\"");
    assert_eq!(problem.file, "Kananafile");
}

#[test]
fn a_command_line_that_does_not_fit_is_told_without_a_place() {
    let text = "kananafile = 1\n[vars]\nseed = 1\n[task.a]\nkind = \"clean\"\ninputs.documents = \"${seed}-x\"\n";
    let say = |profiles: &[String], set: &[(String, String)]| {
        let options = Options {
            profiles,
            set,
            ..Options::default()
        };
        let problems = load_with(text, &[], &options).unwrap_err();
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
    assert_eq!(
        say(&[], &pair("sead", "1")),
        "`--set sead=1`: no var is called `sead`\n  help: did you mean `seed`?"
    );
    assert_eq!(
        say(&[], &pair("seed", "x")),
        "`--set seed=x`: var `seed` is an integer, found a string"
    );
    assert_eq!(
        say(&[], &pair("seed", "99999999999999999999")),
        "`--set seed=99999999999999999999`: this integer does not fit into 64 bits"
    );
    assert_eq!(say(&["gpu".to_owned()], &[]), "no profile is called `gpu`");
}

#[test]
fn a_missing_file_is_a_problem() {
    let say = |text: &str| {
        let text = format!("kananafile = 1\n{text}[task.t]\nkind = \"p\"\n");
        let problems = load_with(&text, &[], &Options::default()).unwrap_err();
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    assert_eq!(
        say("include = [\"data.kanana\"]\n"),
        "Kananafile:2:12: cannot read `data.kanana`: no such file"
    );
    assert_eq!(
        say("[plugin.p]\npath = \"p\"\n"),
        "Kananafile:3:8: cannot read `p/kind.toml`: no such file"
    );
    let nowhere = load_with("", &[], &Options::default()).unwrap_err();
    assert_eq!(
        nowhere[0].to_string(),
        "Kananafile:1:1: the version of the Kananafile is missing\n  \
         help: this program reads version 1: write `kananafile = 1`"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Cutting pieces out of right and wrong files gives problems or a graph, never a panic.
    #[test]
    fn no_text_makes_it_panic(case in 0_usize..60, from in 0_usize..400, length in 0_usize..40) {
        let Some((_, text)) = cases().nth(case) else { return Ok(()) };
        let text = format!("kananafile = 1\n{text}");
        let from = text.floor_char_boundary(from.min(text.len()));
        let end = text.floor_char_boundary((from + length).min(text.len()));
        let cut = format!("{}{}", &text[..from], &text[end.max(from)..]);
        let _ = load_with(&cut, &[], &Options::default());
    }
}
