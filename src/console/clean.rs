//! Text of others, made harmless: for a terminal, which obeys control characters, and for the log of a CI run, which
//! obeys lines that look like commands.
//!
//! Names of files, notes and logs of tasks, words of models: all of it may hold such characters. They are shown as
//! `\u{1b}`, so that whoever reads them knows. Knows nothing of streams.

use std::borrow::Cow;

/// What ends a style.
const RESET: &str = "\x1b[0m";

/// Text for a place within a line: no character of it controls anything, and it stays on its line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    match is_plain(text, &[]) || !text.contains(is_harmful) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(shown(text, is_harmful)),
    }
}

/// Text of several lines: no character of it controls anything but the ends of lines and tabs.
pub fn lines(text: &str) -> Cow<'_, str> {
    let is_shown = |letter| is_harmful(letter) && !is_layout(letter);
    match is_plain(text, b"\n\t") || !text.contains(is_shown) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(shown(text, is_shown)),
    }
}

/// A cell of a table or the like, in which the program has set styles: they stay, nothing else does.
pub fn cell(text: &str) -> Cow<'_, str> {
    filtered(text, true, |_| false)
}

/// What the program has put together, before it is written. Styles end with their line; without `with_styles` none is
/// left.
pub fn composed(text: &str, with_styles: bool) -> Cow<'_, str> {
    filtered(text, with_styles, is_layout)
}

/// JSON that means the same and controls nothing, neither a terminal nor a CI run: its strings alone can hold what does.
pub fn json(text: &str) -> Cow<'_, str> {
    let is_shown = |letter| is_harmful(letter) && !is_layout(letter);
    let is_clean = is_plain(text, b"\n\t") || !text.contains(is_shown);
    if is_clean && !text.contains("##") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match is_shown(letter) {
            true => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => out.push(letter),
        }
    }
    let out = out.replace("##[", "#\\u0023[");
    Cow::Owned(out.replace("##vso[", "#\\u0023vso["))
}

/// True of text that a terminal or a CI run would obey.
pub fn is_odd(text: &str) -> bool {
    matches!(lines(text), Cow::Owned(_)) || without_commands(text) != text
}

/// Lines of which a CI run takes none for a command: GitHub obeys `::` after blanks, and `##[` wherever it stands; so
/// does Azure with `##vso[`.
pub fn without_commands(text: &str) -> Cow<'_, str> {
    if !text.contains("::") && !text.contains("##") {
        return Cow::Borrowed(text);
    }
    let harmless = |line: &str| {
        let line = line.replace("##[", "#\\u{23}[");
        let line = line.replace("##vso[", "#\\u{23}vso[");
        let words = line.trim_start();
        match words.strip_prefix("::") {
            Some(rest) => format!("{}\\u{{3a}}:{rest}", &line[..line.len() - words.len()]),
            None => line,
        }
    };
    Cow::Owned(text.split_inclusive('\n').map(harmless).collect())
}

/// Line by line with blanks before every line but the first, so that none passes for one of the program's own.
pub fn indented(text: &str) -> Cow<'_, str> {
    match text.contains('\n') {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.trim_end().replace('\n', "\n    ")),
    }
}

/// True of what a terminal obeys (C0, DEL, C1), of what reorders a line, and of what else ends one.
fn is_harmful(letter: char) -> bool {
    matches!(letter,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_layout(letter: char) -> bool {
    letter == '\n' || letter == '\t'
}

/// True of ASCII without control characters but these: most text is, and this is quick.
fn is_plain(text: &str, also: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') || also.contains(byte);
    let chunks = text.as_bytes().chunks(64);
    chunks
        .into_iter()
        .all(|chunk| chunk.iter().fold(true, |all, byte| all & is_plain(byte)))
}

fn shown(text: &str, is_shown: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match is_shown(letter) {
            true => out.extend(letter.escape_default()),
            false => out.push(letter),
        }
    }
    out
}

fn filtered(text: &str, with_styles: bool, stays: fn(char) -> bool) -> Cow<'_, str> {
    let also: &[u8] = if stays('\n') { b"\n\t" } else { b"" };
    let is_met = |letter| is_harmful(letter) && !stays(letter);
    if is_plain(text, also) || !text.contains(is_met) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut is_styled = false;
    let mut rest = text;
    while let Some(at) = rest.find(is_harmful) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = style(rest) {
            if with_styles {
                is_styled = &rest[..length] != RESET;
                out.push_str(&rest[..length]);
            }
            rest = &rest[length..];
            continue;
        }
        let mut letters = rest.chars();
        let Some(letter) = letters.next() else { break };
        if letter == '\n' && stays(letter) && std::mem::take(&mut is_styled) {
            out.push_str(RESET);
        }
        match stays(letter) {
            true => out.push(letter),
            false => out.extend(letter.escape_default()),
        }
        rest = letters.as_str();
    }
    out.push_str(rest);
    if is_styled {
        out.push_str(RESET);
    }
    Cow::Owned(out)
}

/// Bytes of the style that the text begins with, if it is one that the program sets itself. None of them hides text.
fn style(text: &str) -> Option<usize> {
    let codes = text.strip_prefix("\x1b[")?;
    let end = codes.find(|letter: char| !matches!(letter, '0'..='9' | ';'))?;
    let is_ours = |code: &str| {
        matches!(code, "0" | "1" | "2" | "4")
            || matches!(code.as_bytes(), [b'3' | b'9', b'1'..=b'6'])
    };
    let is_style = codes[end..].starts_with('m') && codes[..end].split(';').all(is_ours);
    is_style.then_some("\x1b[".len() + end + "m".len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cursor, title, colour that hides, C1, bell, backspace, return, override, delete.
    const HARMFUL: [(&str, &str); 9] = [
        ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
        ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
        ("\x1b[8mhidden\x1b[30m", "\\u{1b}[8mhidden\\u{1b}[30m"),
        ("\u{9b}2J", "\\u{9b}2J"),
        ("a\x08b", "a\\u{8}b"),
        ("done\rfailed", "done\\rfailed"),
        ("abc\u{202e}cba", "abc\\u{202e}cba"),
        ("a\u{2066}b\u{2028}c", "a\\u{2066}b\\u{2028}c"),
        ("\x7f", "\\u{7f}"),
    ];

    #[test]
    fn what_controls_a_terminal_is_shown() {
        for (text, clean) in HARMFUL {
            assert_eq!(one_line(text), clean);
            assert_eq!(lines(text), clean);
            assert_eq!(cell(text), clean);
            assert_eq!(composed(text, true), clean);
            assert_eq!(composed(text, false), clean);
        }
        assert_eq!(one_line("a\n\tb\x1b[1m"), "a\\n\\tb\\u{1b}[1m");
        assert_eq!(lines("a\n\tb\x1b[1m"), "a\n\tb\\u{1b}[1m");
    }

    #[test]
    fn what_is_harmless_is_not_touched() {
        for text in ["", "plain", "한국어 → ✓", "C:\\path", "e\u{301}"] {
            for clean in [
                one_line(text),
                lines(text),
                cell(text),
                composed(text, true),
                json(text),
            ] {
                assert!(
                    matches!(clean, Cow::Borrowed(same) if same == text),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn styles_of_the_program_stay_where_they_are_wanted_and_end_with_their_line() {
        let styled = "\x1b[1m\x1b[91mred\x1b[0m rest\n";
        assert_eq!(composed(styled, true), styled);
        assert_eq!(composed(styled, false), "red rest\n");
        assert_eq!(
            composed("\x1b[31mopen\nnext", true),
            "\x1b[31mopen\x1b[0m\nnext"
        );
        assert_eq!(cell("\x1b[1ma\nb\x1b[0m"), "\x1b[1ma\\nb\x1b[0m");
        assert_eq!(composed("\x1b[31", true), "\\u{1b}[31");
    }

    #[test]
    fn json_means_the_same_and_controls_nothing() {
        let value = serde_json::json!({ "a": "\u{9b}2J\u{202e}\x7f\n\x1b##[x", "b": [1] });
        for text in [value.to_string(), format!("{value:#}")] {
            let clean = json(&text);
            assert!(!clean.contains(|letter| is_harmful(letter) && !is_layout(letter)));
            assert!(!clean.contains("##["));
            let again: serde_json::Value = serde_json::from_str(&clean).unwrap();
            assert_eq!(again, value);
        }
    }

    #[test]
    fn no_line_is_a_command_of_a_ci_run() {
        let text = "ok\n::error::y\n  ::add-mask::z\na::b ##[group]x ##vso[y]\n";
        assert_eq!(
            without_commands(text),
            "ok\n\\u{3a}:error::y\n  \\u{3a}:add-mask::z\na::b #\\u{23}[group]x #\\u{23}vso[y]\n"
        );
        assert_eq!(without_commands("###[x"), "##\\u{23}[x");
    }

    #[test]
    fn lines_after_the_first_are_indented() {
        assert_eq!(indented("a\nb\n"), "a\n    b");
        assert_eq!(indented("a"), "a");
    }
}
