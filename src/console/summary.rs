//! The last lines of a build: what was done, where the model is, how it did, how to talk to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kbuild_engine::event::Totals;
use serde::{Deserialize, Serialize};

use super::{BOLD, CYAN, GREEN, RED, YELLOW, clean, styled, text};
use crate::page::html::{Item, Tone};

/// What there is to tell beyond the numbers of tasks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Directory of the model, if the goals made one.
    pub model: Option<PathBuf>,
    /// The command that talks to it; none for a model without a chat template.
    pub chat: Option<String>,
    /// The page of the report, if the goals have one.
    pub page: Option<PathBuf>,
    pub headline: Vec<Item>,
}

/// One line: `built 3 tasks, 58 up to date, in 2m 05s`.
pub fn totals(totals: &Totals) -> String {
    let counts = [
        (totals.built, "built", GREEN),
        (totals.failed, "failed", RED),
        (totals.held, "held", YELLOW),
        (totals.blocked, "blocked", RED),
        (totals.skipped, "skipped", YELLOW),
        (totals.cancelled, "stopped", YELLOW),
        (totals.hits, "up to date", anstyle::Style::new()),
    ];
    let words: Vec<String> = counts
        .iter()
        .filter(|(n, _, _)| *n > 0)
        .map(|(n, word, style)| styled(*style, format!("{n} {word}")))
        .collect();
    let words = if words.is_empty() {
        "nothing to build".to_owned()
    } else {
        words.join(", ")
    };
    format!(
        "{words}, in {}",
        text::duration(Duration::from_millis(totals.elapsed_ms))
    )
}

/// Where the results are, one line each.
pub fn results(results: &Results) -> String {
    let mut lines = Vec::new();
    let mut line = |word: &str, rest: String| {
        lines.push(format!("  {}  {rest}", styled(BOLD, text::pad(word, 7))))
    };
    if let Some(model) = &results.model {
        line("model", shown(model));
    }
    if let Some(page) = &results.page {
        line("report", shown(page));
    }
    let items: Vec<String> = results.headline.iter().map(item).collect();
    for pair in items.chunks(2) {
        line("", pair.join(" · "));
    }
    if let Some(chat) = &results.chat {
        line("talk", styled(CYAN, chat));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn shown(path: &Path) -> String {
    clean::one_line(&path.display().to_string()).into_owned()
}

fn item(item: &Item) -> String {
    let style = match item.tone {
        Tone::Plain => anstyle::Style::new(),
        Tone::Good => GREEN,
        Tone::Bad => RED,
    };
    format!(
        "{}: {}",
        clean::one_line(&item.label),
        styled(style, &item.value)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_what_happened_and_nothing_else() {
        let done = Totals {
            hits: 58,
            built: 3,
            elapsed_ms: 125_000,
            ..Totals::default()
        };
        let shown = anstream::adapter::strip_str(&totals(&done)).to_string();
        assert_eq!(shown, "3 built, 58 up to date, in 2m 05s");
        let none = Totals {
            elapsed_ms: 5,
            ..Totals::default()
        };
        assert_eq!(totals(&none), "nothing to build, in 5 ms");
    }
}
