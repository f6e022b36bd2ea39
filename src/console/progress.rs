//! What a build is doing, while it does it: bars on a terminal, a line now and then in a log.
//!
//! [`Tracker`] keeps the state and is given the time; the views only draw it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kbuild_engine::event::BuildEvent;
use kbuild_engine::runner::FailureClass;

use super::plan::in_one_line;
use super::{BOLD, CYAN, DIM, GREEN, RED, YELLOW, clean, styled, text};

/// Rates are taken over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// A log gets a line of progress for a task no more often than this.
const QUIET: Duration = Duration::from_secs(15);
/// Columns for the name of a task.
const NAME: usize = 22;

/// Every running task, and the numbers of the whole.
#[derive(Debug, Default)]
pub struct Tracker {
    /// The options with which another command reads the Kananafile in the same way.
    reading: String,
    total: usize,
    ended: usize,
    running: BTreeMap<String, Job>,
}

/// A running task.
#[derive(Debug)]
struct Job {
    begun: Instant,
    done: u64,
    total: u64,
    unit: String,
    samples: VecDeque<(Instant, u64)>,
    loss: Option<f64>,
    parts: Option<(usize, usize)>,
    note: String,
}

impl Job {
    fn new(now: Instant) -> Self {
        Self {
            begun: now,
            done: 0,
            total: 0,
            unit: String::new(),
            samples: VecDeque::new(),
            loss: None,
            parts: None,
            note: String::new(),
        }
    }

    fn progress(&mut self, done: u64, total: u64, unit: &str, now: Instant) {
        // Another unit, or less than before, is another phase of the work.
        if self.unit != clean::one_line(unit) || done < self.done {
            self.samples.clear();
        }
        (self.done, self.total) = (done, total);
        self.unit = clean::one_line(unit).into_owned();
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && now.duration_since(self.samples[0].0) > WINDOW {
            self.samples.pop_front();
        }
    }

    /// Units per second over the last moments.
    fn rate(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.0.duration_since(first.0).as_secs_f64();
        (seconds > 0.2 && last.1 > first.1).then(|| (last.1 - first.1) as f64 / seconds)
    }

    /// `45%  12.3k tokens/s  loss 3.214  40s left`
    fn line(&self, now: Instant) -> String {
        let mut words = Vec::new();
        if let Some(percent) = (100 * self.done.min(self.total)).checked_div(self.total) {
            words.push(format!("{percent:>3}%"));
        }
        if let Some((done, missing)) = self.parts {
            words.push(format!("part {done} of {missing}"));
        }
        let rate = self.rate();
        if let Some(rate) = rate {
            words.push(format!("{} {}/s", text::count(rate), self.unit));
        }
        if let Some(loss) = self.loss {
            words.push(format!("loss {loss:.3}"));
        }
        match rate.filter(|_| self.total > self.done) {
            Some(rate) => {
                let left = Duration::from_secs_f64((self.total - self.done) as f64 / rate);
                words.push(format!("{} left", text::duration(left)));
            }
            None => words.push(text::duration(now.duration_since(self.begun))),
        }
        if !self.note.is_empty() {
            words.push(self.note.clone());
        }
        words.join("  ")
    }
}

impl Tracker {
    fn on(&mut self, event: &BuildEvent, now: Instant) {
        match event {
            BuildEvent::Started { tasks, beside, .. } => {
                self.total = *tasks;
                self.ended = *beside;
            }
            BuildEvent::Running { task, .. } | BuildEvent::Waiting { task, .. } => {
                self.running.insert(task.clone(), Job::new(now));
            }
            BuildEvent::Progress {
                task,
                done,
                total,
                unit,
            } => {
                self.with(task, |job| job.progress(*done, *total, unit, now));
            }
            BuildEvent::Metric {
                task, name, value, ..
            } if name == "loss" => {
                self.with(task, |job| job.loss = Some(*value));
            }
            BuildEvent::Note { task, text } => {
                self.with(task, |job| job.note = clean::one_line(text).into_owned());
            }
            BuildEvent::Part {
                task,
                done,
                missing,
                ..
            } => {
                self.with(task, |job| job.parts = Some((*done, *missing)));
            }
            BuildEvent::Failed {
                task,
                retried: true,
                ..
            } => {
                self.running.remove(task);
            }
            BuildEvent::Hit { task, .. }
            | BuildEvent::Finished { task, .. }
            | BuildEvent::Failed { task, .. }
            | BuildEvent::Held { task, .. }
            | BuildEvent::Blocked { task, .. }
            | BuildEvent::Skipped { task, .. } => {
                self.running.remove(task);
                self.ended += 1;
            }
            BuildEvent::Warning { .. }
            | BuildEvent::Dropped { .. }
            | BuildEvent::Miss { .. }
            | BuildEvent::Metric { .. }
            | BuildEvent::Checkpoint { .. }
            | BuildEvent::Done(_) => {}
        }
    }

    fn with(&mut self, task: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.running.get_mut(task) {
            change(job);
        }
    }

    /// `[ 3/61]`
    fn counter(&self) -> String {
        let total = self.total.to_string();
        format!(
            "[{:>width$}/{total}]",
            self.ended.min(self.total),
            width = total.len()
        )
    }
}

/// A line that stays, for an event that is worth one.
fn lasting(event: &BuildEvent, tracker: &Tracker) -> Option<String> {
    let line = |style, word: &str, task: &str, rest: &str| {
        let head = format!("{} {}", styled(DIM, tracker.counter()), styled(style, word));
        Some(
            format!("{head} {} {}", styled(BOLD, task), clean::one_line(rest))
                .trim_end()
                .to_owned(),
        )
    };
    match event {
        BuildEvent::Warning { text } => {
            let text = clean::lines(text);
            let text = clean::indented(&text);
            Some(format!("{}: {text}", styled(YELLOW, "warning")))
        }
        BuildEvent::Running {
            task,
            attempt,
            resumed,
            ..
        } if *attempt > 1 || *resumed => {
            let how = if *resumed {
                "from its last checkpoint"
            } else {
                "from the start"
            };
            line(CYAN, "again", task, how)
        }
        BuildEvent::Waiting { task, .. } => line(DIM, "waits", task, "another process works on it"),
        BuildEvent::Finished {
            task, elapsed_ms, ..
        } => line(
            GREEN,
            "built",
            task,
            &text::duration(Duration::from_millis(*elapsed_ms)),
        ),
        BuildEvent::Held { task, reasons } => {
            let rest = format!(
                "is protected ({}); `--yes {task}` lets it be rebuilt, `kbuild accept {task} --reason …{}` keeps what there is",
                in_one_line(reasons),
                tracker.reading
            );
            line(YELLOW, "held", task, &rest)
        }
        BuildEvent::Blocked { task, problems } => line(RED, "blocked", task, &problems.join("; ")),
        BuildEvent::Dropped { tasks, bytes } => {
            line(DIM, "dropped", &tasks.join(", "), &text::bytes(*bytes))
        }
        BuildEvent::Skipped { task, because } => {
            line(DIM, "skipped", task, &format!("because of {because}"))
        }
        BuildEvent::Failed { .. } => Some(failure(event)),
        _ => None,
    }
}

/// Reason, the end of the log, its path, and what to do next.
fn failure(event: &BuildEvent) -> String {
    let BuildEvent::Failed {
        task,
        attempt,
        class,
        message,
        help,
        log,
        tail,
        retried,
    } = event
    else {
        return String::new();
    };
    if *class == FailureClass::Interrupted {
        return format!(
            "{} {} {}",
            styled(YELLOW, "stopped"),
            styled(BOLD, task),
            clean::one_line(message)
        );
    }
    let attempt = if *attempt > 1 {
        format!(" (attempt {attempt})")
    } else {
        String::new()
    };
    let mut out = format!(
        "{} {}{attempt}: {}",
        styled(RED, "failed"),
        styled(BOLD, task),
        below(message)
    );
    for line in tail.lines().filter(|line| *line != message) {
        out += &format!("\n  {} {}", styled(DIM, "|"), clean::lines(line));
    }
    let mut say =
        |word: &str, text: &str| out += &format!("\n  {}: {}", styled(CYAN, word), below(text));
    if !help.is_empty() {
        say("help", help);
    }
    say("log", &text::from_here(log).display().to_string());
    match *retried {
        true => say("next", "another attempt follows"),
        false => say("next", advice(*class)),
    }
    out
}

/// Text of a task in a failure: its lines stand below the first one.
fn below(text: &str) -> String {
    clean::indented(&clean::lines(text)).into_owned()
}

/// What a retry is worth.
fn advice(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Input => {
            "the same attempt fails again: change what is named above; finished work is kept"
        }
        FailureClass::Resources => {
            "make room, or let fewer tasks run at once (`-j 1`), and run the same command"
        }
        FailureClass::Environment => {
            "see to what is named above and run the same command; finished work is kept"
        }
        FailureClass::Timeout => {
            "raise `run.timeout` and run the same command; it goes on from the last checkpoint"
        }
        FailureClass::Interrupted => "run the same command to go on",
        FailureClass::Bug => "this is a defect of the kind, not of your files; the log says more",
    }
}

/// Shows events as they come.
pub trait View: Send {
    fn on(&mut self, event: &BuildEvent);

    /// A sentence of the program itself, among the events.
    fn say(&mut self, line: &str);

    /// Whether it shows the time that passes.
    fn moves(&self) -> bool {
        false
    }

    /// Time has passed.
    fn tick(&mut self) {}

    /// The build has ended: nothing moves any more.
    fn close(&mut self) {}
}

/// The view for where the talk goes: bars on a terminal, lines elsewhere, JSON where it was asked for.
/// `reading`: the options with which commands that are suggested read the Kananafile.
pub fn view(json: bool, reading: &str) -> Box<dyn View> {
    let tracker = Tracker {
        reading: reading.to_owned(),
        ..Tracker::default()
    };
    if json {
        Box::new(Json)
    } else if super::is_interactive() {
        Box::new(Live::new(tracker))
    } else {
        Box::new(Plain::new(tracker))
    }
}

/// The event stream on stdout, one JSON object a line.
struct Json;

impl View for Json {
    fn on(&mut self, event: &BuildEvent) {
        if let Ok(line) = serde_json::to_string(event) {
            super::json(&format!("{line}\n"));
        }
    }

    fn say(&mut self, line: &str) {
        super::talk(line);
    }
}

/// Lines for logs and pipes.
struct Plain {
    tracker: Tracker,
    last: BTreeMap<String, Instant>,
}

impl Plain {
    fn new(tracker: Tracker) -> Self {
        let last = BTreeMap::new();
        Self { tracker, last }
    }

    /// A line of progress, unless there was one a moment ago.
    fn progress(&mut self, task: &str, now: Instant) {
        let is_due = self
            .last
            .get(task)
            .is_none_or(|last| now.duration_since(*last) >= QUIET);
        let Some(job) = self.tracker.running.get(task).filter(|_| is_due) else {
            return;
        };
        super::talk(&format!(
            "{} {task}  {}",
            self.tracker.counter(),
            job.line(now)
        ));
        self.last.insert(task.to_owned(), now);
    }
}

impl View for Plain {
    fn on(&mut self, event: &BuildEvent) {
        let now = Instant::now();
        self.tracker.on(event, now);
        if let Some(line) = lasting(event, &self.tracker) {
            super::talk(&line);
        }
        match event {
            // The first line of progress comes when there is something to tell.
            BuildEvent::Running { task, .. } => drop(self.last.insert(task.clone(), now)),
            BuildEvent::Progress { task, .. } => self.progress(task, now),
            _ => {}
        }
    }

    fn say(&mut self, line: &str) {
        super::talk(line);
    }
}

/// A bar for each running task, and one for the whole.
struct Live {
    tracker: Tracker,
    bars: MultiProgress,
    whole: ProgressBar,
    tasks: BTreeMap<String, ProgressBar>,
}

impl Live {
    fn new(tracker: Tracker) -> Self {
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            console::set_colors_enabled_stderr(false);
        }
        let bars = MultiProgress::new();
        let whole = bars.add(ProgressBar::no_length().with_style(style("{spinner} {wide_msg}")));
        whole.enable_steady_tick(Duration::from_millis(120));
        Self {
            tracker,
            bars,
            whole,
            tasks: BTreeMap::new(),
        }
    }

    fn line(&self, line: &str) {
        // Through the streams that know whether colours are wanted, while the bars are away.
        self.bars.suspend(|| super::talk(line));
    }

    fn draw(&mut self, now: Instant) {
        let gone: Vec<String> = self
            .tasks
            .keys()
            .filter(|task| !self.tracker.running.contains_key(*task))
            .cloned()
            .collect();
        for task in gone {
            if let Some(bar) = self.tasks.remove(&task) {
                self.bars.remove(&bar);
            }
        }
        for (task, job) in &self.tracker.running {
            let bar = self.tasks.entry(task.clone()).or_insert_with(|| {
                let bar = self.bars.insert_before(&self.whole, ProgressBar::new(0));
                bar.set_style(style("  {prefix} {bar:10.cyan/dim} {wide_msg}"));
                bar.set_prefix(text::pad(&text::fit(task, Some(NAME)), NAME));
                bar
            });
            bar.set_length(job.total.max(1));
            bar.set_position(job.done);
            bar.set_message(job.line(now));
        }
        let running = self.tracker.running.len();
        self.whole.set_message(format!(
            "{} {} running",
            self.tracker.counter(),
            text::plural(running, "task")
        ));
    }
}

impl View for Live {
    fn on(&mut self, event: &BuildEvent) {
        let now = Instant::now();
        self.tracker.on(event, now);
        if let Some(line) = lasting(event, &self.tracker) {
            self.line(&line);
        }
        self.draw(now);
    }

    fn say(&mut self, line: &str) {
        self.line(line);
    }

    fn moves(&self) -> bool {
        true
    }

    fn tick(&mut self) {
        self.draw(Instant::now());
    }

    fn close(&mut self) {
        self.whole.finish_and_clear();
        let _ = self.bars.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is part of the program")
        .progress_chars("━━┄")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(task: &str) -> BuildEvent {
        BuildEvent::Running {
            task: task.to_owned(),
            attempt: 1,
            log: "x.log".into(),
            resumed: false,
        }
    }

    fn progress(task: &str, done: u64) -> BuildEvent {
        BuildEvent::Progress {
            task: task.to_owned(),
            done,
            total: 1000,
            unit: "tokens".to_owned(),
        }
    }

    #[test]
    fn a_running_task_says_how_fast_and_how_long() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut tracker = Tracker::default();
        tracker.on(&running("pretrain"), at(0));
        tracker.on(&progress("pretrain", 100), at(1));
        tracker.on(&progress("pretrain", 300), at(3));
        let loss = BuildEvent::Metric {
            task: "pretrain".into(),
            step: 3,
            name: "loss".into(),
            value: 3.25,
        };
        tracker.on(&loss, at(3));
        assert_eq!(
            tracker.running["pretrain"].line(at(3)),
            " 30%  100 tokens/s  loss 3.250  7.0s left"
        );
        tracker.on(
            &BuildEvent::Skipped {
                task: "pretrain".into(),
                because: "x".into(),
            },
            at(4),
        );
        assert!(tracker.running.is_empty());
    }

    #[test]
    fn a_rate_forgets_what_was_long_ago() {
        let begun = Instant::now();
        let mut tracker = Tracker::default();
        tracker.on(&running("t"), begun);
        for second in 0..60 {
            let done = if second < 30 {
                second
            } else {
                30 + (second - 30) * 10
            };
            tracker.on(&progress("t", done), begun + Duration::from_secs(second));
        }
        let rate = tracker.running["t"].rate().unwrap();
        assert!((rate - 10.0).abs() < 0.5, "{rate}");
    }

    #[test]
    fn a_failure_says_reason_log_and_what_to_do() {
        let event = BuildEvent::Failed {
            task: "tok".into(),
            attempt: 2,
            class: FailureClass::Input,
            message: "line 3 is no JSON".into(),
            help: "each line is an object".into(),
            log: "cache/logs/1/tok.log".into(),
            tail: "reading\nline 3 is no JSON".into(),
            retried: false,
        };
        let shown = anstream::adapter::strip_str(&failure(&event)).to_string();
        insta::assert_snapshot!(shown, @r"
        failed tok (attempt 2): line 3 is no JSON
          | reading
          help: each line is an object
          log: cache/logs/1/tok.log
          next: the same attempt fails again: change what is named above; finished work is kept
        ");
    }
}
