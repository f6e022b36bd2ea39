//! Why a task must run, in sentences: what differs, part by part, and the chain up to what began it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use kbuild_engine::explain::{Comparison, Difference, Explanation, Link, PartsDifference};
use kbuild_engine::plan::Reason;
use kbuild_engine::receipt::Receipt;

use super::plan::{blocker, reason};
use super::{BOLD, DIM, clean, styled, text};

/// Parts and tasks that are named; `--json` names all.
const NAMED: usize = 5;
/// Differences of one comparison, and tasks that began it, that are shown.
const SHOWN: usize = 12;

/// The answer. `receipt` is what an up-to-date task gave.
pub fn render(why: &Explanation, receipt: Option<&Receipt>) -> String {
    let name = styled(BOLD, &why.task);
    let mut out = match (why.status, why.key) {
        ("hit", Some(key)) => format!("{name} is up to date: key {}", key.short()),
        (_, Some(key)) => format!("{name} must run: key {}", key.short()),
        ("blocked", None) => format!("{name} cannot run"),
        _ => format!("{name} may have to run: its key depends on tasks that must run first"),
    };
    if let Some(receipt) = receipt {
        out += &made(receipt);
    }
    if why.dropped && why.status == "hit" {
        out += "; its content was dropped";
    }
    out.push('\n');
    why.blockers
        .iter()
        .for_each(|each| out += &bullet(&blocker(each)));
    own(why, &mut out);
    if let Some(parts) = &why.parts {
        let counts = of(parts.missing.len(), parts.total, "part");
        let _ = match parts.missing.as_slice() {
            [] => writeln!(
                out,
                "  every part is there ({}): they are only put together again",
                parts.total
            ),
            missing => writeln!(out, "  {counts} must run: {}", list(missing)),
        };
    }
    if let Some(nearest) = &why.nearest {
        out += &compared(&format!("nearest result: {}", whose(nearest)), nearest);
    }
    out += &because(&why.chain, &why.task);
    out
}

fn made(receipt: &Receipt) -> String {
    let elapsed = text::duration(Duration::from_millis(receipt.elapsed_ms));
    let accepted = receipt.accepted.as_ref().map(|accepted| {
        let (from, reason) = (accepted.from.short(), clean::one_line(&accepted.reason));
        format!("\n  its result was accepted from key {from}: {reason}")
    });
    format!(", made in {elapsed}{}", accepted.unwrap_or_default())
}

/// What differs from the last build of the task itself.
fn own(why: &Explanation, out: &mut String) {
    match (&why.last, why.status) {
        (Some(last), "hit") => {
            *out += &compared(
                &format!("differs from its last build ({})", when(last)),
                last,
            );
        }
        (Some(last), _) if last.differences.is_empty() => {
            let when = when(last);
            let _ = writeln!(
                out,
                "  since its last build ({when}) nothing of its own changed"
            );
        }
        (Some(last), _) => {
            *out += &compared(&format!("since its last build ({})", when(last)), last)
        }
        (None, "miss") => why
            .reasons
            .iter()
            .for_each(|each| *out += &bullet(&reason(each))),
        (None, "unknown") => *out += &bullet("never built"),
        _ => {}
    }
}

fn compared(head: &str, comparison: &Comparison) -> String {
    let mut out = format!("  {}:\n", clean::one_line(head));
    let all = &comparison.differences;
    for each in all.iter().take(SHOWN) {
        out += &bullet(&difference(each));
    }
    match all.len().saturating_sub(SHOWN) {
        0 => {}
        more => out += &bullet(&format!("and {more} more; `--json` has all")),
    }
    if all.is_empty() {
        out += &bullet("nothing differs");
    }
    out
}

fn whose(comparison: &Comparison) -> String {
    format!("`{}`, {}, differs in", comparison.task, when(comparison))
}

fn when(comparison: &Comparison) -> String {
    let key = format!("key {}", comparison.key.short());
    match comparison.age_ms {
        Some(ms) => format!("{key}, {} ago", text::duration(Duration::from_millis(ms))),
        None => key,
    }
}

/// One difference as a sentence: `input documents (data/*.txt): 2 of 412 parts changed: a.txt, b.txt`.
fn difference(difference: &Difference) -> String {
    let Some(parts) = &difference.parts else {
        return reason(&difference.reason);
    };
    match &difference.reason {
        Reason::InputChanged {
            port, index, label, ..
        } => {
            let label = if label.is_empty() {
                String::new()
            } else {
                format!(" ({label})")
            };
            format!("input `{port}[{index}]`{label}: {}", changes(parts))
        }
        Reason::InputsRearranged { port } => format!("input `{port}`: {}", changes(parts)),
        other => reason(other),
    }
}

fn changes(parts: &PartsDifference) -> String {
    let total = parts.after;
    let said = [
        (&parts.changed, "changed"),
        (&parts.added, "added"),
        (&parts.dropped, "dropped"),
    ];
    let said: Vec<String> = said
        .iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, verb)| match *verb {
            "dropped" => format!(
                "{} dropped: {}",
                text::plural(names.len(), "part"),
                list(names)
            ),
            verb => format!("{} {verb}: {}", of(names.len(), total, "part"), list(names)),
        })
        .collect();
    match said.is_empty() {
        true => format!("the same {}, in another order", text::plural(total, "part")),
        false => said.join("; "),
    }
}

/// What began it: each root with its reasons, and the way from it to the task.
fn because(chain: &[Link], task: &str) -> String {
    let roots: Vec<&Link> = chain.iter().filter(|link| link.is_root).collect();
    if roots.is_empty() {
        return String::new();
    }
    let mut out = "because\n".to_owned();
    let (new, changed): (Vec<&Link>, Vec<&Link>) = roots.iter().partition(|link| link.never_built);
    for link in changed.iter().take(SHOWN) {
        let _ = writeln!(out, "  {} {}", styled(BOLD, &link.task), verdict(link));
        for each in link.differences.iter().take(SHOWN) {
            out += &format!("  {}", bullet(&difference(each)));
        }
        for each in &link.blockers {
            out += &format!("  {}", bullet(&blocker(each)));
        }
        out += &format!("    {}\n", styled(DIM, way(chain, link, task)));
    }
    if let Some(more) = changed.get(SHOWN..).filter(|more| !more.is_empty()) {
        let names: Vec<String> = more.iter().map(|link| link.task.clone()).collect();
        let _ = writeln!(out, "  and likewise: {}", list(&names));
    }
    if !new.is_empty() {
        let names: Vec<String> = new.iter().map(|link| link.task.clone()).collect();
        let _ = writeln!(out, "  never built: {}", list(&names));
    }
    out
}

fn verdict(link: &Link) -> &'static str {
    match link.status {
        "hit" if link.differences.is_empty() => "gave another result than it had given before",
        "hit" => "was built anew",
        "blocked" => "cannot run",
        "unknown" => "may have to run",
        _ => "must run",
    }
}

/// `clean-en → tokenizer → tokens-en`
fn way(chain: &[Link], root: &Link, task: &str) -> String {
    let below: BTreeMap<&str, &str> = chain
        .iter()
        .map(|link| (link.task.as_str(), link.leads_to.as_str()))
        .collect();
    let mut way = vec![root.task.as_str()];
    let mut at = root.task.as_str();
    while let Some(next) = below.get(at) {
        way.push(next);
        at = next;
    }
    debug_assert_eq!(way.last(), Some(&task), "every link leads to the task");
    way.join(" → ")
}

/// `2 of 412 parts`
fn of(n: usize, total: usize, noun: &str) -> String {
    format!("{n} of {}", text::plural(total, noun))
}

fn list(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    let shown = clean::one_line(&shown);
    match names.len().saturating_sub(NAMED) {
        0 => shown.into_owned(),
        more => format!("{shown} and {more} more"),
    }
}

fn bullet(text: &str) -> String {
    format!("  - {}\n", clean::one_line(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kbuild_engine::digest::Digest;
    use serde_json::json;

    fn param(path: &str) -> Difference {
        Difference {
            reason: Reason::ParamChanged {
                path: path.to_owned(),
                old: Some(json!(1)),
                new: Some(json!(2)),
            },
            parts: None,
        }
    }

    fn input() -> Difference {
        Difference {
            reason: Reason::InputChanged {
                port: "documents".to_owned(),
                index: 0,
                label: "data/*.txt".to_owned(),
                old: Some(Digest::of(b"1")),
                new: Some(Digest::of(b"2")),
            },
            parts: Some(PartsDifference {
                before: 412,
                after: 412,
                changed: ["a.txt", "b.txt"].map(str::to_owned).to_vec(),
                ..PartsDifference::default()
            }),
        }
    }

    fn link(task: &str, leads_to: &str, is_root: bool) -> Link {
        Link {
            task: task.to_owned(),
            status: if is_root { "miss" } else { "unknown" },
            leads_to: leads_to.to_owned(),
            differences: if is_root { vec![input()] } else { Vec::new() },
            never_built: false,
            blockers: Vec::new(),
            is_root,
        }
    }

    #[test]
    fn the_answer_goes_from_the_task_to_the_source() {
        let why = Explanation {
            task: "tokens".to_owned(),
            status: "unknown",
            key: None,
            manifest: None,
            dropped: false,
            reasons: Vec::new(),
            blockers: Vec::new(),
            parts: None,
            last: Some(Comparison {
                key: Digest::of(b"old"),
                task: "tokens".to_owned(),
                age_ms: Some(90_000),
                differences: vec![param("mixture[1]")],
            }),
            nearest: None,
            chain: vec![
                link("tokenizer", "tokens", false),
                link("clean", "tokenizer", true),
            ],
        };
        let shown = anstream::adapter::strip_str(&render(&why, None)).to_string();
        insta::assert_snapshot!(shown, @r"
        tokens may have to run: its key depends on tasks that must run first
          since its last build (key 96a4257289, 1m 30s ago):
          - param `mixture[1]` 1 → 2
        because
          clean must run
            - input `documents[0]` (data/*.txt): 2 of 412 parts changed: a.txt, b.txt
            clean → tokenizer → tokens
        ");
    }
}
