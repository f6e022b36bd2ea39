//! Numbers and lines as people read them: durations, sizes, counts, columns of a terminal.
//!
//! Widths are of the display: a Hangul syllable takes two columns, a colour takes none.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clean;

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
    let number = number + 0.0; // A sum of nothing is -0.
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
            .map_or(number.to_string(), |value| format!("{}", value + 0.0));
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
    width_of_ascii(line).unwrap_or_else(|| console::measure_text_width(line))
}

/// The same of plain letters and colours, which most of a long table is: a count.
fn width_of_ascii(line: &str) -> Option<usize> {
    let mut columns = 0;
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            0x1b if bytes.next() == Some(b'[') => {
                bytes.by_ref().find(u8::is_ascii_alphabetic)?;
            }
            b' '..=b'~' => columns += 1,
            _ => return None,
        }
    }
    Some(columns)
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
///
/// A cell stays on its line whatever it holds.
pub fn table(rows: &[Vec<String>], columns: Option<usize>) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| clean::cell(cell)).collect())
        .collect();
    let widths: Vec<Vec<usize>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| width(cell)).collect())
        .collect();
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |at: usize| widths.iter().filter_map(|row| row.get(at)).max();
    let widest: Vec<usize> = (0..n_columns)
        .map(|at| widest(at).copied().unwrap_or(0))
        .collect();
    let mut table = String::new();
    let mut line = String::new();
    for (row, widths) in rows.iter().zip(&widths) {
        line.clear();
        let mut missing = 0;
        for (at, cell) in row.iter().enumerate() {
            line.extend(std::iter::repeat_n(' ', missing));
            line.push_str(cell);
            missing = widest[at] - widths[at] + 2;
        }
        table.push_str(&fit(line.trim_end(), columns));
        table.push('\n');
    }
    table
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
    fn colours_take_no_columns_and_a_syllable_takes_two() {
        for (line, columns) in [
            ("", 0),
            ("plain", 5),
            ("\u{1b}[1m\u{1b}[32mrun\u{1b}[0m it", 6),
            ("\u{1b}[1m카나나\u{1b}[0m", 6),
        ] {
            assert_eq!(width(line), columns, "{line:?}");
            let known = width_of_ascii(line).unwrap_or(columns);
            assert_eq!(known, columns, "{line:?}");
        }
    }

    #[test]
    fn columns_are_aligned_and_the_last_is_not_filled_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["run", "a", "it"]), row(["hit", "long", "because"])];
        assert_eq!(table(&rows, None), "run  a     it\nhit  long  because\n");
        assert_eq!(table(&rows, Some(13)), "run  a     it\nhit  long  b…\n");
    }

    #[test]
    fn counts_keep_three_digits() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(-0.0), "0");
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
            (serde_json::json!(-0.0), "0"),
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
