//! Problems: what is wrong in the user's file, where, and what to do about it.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

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

/// The candidate that is most like `word`, if one is like it at all.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            let longest = word.chars().count().max(candidate.chars().count());
            *distance <= (longest / 3).max(1) || candidate.starts_with(word)
        })
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}
