//! Problems: what is wrong in the user's file, where, and what to do about it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::Text;
use super::node::Span;
use crate::graph::Place;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is built.
    Error,
    /// Worth a look.
    Warning,
}

/// Something wrong in a Kananafile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Path of the file, relative to the folder of the root Kananafile.
    pub file: String,
    /// Bytes of the file that are meant.
    pub span: Range<usize>,
    /// Line and column (in characters) of the first byte, from 1; 0 when the problem has no place in a file.
    pub line: usize,
    pub column: usize,
    /// The text of that line, without its end.
    pub excerpt: String,
    pub message: String,
    /// A way out; may be empty.
    pub help: String,
}

impl Problem {
    /// An error about some bytes of `text`, the content of `file`.
    pub fn at(
        file: &str,
        text: &str,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let excerpt = text[line_start..].lines().next().unwrap_or_default();
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            excerpt: excerpt.to_owned(),
            span,
            message: message.into(),
            help: help.into(),
        }
    }

    /// The same problem with nothing of the file's text in it: the place alone. For a file outside the project.
    #[must_use]
    pub fn unquoted(self) -> Self {
        Self {
            excerpt: String::new(),
            message: "there is a mistake here, in a file outside the project".to_owned(),
            help: "look into the file: nothing of a file outside the project is shown".to_owned(),
            ..self
        }
    }
}

impl fmt::Display for Problem {
    /// One line, or two with the help: `Kananafile:3:8: unknown kind …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        match self.line {
            0 => write!(f, "{word}{}", self.message)?,
            line => write!(
                f,
                "{}:{line}:{}: {word}{}",
                self.file, self.column, self.message
            )?,
        }
        if self.help.is_empty() {
            return Ok(());
        }
        write!(f, "\n  help: {}", self.help)
    }
}

/// Collects problems while a Kananafile is read, and the texts that they point into.
#[derive(Debug, Default)]
pub struct Report {
    files: RefCell<Vec<(String, Text)>>,
    found: RefCell<Vec<Found>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    severity: Severity,
    span: Option<Span>,
    message: String,
    help: String,
}

impl Report {
    /// Adds a file; the number goes into its spans.
    pub fn add_file(&self, path: &str, text: &Text) -> u32 {
        let mut files = self.files.borrow_mut();
        files.push((path.to_owned(), text.clone()));
        u32::try_from(files.len() - 1).unwrap_or(u32::MAX)
    }

    /// Number of a file that was added.
    pub fn file_of(&self, path: &str) -> Option<u32> {
        let files = self.files.borrow();
        let index = files.iter().position(|(name, _)| name == path)?;
        u32::try_from(index).ok()
    }

    /// How many files were added.
    pub fn n_files(&self) -> usize {
        self.files.borrow().len()
    }

    /// Path of a file that was added.
    pub fn path_of(&self, file: u32) -> String {
        let files = self.files.borrow();
        files
            .get(file as usize)
            .map_or_else(String::new, |(path, _)| path.clone())
    }

    /// Whether what stands there is written as a string.
    pub fn is_quoted(&self, span: Span) -> bool {
        let files = self.files.borrow();
        let text = files.get(span.file as usize);
        let text = text.and_then(|(_, text)| text.text.get(span.start as usize..));
        text.is_some_and(|text| text.starts_with(['"', '\'']))
    }

    pub fn place(&self, span: Span) -> Place {
        Place {
            file: self.path_of(span.file),
            span: span.start as usize..span.end as usize,
        }
    }

    pub fn error(&self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, Some(span), message.into(), help.into());
    }

    /// An error that has no place in a file.
    pub fn error_nowhere(&self, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, None, message.into(), help.into());
    }

    pub fn warning(&self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, Some(span), message.into(), help.into());
    }

    pub fn has_errors(&self) -> bool {
        self.count() > 0
    }

    /// Number of errors so far.
    pub fn count(&self) -> usize {
        let found = self.found.borrow();
        found
            .iter()
            .filter(|found| found.severity == Severity::Error)
            .count()
    }

    /// Everything that was found, in the order of the files, each problem once.
    pub fn finish(&self) -> Vec<Problem> {
        let mut found = self.found.take();
        found.sort_by_key(|found| found.span);
        found.dedup();
        found.into_iter().map(|found| self.problem(found)).collect()
    }

    fn push(&self, severity: Severity, span: Option<Span>, message: String, help: String) {
        self.found.borrow_mut().push(Found {
            severity,
            span,
            message,
            help,
        });
    }

    fn problem(&self, found: Found) -> Problem {
        let files = self.files.borrow();
        let none = (String::new(), Text::default());
        let file = found.span.and_then(|span| files.get(span.file as usize));
        let (path, text) = file.unwrap_or(&none);
        let (start, end) = found
            .span
            .map_or((0, 0), |span| (span.start as usize, span.end as usize));
        let (line, column, excerpt) = locate(&text.text, start);
        let problem = Problem {
            severity: found.severity,
            file: path.clone(),
            span: start..end,
            line: if file.is_some() { line } else { 0 },
            column: if file.is_some() { column } else { 0 },
            excerpt: excerpt.to_owned(),
            message: found.message,
            help: found.help,
        };
        match text.is_outside {
            true => problem.unquoted(),
            false => problem,
        }
    }
}

/// Line and column from 1, and the text of the line.
fn locate(text: &str, byte: usize) -> (usize, usize, &str) {
    let before = text.get(..byte).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before[start..].chars().count() + 1;
    let excerpt = text[start..].lines().next().unwrap_or("");
    (line, column, excerpt)
}

/// ``did you mean `x`?``, or else what there is.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = candidates.into_iter().collect();
    if let Some(close) = suggest(word, all.iter().copied()) {
        return format!("did you mean `{close}`?");
    }
    match all.len() {
        0 => String::new(),
        1..=12 => format!("there is {}", super::node::listed(all)),
        n => format!("there are {n} to choose from"),
    }
}

/// The candidate that is most like `word`, if one is like it at all.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let letters = word.chars().count();
    candidates
        .into_iter()
        // More letters than may differ: no need to look at them.
        .filter(|candidate| {
            let others = candidate.chars().count();
            letters.abs_diff(others) <= (letters.max(others) + 1) / 3 || candidate.starts_with(word)
        })
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            let longest = word.chars().count().max(candidate.chars().count());
            *distance <= (longest + 1) / 3 || candidate.starts_with(word)
        })
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}
