//! The plan as a table, one line a task, and as JSON; a reason as a sentence.

use kbuild_engine::digest::Digest;
use kbuild_engine::graph::{Graph, Task, TaskId};
use kbuild_engine::plan::{Blocker, Plan, Reason, Status};
use serde_json::{Value, json};

use super::{BOLD, DIM, GREEN, RED, YELLOW, clean, styled, text};

/// How many of the tasks that come first are named.
const NAMED: usize = 4;
/// Reasons that are told in one line.
const TOLD: usize = 2;
/// Columns below which a table leaves something out.
const NARROW: usize = 80;

/// How many tasks of a plan have each status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub hits: usize,
    pub misses: usize,
    pub unknown: usize,
    pub blocked: usize,
}

impl Counts {
    pub fn of(plan: &Plan) -> Self {
        let mut counts = Self::default();
        for (_, status) in &plan.tasks {
            match status {
                Status::Hit(_) | Status::Dropped(_) => counts.hits += 1,
                Status::Miss(_) => counts.misses += 1,
                Status::Unknown(_) => counts.unknown += 1,
                Status::Blocked(_) => counts.blocked += 1,
            }
        }
        counts
    }

    pub fn total(&self) -> usize {
        self.hits + self.misses + self.unknown + self.blocked
    }

    /// True when a build would run something, or could not.
    pub fn is_pending(&self) -> bool {
        self.hits < self.total()
    }
}

/// One line a task, in the order in which they could run, and a line that counts.
pub fn table(graph: &Graph, plan: &Plan, columns: Option<usize>) -> String {
    // Where there is little room, the reason says more than the kind.
    let is_narrow = columns.is_some_and(|columns| columns < NARROW);
    let rows: Vec<Vec<String>> = plan
        .tasks
        .iter()
        .map(|(id, status)| {
            let task = graph.task(*id);
            let (word, style) = word(status);
            let mut row = vec![
                styled(style, word),
                styled(BOLD, &task.name),
                styled(DIM, &task.kind),
                detail(graph, task, status),
            ];
            if is_narrow {
                row.remove(2);
            }
            row
        })
        .collect();
    format!(
        "{}{}\n",
        text::table(&rows, columns),
        count_line(&Counts::of(plan))
    )
}

/// `12 tasks: 3 to run, 9 up to date`.
pub fn count_line(counts: &Counts) -> String {
    if !counts.is_pending() {
        return format!("nothing to do: {} up to date", are(counts.total()));
    }
    let parts = [
        (counts.misses, "to run"),
        (counts.unknown, "known later"),
        (counts.blocked, "blocked"),
        (counts.hits, "up to date"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
    format!(
        "{}: {}",
        text::plural(counts.total(), "task"),
        parts.join(", ")
    )
}

/// The plan as one JSON value.
pub fn to_json(graph: &Graph, plan: &Plan) -> Value {
    let tasks: Vec<Value> = plan
        .tasks
        .iter()
        .map(|(id, status)| task_json(graph, *id, status))
        .collect();
    let counts = Counts::of(plan);
    json!({
        "tasks": tasks,
        "hits": counts.hits,
        "misses": counts.misses,
        "unknown": counts.unknown,
        "blocked": counts.blocked,
    })
}

/// A reason in a few words, for the end of a line.
pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::NeverBuilt => "never built".to_owned(),
        Reason::NoReceipt => "its result is not in the store".to_owned(),
        Reason::KindChanged { old, new } => format!("kind {old} → {new}"),
        Reason::VersionChanged { old, new } => format!("the kind's version {old} → {new}"),
        Reason::ParamChanged { path, old, new } => {
            format!(
                "param `{path}` {} → {}",
                optional(old.as_ref()),
                optional(new.as_ref())
            )
        }
        Reason::InputChanged {
            port,
            index,
            label,
            old,
            new,
        } => {
            format!(
                "input `{port}[{index}]` ({label}) {} → {}",
                digest(old.as_ref()),
                digest(new.as_ref())
            )
        }
        Reason::InputsRearranged { port } => format!("input `{port}`: other order or labels"),
        Reason::ProgramChanged { file, old, new } => {
            format!(
                "program file `{file}` {} → {}",
                digest(old.as_ref()),
                digest(new.as_ref())
            )
        }
        Reason::ArgumentsChanged { old, new } => {
            format!("arguments `{}` → `{}`", old.join(" "), new.join(" "))
        }
        Reason::EnvironmentChanged { name, old, new } => {
            format!(
                "environment `{name}` {} → {}",
                text_or_none(old.as_ref()),
                text_or_none(new.as_ref())
            )
        }
        Reason::Unusable { detail } => format!("its receipt cannot be used: {detail}"),
        Reason::Dropped { needed_by } => dropped(needed_by),
    }
}

fn dropped(needed_by: &[String]) -> String {
    let names: Vec<String> = needed_by
        .iter()
        .take(NAMED)
        .map(|name| format!("`{name}`"))
        .collect();
    match (needed_by, needed_by.len().saturating_sub(NAMED)) {
        ([], _) => "its content was dropped, and it is asked for".to_owned(),
        ([only], _) => format!("its content was dropped, and `{only}` needs it"),
        (_, 0) => format!("its content was dropped, and {} need it", names.join(", ")),
        (_, more) => format!(
            "its content was dropped, and {} and {more} more need it",
            names.join(", ")
        ),
    }
}

/// Reasons in one line: the first of them, and how many more there are. Inputs of one port are one reason.
pub fn in_one_line(reasons: &[Reason]) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut rest = reasons;
    while let Some(first) = rest.first() {
        let same = rest
            .iter()
            .take_while(|each| port(each).is_some() && port(each) == port(first));
        let n = same.count().max(1);
        told.push(match (n, port(first)) {
            (2.., Some(port)) => format!("input `{port}`: {n} artifacts changed"),
            _ => reason(first),
        });
        rest = &rest[n..];
    }
    match told.len().saturating_sub(TOLD) {
        0 => told.join("; "),
        more => format!("{}; and {more} more", told[..TOLD].join("; ")),
    }
}

fn port(reason: &Reason) -> Option<&str> {
    match reason {
        Reason::InputChanged { port, .. } => Some(port),
        _ => None,
    }
}

/// What stands in the way, in a few words.
pub fn blocker(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Source { detail, .. } => format!("source {detail}"),
        Blocker::ProgramFile { detail, .. } => format!("program file {detail}"),
        Blocker::Misaligned { ports } => {
            let counts: Vec<String> = ports
                .iter()
                .map(|(port, n)| format!("`{port}` has {}", text::plural(*n, "part")))
                .collect();
            format!("mapped inputs do not align: {}", counts.join(", "))
        }
    }
}

fn word(status: &Status) -> (&'static str, anstyle::Style) {
    match status {
        Status::Hit(_) | Status::Dropped(_) => ("hit", GREEN),
        Status::Miss(_) => ("miss", YELLOW),
        Status::Unknown(_) => ("unknown", DIM),
        Status::Blocked(_) => ("blocked", RED),
    }
}

/// Why, in a line.
pub fn detail(graph: &Graph, task: &Task, status: &Status) -> String {
    let held = if may_be_held(task, status) {
        "protected; "
    } else {
        ""
    };
    let reasons = reasons(graph, status);
    match held {
        "" => clean::one_line(&reasons).into_owned(),
        held => format!("{held}{}", clean::one_line(&reasons)),
    }
}

/// A protected task that was built before, and that a build would have to make again or might.
fn may_be_held(task: &Task, status: &Status) -> bool {
    task.protect
        && match status {
            Status::Miss(work) => work.reasons != [Reason::NeverBuilt],
            Status::Unknown(_) => true,
            Status::Hit(_) | Status::Dropped(_) | Status::Blocked(_) => false,
        }
}

fn reasons(graph: &Graph, status: &Status) -> String {
    match status {
        Status::Hit(_) => String::new(),
        Status::Dropped(_) => "its content was dropped".to_owned(),
        Status::Miss(work) => {
            let parts = work
                .parts
                .as_ref()
                .map(|parts| match parts.missing().len() {
                    0 => format!("every part is there ({}): ", parts.total()),
                    n => format!("{n} of {}: ", text::plural(parts.total(), "part")),
                });
            parts.unwrap_or_default() + &in_one_line(&work.reasons)
        }
        Status::Unknown(before) => {
            let name = |id: &TaskId| graph.task(*id).name.as_str();
            let first: Vec<&str> = before.iter().take(NAMED).map(name).collect();
            let more = match before.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("after {}{more}", first.join(", "))
        }
        Status::Blocked(blockers) => blockers.iter().map(blocker).collect::<Vec<_>>().join("; "),
    }
}

fn task_json(graph: &Graph, id: TaskId, status: &Status) -> Value {
    let task = graph.task(id);
    let mut row = json!({ "task": task.name, "kind": task.kind, "status": word(status).0, "protected": task.protect });
    match status {
        Status::Hit(receipt) => row["key"] = json!(receipt.key),
        Status::Dropped(receipt) => {
            row["key"] = json!(receipt.key);
            row["dropped"] = json!(true);
        }
        Status::Miss(work) => {
            row["key"] = json!(work.key);
            row["reasons"] = json!(work.reasons);
            if let Some(parts) = &work.parts {
                row["parts"] = json!({ "total": parts.total(), "missing": parts.missing().len() });
            }
        }
        Status::Unknown(before) => {
            let names: Vec<&str> = before
                .iter()
                .map(|id| graph.task(*id).name.as_str())
                .collect();
            row["after"] = json!(names);
        }
        Status::Blocked(blockers) => row["blockers"] = json!(blockers),
    }
    row
}

fn optional(value: Option<&Value>) -> String {
    value.map_or("(none)".to_owned(), Value::to_string)
}

fn digest(value: Option<&Digest>) -> String {
    value.map_or("(none)".to_owned(), |digest| digest.short())
}

fn text_or_none(value: Option<&String>) -> &str {
    value.map_or("(not set)", String::as_str)
}

fn are(n: usize) -> String {
    let verb = if n == 1 { "is" } else { "are" };
    format!("{} {verb}", text::plural(n, "task"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_show_old_and_new() {
        let changed = Reason::ParamChanged {
            path: "beta".to_owned(),
            old: Some(json!(0.1)),
            new: Some(json!(0.2)),
        };
        assert_eq!(reason(&changed), "param `beta` 0.1 → 0.2");
        let added = Reason::InputChanged {
            port: "tokens".to_owned(),
            index: 1,
            label: "tok-ko".to_owned(),
            old: None,
            new: Some(Digest::of(b"x")),
        };
        assert_eq!(
            reason(&added),
            format!(
                "input `tokens[1]` (tok-ko) (none) → {}",
                Digest::of(b"x").short()
            )
        );
    }

    #[test]
    fn a_line_tells_the_first_reasons_and_counts_the_others() {
        let param = |path: &str| Reason::ParamChanged {
            path: path.to_owned(),
            old: None,
            new: Some(json!(1)),
        };
        let input = |index| Reason::InputChanged {
            port: "tokens".to_owned(),
            index,
            label: String::new(),
            old: None,
            new: None,
        };
        let reasons = [
            input(0),
            input(1),
            input(3),
            param("a"),
            param("b"),
            param("c"),
        ];
        assert_eq!(
            in_one_line(&reasons),
            "input `tokens`: 3 artifacts changed; param `a` (none) → 1; and 2 more"
        );
        assert_eq!(
            in_one_line(&reasons[4..]),
            "param `b` (none) → 1; param `c` (none) → 1"
        );
    }

    #[test]
    fn a_plan_is_counted() {
        let counts = Counts {
            hits: 9,
            misses: 2,
            unknown: 1,
            blocked: 0,
        };
        assert_eq!(
            count_line(&counts),
            "12 tasks: 2 to run, 1 known later, 9 up to date"
        );
        let done = Counts {
            hits: 1,
            ..Counts::default()
        };
        assert_eq!(count_line(&done), "nothing to do: 1 task is up to date");
    }
}
