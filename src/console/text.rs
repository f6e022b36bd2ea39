//! Numbers and lines as people read them: durations, sizes, counts, columns of a terminal.
//!
//! Widths are of the display: a Hangul syllable takes two columns, a colour takes none.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `0.4s`, `12s`, `3m 05s`, `2h 07m`.
pub fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0 if elapsed.as_millis() < 100 => format!("{} ms", elapsed.as_millis()),
        0..10 => format!("{:.1}s", elapsed.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A count or rate in at most five characters: `950`, `12.3k`, `4.5M`, `2.1T`.
pub fn count(number: f64) -> String {
    const UNITS: [(f64, &str); 6] = [
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ];
    // A number that would round up to 1000 of one unit is written as 1.00 of the next.
    match UNITS.iter().find(|(size, _)| number.abs() >= size * 0.9995) {
        Some((size, unit)) => format!("{}{unit}", three_digits(number / size)),
        None if number.fract() == 0.0 => format!("{number}"),
        None => three_digits(number),
    }
}

/// A number of a table: whole ones as they are, others with six significant digits.
pub fn number(number: &serde_json::Number) -> String {
    let Some(value) = number
        .as_f64()
        .filter(|value| !number.is_i64() && value.fract() != 0.0)
    else {
        return number
            .as_f64()
            .filter(|_| number.is_f64())
            .map_or(number.to_string(), |value| format!("{value}"));
    };
    let exponent = value.abs().log10().floor();
    if !(-5.0..6.0).contains(&exponent) {
        return format!("{value:.5e}");
    }
    let decimals = (5.0 - exponent).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `12 B`, `3.4 kB`, `1.2 MB`: powers of a thousand.
pub fn bytes(size: u64) -> String {
    if size < 1000 {
        return format!("{size} B");
    }
    let short = count(size as f64);
    let (number, unit) = short.split_at(short.len() - 1);
    format!("{number} {unit}B")
}

/// `1 task`, `3 tasks`.
pub fn plural(n: usize, noun: &str) -> String {
    let end = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{end}")
}

/// The path as it is typed from the current directory, where it lies below it.
pub fn from_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}

/// Columns that a line takes.
pub fn width(line: &str) -> usize {
    console::measure_text_width(line)
}

/// The line, cut with `…` where the terminal ends; whole where there is no terminal.
pub fn fit(line: &str, columns: Option<usize>) -> Cow<'_, str> {
    match columns {
        Some(columns) => console::truncate_str(line, columns, "…"),
        None => Cow::Borrowed(line),
    }
}

/// The line with spaces up to `columns`.
pub fn pad(line: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(line));
    format!("{line}{}", " ".repeat(missing))
}

/// Rows as aligned columns, two spaces between them, the last one as wide as it likes.
pub fn table(rows: &[Vec<String>], columns: Option<usize>) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(|at| column_width(rows, at)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, w)| pad(cell, *w));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", fit(line.trim_end(), columns))
    };
    rows.iter().map(line).collect()
}

fn column_width(rows: &[Vec<String>], at: usize) -> usize {
    rows.iter()
        .filter_map(|row| row.get(at))
        .map(|cell| width(cell))
        .max()
        .unwrap_or(0)
}

fn three_digits(number: f64) -> String {
    match number.abs() {
        100.0.. => format!("{number:.0}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally() {
        let shown = |ms| duration(Duration::from_millis(ms));
        assert_eq!(shown(7), "7 ms");
        assert_eq!(shown(420), "0.4s");
        assert_eq!(shown(59_900), "59s");
        assert_eq!(shown(185_000), "3m 05s");
        assert_eq!(shown(7_620_000), "2h 07m");
    }

    #[test]
    fn counts_keep_three_digits() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(950.0), "950");
        assert_eq!(count(999.6), "1.00k");
        assert_eq!(count(12_345.0), "12.3k");
        assert_eq!(count(2.1e12), "2.10T");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_234_567), "1.23 MB");
    }

    #[test]
    fn numbers_keep_six_digits_and_sizes_are_read() {
        let shown = |value: serde_json::Value| value.as_number().map(number).unwrap();
        for (value, text) in [
            (serde_json::json!(2.123_456_789), "2.12346"),
            (serde_json::json!(0.000_25), "0.00025"),
            (serde_json::json!(3e-9), "3.00000e-9"),
            (serde_json::json!(17), "17"),
            (serde_json::json!(2.0), "2"),
            (serde_json::json!(123_456.5), "123456"),
        ] {
            assert_eq!(shown(value), text);
        }
    }

    #[test]
    fn hangul_takes_two_columns_and_colour_none() {
        assert_eq!(width("한글"), 4);
        assert_eq!(width("\u{1b}[31m한\u{1b}[0m"), 2);
        assert_eq!(fit("clean-한국어-문서", Some(11)), "clean-한국…");
        assert_eq!(fit("한국어", Some(4)), "한…");
        assert_eq!(fit("한국어", None), "한국어");
        let rows = [
            vec!["한".into(), "x".into()],
            vec!["abc".into(), "y".into()],
        ];
        assert_eq!(table(&rows, None), "한   x\nabc  y\n");
    }
}
