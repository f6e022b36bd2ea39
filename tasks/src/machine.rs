//! What this machine offers to a build: processor, memory, cards, and what is missing.
//!
//! It looks and says; it decides nothing and starts no work.

use crate::model::cuda::libraries::{self, Needed, Presence};
use crate::model::cuda::{Card, cards, obstacle, version};

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, in one word.
    pub name: &'static str,
    pub found: Found,
    /// In words: what it is and where it comes from, or what is missing.
    pub text: String,
    /// What brings it; empty where nothing is missing.
    pub help: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Yes,
    No,
}

impl Finding {
    fn yes(name: &'static str, text: String) -> Self {
        Self {
            name,
            found: Found::Yes,
            text,
            help: String::new(),
        }
    }

    fn no(name: &'static str, text: String, help: &str) -> Self {
        Self {
            name,
            found: Found::No,
            text,
            help: help.to_owned(),
        }
    }
}

/// Everything, in the order in which one thing needs the one before it.
pub fn examine() -> Vec<Finding> {
    let mut findings = vec![processor(), memory()];
    findings.push(library("driver", &libraries::DRIVER, libraries::driver()));
    if libraries::driver().is_found() {
        findings.extend(visible_cards());
    }
    findings.push(library(
        "cublaslt",
        &libraries::CUBLASLT,
        libraries::cublaslt(),
    ));
    findings.push(device());
    findings
}

fn processor() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let instructions = kbuild_engine::build::instruction_set();
    Finding::yes("processor", format!("{threads} threads, {instructions}"))
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match kibibytes(&text, "MemTotal").zip(kibibytes(&text, "MemAvailable")) {
        Some((total, available)) => {
            let text = format!(
                "{} of {} available",
                gibibytes(available << 10),
                gibibytes(total << 10)
            );
            Finding::yes("memory", text)
        }
        None => Finding::yes("memory", "the system does not say".to_owned()),
    }
}

/// A line of `/proc/meminfo`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn library(name: &'static str, needed: &Needed, presence: &Presence) -> Finding {
    match presence {
        Presence::Found(from) => Finding::yes(name, from.clone()),
        Presence::Old { from, missing } => {
            let text = format!("{from} is too old: it lacks `{}`", missing.join("`, `"));
            Finding::no(name, text, needed.help)
        }
        Presence::Absent => {
            let text = format!("lib{} not found: {}", needed.name, needed.purpose);
            Finding::no(name, text, needed.help)
        }
    }
}

fn visible_cards() -> Vec<Finding> {
    let failed =
        |cause: String| Finding::no("card", cause, "`nvidia-smi` shows what the driver sees");
    let (major, minor) = match version() {
        Ok(version) => version,
        Err(cause) => return vec![failed(format!("the driver does not start: {cause}"))],
    };
    let mut findings = vec![Finding::yes(
        "cuda",
        format!("the driver supports CUDA {major}.{minor}"),
    )];
    match cards() {
        Err(cause) => findings.push(failed(cause)),
        Ok(cards) if cards.is_empty() => findings.push(failed("the driver shows none".to_owned())),
        Ok(cards) => findings.extend(cards.iter().map(card)),
    }
    findings
}

fn card(card: &Card) -> Finding {
    let (major, minor) = card.capability;
    let memory = gibibytes(card.memory_bytes as u64);
    let text = format!(
        "{}, {memory}, compute capability {major}.{minor}",
        card.name
    );
    Finding::yes("card", text)
}

/// What `device = "auto"` comes to.
fn device() -> Finding {
    match obstacle() {
        None => Finding::yes("device", "kernels can run on the first card".to_owned()),
        Some(obstacle) => {
            let text = format!("tasks run on the processor: {obstacle}");
            Finding::no("device", text, "")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_its_line() {
        let text = "MemTotal:       24543784 kB\nMemFree:          1 kB\nMemAvailable:    7 kB\n";
        assert_eq!(kibibytes(text, "MemTotal"), Some(24_543_784));
        assert_eq!(kibibytes(text, "MemAvailable"), Some(7));
        assert_eq!(kibibytes(text, "Mem"), None);
    }

    #[test]
    fn what_is_missing_comes_with_what_brings_it() {
        let absent = library("driver", &libraries::DRIVER, &Presence::Absent);
        assert_eq!(absent.found, Found::No);
        assert!(absent.text.contains("libcuda"), "{}", absent.text);
        assert!(
            absent.help.contains("install the NVIDIA driver"),
            "{}",
            absent.help
        );
        let old = Presence::Old {
            from: "libcuda.so.1".to_owned(),
            missing: vec!["cuLaunchKernel"],
        };
        let old = library("driver", &libraries::DRIVER, &old);
        assert!(old.text.contains("`cuLaunchKernel`"), "{}", old.text);
    }

    #[test]
    fn a_machine_with_nothing_is_examined_to_the_end() {
        let names: Vec<&str> = examine().iter().map(|finding| finding.name).collect();
        assert_eq!(names[..3], ["processor", "memory", "driver"]);
        assert_eq!(names.last(), Some(&"device"));
    }
}
