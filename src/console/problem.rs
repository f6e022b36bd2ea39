//! Problems of a Kananafile, as people, programs and GitHub read them.

use std::fmt::Write as _;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use kbuild_engine::kananafile::{Problem, Severity};

use super::{clean, text};

/// The problem with its line, a caret below what is meant, and a way out. `columns`: width of the terminal.
pub fn render(problem: &Problem, columns: Option<usize>) -> String {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let (message, help) = (clean::lines(&problem.message), clean::lines(&problem.help));
    let file = clean::one_line(&problem.file);
    let title = level.primary_title(message.as_ref());
    let span = span_in_excerpt(problem);
    let mut group = annotate_snippets::Group::with_title(title);
    if problem.line > 0 {
        let snippet = Snippet::source(problem.excerpt.as_str())
            .path(file.as_ref())
            .line_start(problem.line)
            .annotation(AnnotationKind::Primary.span(span));
        group = group.element(snippet);
    }
    if !problem.help.is_empty() {
        group = group.element(Level::HELP.message(help.as_ref()));
    }
    let renderer = Renderer::styled()
        .decor_style(DecorStyle::Ascii)
        .term_width(columns.unwrap_or(140));
    renderer.render(&[group])
}

/// All problems, and a last line that counts them.
pub fn render_all(problems: &[Problem], columns: Option<usize>) -> String {
    let mut out = String::new();
    for problem in problems {
        let _ = writeln!(out, "{}\n", render(problem, columns));
    }
    let of = |severity| {
        problems
            .iter()
            .filter(|problem| problem.severity == severity)
            .count()
    };
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let counts: Vec<String> = [(errors, "problem"), (warnings, "warning")]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, noun)| text::plural(*n, noun))
        .collect();
    if errors > 0 {
        let _ = writeln!(out, "{}; nothing was run", counts.join(", "));
    }
    out
}

/// One JSON object a line.
pub fn json(problems: &[Problem]) -> String {
    let line = |problem: &Problem| serde_json::to_string(problem).map(|line| line + "\n");
    problems
        .iter()
        .filter_map(|problem| line(problem).ok())
        .collect()
}

/// Annotations of a GitHub workflow, one a line.
pub fn github(problems: &[Problem]) -> String {
    problems.iter().map(annotation).collect()
}

fn annotation(problem: &Problem) -> String {
    let command = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let place = match problem.line {
        0 => String::new(),
        line => format!(
            " file={},line={line},col={}",
            property(&problem.file),
            problem.column
        ),
    };
    let help = match problem.help.as_str() {
        "" => String::new(),
        help => format!("\nhelp: {help}"),
    };
    format!(
        "::{command}{place}::{}\n",
        value(&format!("{}{help}", problem.message))
    )
}

/// The part of the excerpt that is meant: at least one character, and within the line.
fn span_in_excerpt(problem: &Problem) -> Range<usize> {
    let excerpt = &problem.excerpt;
    let start = excerpt
        .char_indices()
        .nth(problem.column.saturating_sub(1))
        .map_or(excerpt.len(), |(at, _)| at);
    let wanted = (start + problem.span.len().max(1)).min(excerpt.len());
    let end = (wanted..=excerpt.len()).find(|end| excerpt.is_char_boundary(*end));
    start..end.unwrap_or(excerpt.len())
}

/// As GitHub asks for it: the ends of lines are escaped. Other control characters are shown.
fn value(text: &str) -> String {
    let line = |line: &str| clean::one_line(line).replace('%', "%25");
    let of_return = |part: &str| part.split('\r').map(line).collect::<Vec<_>>().join("%0D");
    let lines = text.split('\n').map(of_return);
    lines.collect::<Vec<_>>().join("%0A")
}

fn property(text: &str) -> String {
    value(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            severity: Severity::Error,
            file: "Kananafile".to_owned(),
            span: 40..46,
            line: 4,
            column: 15,
            excerpt: "kind = \"한국\" + \"fitler\"".to_owned(),
            message: "unknown kind `fitler`".to_owned(),
            help: "did you mean `filter`?".to_owned(),
        }
    }

    #[test]
    fn the_caret_is_below_what_is_meant() {
        let plain = anstream::adapter::strip_str(&render(&problem(), None)).to_string();
        insta::assert_snapshot!(plain, @r#"
        error: unknown kind `fitler`
         --> Kananafile:4:15
          |
        4 | kind = "한국" + "fitler"
          |                 ^^^^^^
          |
          = help: did you mean `filter`?
        "#);
    }

    #[test]
    fn a_span_of_several_lines_ends_with_its_first() {
        let long = Problem {
            span: 0..500,
            ..problem()
        };
        assert_eq!(span_in_excerpt(&long).end, long.excerpt.len());
        let nothing = Problem {
            column: 99,
            ..problem()
        };
        assert_eq!(
            span_in_excerpt(&nothing),
            nothing.excerpt.len()..nothing.excerpt.len()
        );
        assert!(
            render(
                &Problem {
                    line: 0,
                    ..problem()
                },
                Some(40)
            )
            .contains("fitler")
        );
    }

    #[test]
    fn github_needs_its_escapes() {
        let odd = Problem {
            message: "50% of\nit".to_owned(),
            file: "a:b".to_owned(),
            ..problem()
        };
        assert_eq!(
            github(&[odd]),
            "::error file=a%3Ab,line=4,col=15::50%25 of%0Ait%0Ahelp: did you mean `filter`?\n"
        );
    }
}
