//! Run settings: `run = { device = "auto", slots = { gpu = 1 }, threads = 2, recompute = true, timeout = "6h",
//! attempts = 2 }`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::node::{Node, Val};
use super::problem::{Report, did_you_mean};
use super::schema::{fields, flag, table, text};
use crate::graph::{Device, RunSettings};

const KEYS: [&str; 6] = [
    "device",
    "slots",
    "threads",
    "recompute",
    "timeout",
    "attempts",
];

/// More threads than any machine that a task runs on has.
const MOST_THREADS: u32 = 4096;

/// The settings of a `run` table; what is wrong is reported and left at its default.
pub fn read(node: &Node, report: &Report) -> RunSettings {
    let fields = fields(node, &KEYS, "`run`", report);
    let field = |name: &str| fields.get(name).copied();
    let number =
        |name: &str, most| field(name).and_then(|node| count(node, name, 1..=most, report));
    RunSettings {
        device: field("device").map_or(Device::Auto, |node| device(node, report)),
        slots: field("slots").map_or_else(BTreeMap::new, |node| slots(node, report)),
        threads: number("threads", MOST_THREADS),
        recompute: field("recompute").is_some_and(|node| flag(node, "`recompute`", report)),
        timeout: field("timeout").and_then(|node| timeout(node, report)),
        attempts: number("attempts", u32::MAX).unwrap_or(1),
    }
}

fn device(node: &Node, report: &Report) -> Device {
    match text(node, "`device`", report) {
        None | Some("auto") => Device::Auto,
        Some("cpu") => Device::Cpu,
        Some("gpu") => Device::Gpu,
        Some(word) => {
            let help = did_you_mean(word, ["auto", "cpu", "gpu"]);
            report.error(node.span, format!("unknown device `{word}`"), help);
            Device::Auto
        }
    }
}

fn slots(node: &Node, report: &Report) -> BTreeMap<String, u32> {
    let entries = table(node, "`slots`", report).unwrap_or_default();
    entries
        .iter()
        .filter_map(|(key, node)| {
            Some((
                key.name.clone(),
                count(node, &key.name, 0..=u32::MAX, report)?,
            ))
        })
        .collect()
}

fn count(node: &Node, name: &str, range: RangeInclusive<u32>, report: &Report) -> Option<u32> {
    let number = match node.value {
        Val::Int(number) => u32::try_from(number).ok().filter(|n| range.contains(n)),
        Val::Broken => return None,
        _ => None,
    };
    if number.is_none() {
        let is_large = matches!(node.value, Val::Int(number) if number > 0);
        let range = match is_large {
            true => format!("from {} to {}", range.start(), range.end()),
            false => format!("of at least {}", range.start()),
        };
        let message = format!("`{name}` must be an integer {range}");
        report.error(node.span, message, "");
    }
    number
}

fn timeout(node: &Node, report: &Report) -> Option<Duration> {
    let time = match &node.value {
        Val::Int(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Val::Text(text) => duration(text),
        Val::Broken => return None,
        _ => None,
    };
    let time = time.filter(|time| !time.is_zero());
    if time.is_none() {
        let help = "write a time such as `\"90s\"`, `\"15m\"`, `\"6h\"`, `\"1h30m\"` or `\"2d\"`";
        report.error(node.span, "`timeout` is not a time", help);
    }
    time
}

/// `1h30m` as a time.
pub fn duration(text: &str) -> Option<Duration> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(end);
        let factor = match unit.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        seconds = seconds.checked_add(number.checked_mul(factor)?)?;
        rest = &unit[1..];
    }
    Some(Duration::from_secs(seconds))
}

/// `512GiB`, `10 GB` or `500M` in bytes.
pub fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = match unit.trim_end_matches('b') {
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1048576.0,
        "gi" => 1073741824.0,
        "ti" => 1099511627776.0,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Some((number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("16GB"), Some(16_000_000_000));
        assert_eq!(size("500M"), Some(500_000_000));
        assert_eq!(size("1.5 GiB"), Some(1_610_612_736));
        for wrong in ["", "16", "-1GB", "GB", "3 parsecs", "1.2.3GB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_sums_of_units() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(duration("2d"), Some(Duration::from_secs(172_800)));
        assert_eq!(duration("6"), None);
        assert_eq!(duration("h"), None);
        assert_eq!(duration("99999999999999999999d"), None);
    }
}
