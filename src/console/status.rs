//! A build as its log of events tells it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{BOLD, CYAN, DIM, GREEN, RED, YELLOW, clean, styled, text};

/// What is known of a build.
#[derive(Debug, Clone, Default)]
pub struct State {
    build: String,
    tasks: BTreeMap<String, (Phase, String)>,
    hits: usize,
    /// Tasks without an event of their own are among the hits, unless they are skipped.
    has_beside: bool,
    is_done: bool,
    is_alive: bool,
    elapsed_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Waiting,
    Finished,
    Failed,
    Stopped,
    Held,
    Skipped,
}

impl Phase {
    fn word(self) -> (&'static str, anstyle::Style) {
        match self {
            Self::Running => ("running", CYAN),
            Self::Waiting => ("waiting", DIM),
            Self::Finished => ("built", GREEN),
            Self::Failed => ("failed", RED),
            Self::Stopped => ("stopped", YELLOW),
            Self::Held => ("held", YELLOW),
            Self::Skipped => ("skipped", DIM),
        }
    }
}

impl State {
    /// The state after some events. `is_alive`: the process of the build exists.
    pub fn of(build: &str, events: &[Value], is_alive: bool) -> Self {
        let mut state = Self {
            build: build.to_owned(),
            is_alive,
            ..Self::default()
        };
        events.iter().for_each(|event| state.on(event));
        state
    }

    fn on(&mut self, event: &Value) {
        let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        self.elapsed_ms = event["at_ms"].as_u64().unwrap_or(self.elapsed_ms);
        let (phase, detail) = match event["event"].as_str().unwrap_or_default() {
            "hit" => {
                // What this build made counts as that, also when it is looked at again.
                let is_ours = |(phase, _): &(Phase, String)| *phase == Phase::Finished;
                if !self.tasks.get(&word("task")).is_some_and(is_ours) {
                    // Another process may have made what was waited for.
                    self.tasks.remove(&word("task"));
                    self.hits += 1;
                }
                return;
            }
            "started" => {
                let beside = event["beside"].as_u64().unwrap_or_default();
                self.hits = usize::try_from(beside).unwrap_or_default();
                self.has_beside = beside > 0;
                self.is_done = false;
                return;
            }
            "done" => {
                self.is_done = true;
                return;
            }
            "running" => (Phase::Running, String::new()),
            "progress" => (Phase::Running, progress(event)),
            "waiting" => (Phase::Waiting, "another process works on it".to_owned()),
            "finished" => {
                let elapsed =
                    Duration::from_millis(event["elapsed_ms"].as_u64().unwrap_or_default());
                (Phase::Finished, text::duration(elapsed))
            }
            "failed" if event["class"] == "interrupted" => (Phase::Stopped, word("message")),
            "failed" => (Phase::Failed, word("message")),
            "held" => (Phase::Held, "protected".to_owned()),
            "blocked" => (Phase::Failed, event["problems"].to_string()),
            "skipped" => {
                self.hits = self.hits.saturating_sub(usize::from(self.has_beside));
                (Phase::Skipped, format!("because of {}", word("because")))
            }
            _ => return,
        };
        self.tasks.insert(word("task"), (phase, detail));
    }

    fn is_running(&self) -> bool {
        !self.is_done && self.is_alive
    }

    fn headline(&self) -> String {
        let elapsed = text::duration(Duration::from_millis(self.elapsed_ms));
        match (self.is_done, self.is_alive) {
            (true, _) => format!("build {} ended after {elapsed}", self.build),
            (false, true) => format!("build {} runs since {elapsed}", self.build),
            (false, false) => format!(
                "build {} was cut off after {elapsed}; run the same command to go on",
                self.build
            ),
        }
    }

    /// One line a task that did more than being up to date.
    pub fn render(&self, columns: Option<usize>) -> String {
        let rows: Vec<Vec<String>> = self
            .tasks
            .iter()
            .map(|(task, (phase, detail))| {
                let (word, style) = self.shown(*phase).word();
                vec![
                    styled(style, word),
                    styled(BOLD, task),
                    clean::one_line(detail).into_owned(),
                ]
            })
            .collect();
        let hits = format!("{} up to date", text::plural(self.hits, "task"));
        format!(
            "{}; {hits}\n{}",
            self.headline(),
            text::table(&rows, columns)
        )
    }

    /// What ran when its build was cut off runs no more.
    fn shown(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Running | Phase::Waiting if !self.is_running() => Phase::Stopped,
            phase => phase,
        }
    }

    pub fn to_json(&self) -> Value {
        let tasks: BTreeMap<&String, Value> = self
            .tasks
            .iter()
            .map(|(task, (phase, detail))| {
                (
                    task,
                    json!({ "status": self.shown(*phase).word().0, "detail": detail }),
                )
            })
            .collect();
        json!({ "build": self.build, "running": self.is_running(), "done": self.is_done, "hits": self.hits,
                "elapsed_ms": self.elapsed_ms, "tasks": tasks })
    }
}

pub fn progress(event: &Value) -> String {
    let (done, total) = (
        event["done"].as_f64().unwrap_or(0.0),
        event["total"].as_f64().unwrap_or(0.0),
    );
    let unit = event["unit"].as_str().unwrap_or_default();
    if total > 0.0 {
        return format!(
            "{:.0}%, {} of {} {unit}",
            100.0 * done / total,
            text::count(done),
            text::count(total)
        );
    }
    format!("{} {unit}", text::count(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_task_counts() {
        let events = [
            json!({ "at_ms": 0, "event": "hit", "task": "a" }),
            json!({ "at_ms": 1, "event": "running", "task": "b" }),
            json!({ "at_ms": 2000, "event": "progress", "task": "b", "done": 5, "total": 10, "unit": "steps" }),
        ];
        let running =
            anstream::adapter::strip_str(&State::of("x-1", &events, true).render(None)).to_string();
        assert_eq!(
            running,
            "build x-1 runs since 2.0s; 1 task up to date\nrunning  b  50%, 5 of 10 steps\n"
        );
        let cut = State::of("x-1", &events, false);
        assert!(cut.render(None).contains("was cut off"));
        assert_eq!(cut.to_json()["tasks"]["b"]["status"], "stopped");
    }

    #[test]
    fn what_was_stopped_did_not_fail_and_what_another_made_was_not_skipped() {
        let events = [
            json!({ "event": "waiting", "task": "a" }),
            json!({ "event": "hit", "task": "a" }),
            json!({ "event": "running", "task": "b" }),
            json!({ "event": "failed", "task": "b", "class": "interrupted", "message": "interrupted" }),
            json!({ "event": "done" }),
        ];
        let shown = State::of("x-1", &events, false).render(None);
        let shown = anstream::adapter::strip_str(&shown).to_string();
        assert_eq!(
            shown,
            "build x-1 ended after 0 ms; 1 task up to date\nstopped  b  interrupted\n"
        );
    }
}
