//! The loop between the scheduler and the world.

mod temporary;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::attempt::{Success, execute};
use super::journal::Journal;
use super::{Beside, Options, Outcome, Prepared, exports, report};
use crate::error::Error;
use crate::event::{BuildEvent, Events, Totals};
use crate::graph::{Graph, Origin, Task, TaskId};
use crate::plan::{Known, Plan, Status, Work, decide};
use crate::receipt::Receipt;
use crate::runner::{Failure, Stop, tail};
use crate::schedule::{self, Command, Event, Grant, Resolution, Scheduler, State};
use crate::store::{Found, History, Memo, Presence, Store};
use crate::workspace::{Scan, Workspace};

/// What every attempt of a build may look at.
pub struct Shared {
    pub workspace: Workspace,
    pub store: Store,
    pub graph: Arc<Graph>,
    pub scan: Scan,
    /// How blobs looked when the build began.
    pub blobs: Memo,
    pub options: Options,
    pub events: Events,
    pub journal: Journal,
    /// Shared by whoever has kept content whose receipt is not written yet: nothing may be dropped meanwhile.
    pub unwritten: RwLock<()>,
}

/// One attempt at a task.
pub struct Job {
    pub shared: Arc<Shared>,
    pub id: TaskId,
    pub work: Work,
    /// What the tasks that it reads from gave.
    pub inputs: BTreeMap<TaskId, Arc<Receipt>>,
    /// Counts from 1.
    pub attempt: u32,
    pub grant: Grant,
    pub stop: watch::Sender<Stop>,
}

impl Job {
    pub fn task(&self) -> &Task {
        self.shared.graph.task(self.id)
    }
}

/// An attempt that has ended.
struct Ended {
    id: TaskId,
    attempt: u32,
    result: Result<Success, Failure>,
}

struct Driver<'a> {
    shared: Arc<Shared>,
    presence: &'a Presence,
    scheduler: Scheduler,
    goals: BTreeSet<TaskId>,
    beside: Beside,
    /// Everything that the goals need.
    reach: BTreeSet<TaskId>,
    /// What the plan said of tasks whose inputs were known, until they are resolved.
    planned: BTreeMap<TaskId, Status>,
    /// What the plan takes tasks to give: what it says of their readers rests on it.
    expected: BTreeMap<TaskId, Arc<Receipt>>,
    known: Known,
    receipts: BTreeMap<TaskId, Arc<Receipt>>,
    works: BTreeMap<TaskId, Work>,
    stops: BTreeMap<TaskId, watch::Sender<Stop>>,
    /// Names under which anything was built before, once somebody asks.
    built: OnceCell<HashSet<String>>,
    /// Held tasks that were announced.
    announced: BTreeSet<TaskId>,
    /// Tasks whose work another process did.
    elsewhere: BTreeSet<TaskId>,
    /// Tasks whose content is not there.
    absent: BTreeSet<TaskId>,
    /// A task needs content that was dropped, against the plan.
    is_short: bool,
    /// Content that is not needed any more is not looked for before.
    next_drop: Instant,
    latest: Memo,
    history: History,
    ended: mpsc::UnboundedSender<Ended>,
}

/// Builds what is prepared, see [`super::build`].
pub async fn drive(
    prepared: Prepared,
    presence: &Presence,
    options: Options,
    events: Events,
    mut stop: watch::Receiver<Stop>,
) -> Result<Outcome, Error> {
    let begun = Instant::now();
    prepared.store.sweep(presence);
    let (ended, mut attempts) = mpsc::unbounded_channel();
    let mut driver = Driver::new(prepared, presence, options, events, ended)?;
    let mut commands: VecDeque<Command> = driver.scheduler.start().into();
    let mut wanted = Stop::No;
    let mut lasting = pin!(make_last(driver.shared.store.clone()));
    let mut lost = None;
    loop {
        while let Some(command) = commands.pop_front() {
            commands.extend(driver.obey(command));
        }
        if driver.scheduler.is_done() {
            break;
        }
        tokio::select! {
            Some(ended) = attempts.recv() => commands.extend(driver.note(ended)),
            error = &mut lasting, if lost.is_none() => {
                lost = Some(error);
                commands.extend(driver.scheduler.on(Event::Cancel));
            }
            now = more(&mut stop, wanted) => {
                if wanted == Stop::No {
                    commands.extend(driver.scheduler.on(Event::Cancel));
                }
                if now == Stop::Kill {
                    driver.kill_all();
                }
                wanted = now;
            }
        }
    }
    let outcome = driver.close(begun.elapsed(), wanted != Stop::No);
    match lost {
        Some(error) => Err(error),
        None => outcome,
    }
}

/// Commits what has been kept, again and again; ends when that fails.
async fn make_last(store: Store) -> Error {
    /// How long finished work waits for others, so that one sync serves them all.
    const GROUP: Duration = Duration::from_millis(100);
    loop {
        tokio::time::sleep(GROUP).await;
        if !store.has_pending() {
            continue;
        }
        let store = store.clone();
        let committed = tokio::task::spawn_blocking(move || store.commit());
        if let Ok(Err(error)) = committed.await {
            return error;
        }
    }
}

/// The next, stronger wish of the user.
async fn more(stop: &mut watch::Receiver<Stop>, than: Stop) -> Stop {
    match stop.wait_for(|wanted| *wanted > than).await {
        Ok(wanted) => *wanted,
        Err(_) => std::future::pending().await,
    }
}

impl<'a> Driver<'a> {
    fn new(
        prepared: Prepared,
        presence: &'a Presence,
        options: Options,
        events: Events,
        ended: mpsc::UnboundedSender<Ended>,
    ) -> Result<Self, Error> {
        let store = &prepared.store;
        let journal = Journal::open(
            store,
            !prepared.plan.is_done(),
            options.continues.as_deref(),
        )?;
        let events = journal.tee(events)?;
        prepared.warnings.iter().for_each(|text| events.warn(text));
        if let Err(error) = store.save_memo("sources", &prepared.sources) {
            events.warn(error.to_string());
        }
        let parts = prepared.scan.named_parts(&prepared.workspace);
        if let Err(error) = store.remember_parts(&parts) {
            events.warn(error.to_string());
        }
        events.send(report::started(
            &journal.build,
            &prepared.plan,
            prepared.beside.tasks,
        ));
        let mut history = History::of(store);
        let tasks = prepared.graph.reach(&prepared.goals);
        let schedule = schedule::Options {
            keep_going: options.keep_going,
            durations: durations(&prepared.graph, &prepared.plan, &mut history),
        };
        let scheduler =
            Scheduler::new(&prepared.graph, &tasks, options.resources.clone(), schedule);
        let shared = Shared {
            workspace: prepared.workspace,
            store: prepared.store,
            graph: prepared.graph,
            scan: prepared.scan,
            blobs: prepared.blobs,
            options,
            events,
            journal,
            unwritten: RwLock::new(()),
        };
        let mut driver = Self {
            presence,
            goals: prepared.goals.into_iter().collect(),
            beside: prepared.beside,
            reach: tasks.into_iter().collect(),
            expected: expected(&prepared.plan),
            known: Known::new(&shared.scan.snapshot),
            shared: Arc::new(shared),
            scheduler,
            planned: prepared.plan.tasks.into_iter().collect(),
            receipts: BTreeMap::new(),
            works: BTreeMap::new(),
            stops: BTreeMap::new(),
            built: OnceCell::new(),
            announced: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            absent: BTreeSet::new(),
            is_short: false,
            next_drop: Instant::now(),
            latest: prepared.latest,
            history,
            ended,
        };
        driver.announce();
        Ok(driver)
    }

    /// Tells, before anything starts, which protected tasks will be held, or may be.
    fn announce(&mut self) {
        let planned: Vec<(TaskId, Option<Vec<_>>)> = self
            .planned
            .iter()
            .filter_map(|(id, status)| match status {
                Status::Miss(work) => Some((*id, Some(work.reasons.clone()))),
                Status::Unknown(_) => Some((*id, None)),
                Status::Hit(_) | Status::Dropped(_) | Status::Blocked(_) => None,
            })
            .filter(|(id, _)| self.is_held(*id))
            .collect();
        for (id, reasons) in planned {
            let task = self.shared.graph.task(id).name.clone();
            match reasons {
                Some(reasons) => {
                    self.announced.insert(id);
                    self.shared.events.send(BuildEvent::Held { task, reasons });
                }
                None => self.shared.events.warn(format!(
                    "`{task}` is protected and depends on tasks that run first: if it has to be rebuilt, it is held \
                     unless `--yes {task}` is given"
                )),
            }
        }
    }

    /// A protected task that was built before, and may not be built again.
    fn is_held(&self, id: TaskId) -> bool {
        let task = self.shared.graph.task(id);
        let store = &self.shared.store;
        let built = || {
            let receipts = || store.receipts().into_iter().map(|receipt| receipt.task);
            self.built.get_or_init(|| receipts().collect())
        };
        task.protect
            && !self.shared.options.allowed.contains(&task.name)
            && (store.last(&task.name).is_some() || built().contains(&task.name))
    }

    fn obey(&mut self, command: Command) -> Vec<Command> {
        match command {
            Command::Resolve(task) => {
                let resolution = self.resolve(task);
                let commands = self.scheduler.on(Event::Resolved { task, resolution });
                if let State::Unservable(resource) = self.scheduler.state(task) {
                    let problem = format!("it asks for more `{resource}` than this machine has");
                    self.shared.events.send(BuildEvent::Blocked {
                        task: self.shared.graph.task(task).name.clone(),
                        problems: vec![problem],
                    });
                }
                commands
            }
            Command::Run {
                task,
                attempt,
                grant,
            } => {
                self.run(task, attempt, grant);
                Vec::new()
            }
            Command::Stop(task) => {
                if let Some(stop) = self.stops.get(&task) {
                    stop.send_modify(|wanted| *wanted = (*wanted).max(Stop::Leave));
                }
                Vec::new()
            }
        }
    }

    fn resolve(&mut self, id: TaskId) -> Resolution {
        let status = match self.planned.remove(&id) {
            Some(Status::Unknown(_)) | None => self.decide(id),
            Some(status) => status,
        };
        let task = self.shared.graph.task(id).name.clone();
        if matches!(status, Status::Dropped(_)) {
            self.absent.insert(id);
        }
        match status {
            Status::Hit(receipt) | Status::Dropped(receipt) => {
                let key = receipt.key;
                self.shared.events.send(BuildEvent::Hit { task, key });
                self.give(id, receipt);
                Resolution::Hit
            }
            Status::Miss(work) if self.is_held(id) => {
                if self.announced.insert(id) {
                    let reasons = work.reasons;
                    self.shared.events.send(BuildEvent::Held { task, reasons });
                }
                Resolution::Held
            }
            Status::Miss(_) if self.lacks_content(id) => {
                self.is_short = true;
                self.shared.events.warn(format!(
                    "`{task}` must run after all, and what it reads was dropped: something that was made again is not \
                     what it was before"
                ));
                Resolution::Blocked
            }
            Status::Miss(work) => {
                self.shared.events.send(report::missed(task, &work));
                self.works.insert(id, *work);
                Resolution::Miss
            }
            Status::Blocked(blockers) => {
                let problems = blockers.iter().map(report::in_words).collect();
                self.shared
                    .events
                    .send(BuildEvent::Blocked { task, problems });
                Resolution::Blocked
            }
            Status::Unknown(_) => {
                let problems = vec!["its inputs are not known (a defect of kbuild)".to_owned()];
                self.shared
                    .events
                    .send(BuildEvent::Blocked { task, problems });
                Resolution::Blocked
            }
        }
    }

    fn decide(&mut self, id: TaskId) -> Status {
        let shared = Arc::clone(&self.shared);
        let found = Found::new(&shared.store, &shared.blobs);
        let (graph, snapshot) = (&shared.graph, &shared.scan.snapshot);
        let mut status = decide(graph, id, snapshot, &self.known, &found);
        if matches!(status, Status::Dropped(_)) {
            status = self.look_ahead(id, &found).unwrap_or(status);
        }
        found
            .take_warnings()
            .iter()
            .for_each(|text| shared.events.warn(text));
        status
    }

    fn run(&mut self, id: TaskId, attempt: u32, grant: Grant) {
        let Some(work) = self.works.get(&id).cloned() else {
            return;
        };
        let stop = watch::Sender::new(Stop::No);
        self.stops.insert(id, stop.clone());
        let job = Arc::new(Job {
            shared: Arc::clone(&self.shared),
            id,
            work,
            inputs: self.inputs(id),
            attempt,
            grant,
            stop,
        });
        let ended = self.ended.clone();
        tokio::spawn(async move {
            let result = execute(job).await;
            let _ = ended.send(Ended {
                id,
                attempt,
                result,
            });
        });
    }

    fn kill_all(&self) {
        for stop in self.stops.values() {
            stop.send_replace(Stop::Kill);
        }
    }

    fn inputs(&self, id: TaskId) -> BTreeMap<TaskId, Arc<Receipt>> {
        self.shared
            .graph
            .task(id)
            .bindings()
            .filter_map(|binding| match binding.from {
                Origin::Task { task, .. } => Some((task, Arc::clone(self.receipts.get(&task)?))),
                Origin::Source(_) => None,
            })
            .collect()
    }

    fn note(&mut self, ended: Ended) -> Vec<Command> {
        self.stops.remove(&ended.id);
        match ended.result {
            Ok(success) => self.succeeded(ended.id, success),
            Err(failure) => self.failed(ended.id, ended.attempt, failure),
        }
    }

    fn succeeded(&mut self, id: TaskId, success: Success) -> Vec<Command> {
        let Success { receipt, executed } = success;
        let task = self.shared.graph.task(id).name.clone();
        if executed {
            let elapsed = Duration::from_millis(receipt.elapsed_ms);
            let bytes = receipt.outputs.values().map(|content| content.size()).sum();
            self.history
                .record(&task, &receipt.key.to_hex(), elapsed, bytes);
            self.shared.events.send(report::finished(task, &receipt));
        } else {
            self.elsewhere.insert(id);
            let key = receipt.key;
            self.shared.events.send(BuildEvent::Hit { task, key });
        }
        self.works.remove(&id);
        self.give(id, receipt);
        let commands = self.scheduler.on(Event::Finished { task: id });
        let mut upstream = self.shared.graph.dependencies(id).iter();
        if Instant::now() >= self.next_drop && upstream.any(|above| self.is_idle(*above)) {
            self.drop_spares();
        }
        commands
    }

    fn failed(&mut self, id: TaskId, attempt: u32, failure: Failure) -> Vec<Command> {
        let class = failure.class;
        let commands = self.scheduler.on(Event::Failed { task: id, class });
        let name = &self.shared.graph.task(id).name;
        let log = self.shared.journal.task_log(name);
        self.shared.events.send(BuildEvent::Failed {
            task: name.clone(),
            attempt,
            class,
            message: failure.message,
            help: failure.help,
            tail: tail(&log, 20),
            log,
            retried: matches!(
                self.scheduler.state(id),
                State::Ready { .. } | State::Running { .. } | State::Waiting | State::Resolving
            ),
        });
        commands
    }

    /// What a task gave is there for others, and under its human name.
    fn give(&mut self, id: TaskId, receipt: Arc<Receipt>) {
        let receipt = self.taken_back(id, receipt);
        if self.shared.options.publish {
            self.publish(id, &receipt);
        }
        if (self.expected.get(&id)).is_none_or(|expected| expected.outputs != receipt.outputs) {
            for reader in self.shared.graph.dependents(id) {
                self.planned.remove(reader);
            }
        }
        self.known
            .insert(&self.shared.graph, id, Arc::clone(&receipt));
        self.receipts.insert(id, receipt);
    }

    fn publish(&mut self, id: TaskId, receipt: &Receipt) {
        let task = self.shared.graph.task(id);
        // Dropped content has no names, also where another result happens to hold it.
        let exports = match receipt.dropped && self.is_passing(id) {
            true => Vec::new(),
            false => exports(task, receipt),
        };
        let published = self
            .shared
            .store
            .publish(&task.name, receipt, &exports, &mut self.latest);
        if let Err(error) = published {
            self.shared.events.warn(error.to_string());
        }
    }

    fn close(mut self, elapsed: Duration, was_asked: bool) -> Result<Outcome, Error> {
        let states: BTreeMap<TaskId, State> = self
            .scheduler
            .states()
            .map(|(id, state)| (id, state.clone()))
            .collect();
        for (id, state) in &states {
            if let State::Skipped(because) = state {
                self.shared.events.send(BuildEvent::Skipped {
                    task: self.shared.graph.task(*id).name.clone(),
                    because: self.shared.graph.task(*because).name.clone(),
                });
            }
        }
        self.drop_spares();
        self.shared.store.commit()?;
        self.save_memos();
        if let Some(text) = self.history.take_warning() {
            self.shared.events.warn(text);
        }
        let mut totals = report::totals(&states, self.elsewhere.len(), elapsed);
        self.add_beside(&states, &mut totals);
        self.shared.events.send(BuildEvent::Done(totals.clone()));
        Ok(Outcome {
            build: self.shared.journal.build.clone(),
            states,
            receipts: self.receipts,
            totals,
            was_asked,
            is_short: self.is_short,
        })
    }

    /// Counts the tasks that are not in the graph.
    fn add_beside(&self, states: &BTreeMap<TaskId, State>, totals: &mut Totals) {
        totals.hits += self.beside.tasks;
        for (id, state) in states.iter().filter(|(_, state)| !state.is_done()) {
            let behind = self.beside.behind(*id);
            totals.hits = totals.hits.saturating_sub(behind.len());
            if *state == State::Cancelled {
                totals.cancelled += behind.len();
                continue;
            }
            totals.skipped += behind.len();
            for task in behind {
                let because = self.shared.graph.task(*id).name.clone();
                let skipped = BuildEvent::Skipped { task, because };
                self.shared.events.send(skipped);
            }
        }
    }

    fn save_memos(&mut self) {
        let mut blobs = self.shared.blobs.clone();
        // What was there before was looked at when it was planned.
        let built = self.receipts.iter();
        let built = built.filter(|(id, _)| *self.scheduler.state(**id) == State::Built);
        let made = built.flat_map(|(_, receipt)| receipt.blobs());
        self.shared.store.note_blobs(&mut blobs, made);
        for (name, memo) in [("blobs", &blobs), ("latest", &self.latest)] {
            if let Err(error) = self.shared.store.save_memo(name, memo) {
                self.shared.events.warn(error.to_string());
            }
        }
    }
}

/// What a plan takes each task to give.
fn expected(plan: &Plan) -> BTreeMap<TaskId, Arc<Receipt>> {
    let tasks = plan.tasks.iter();
    tasks
        .filter_map(|(id, status)| Some((*id, Arc::clone(status.done()?))))
        .collect()
}

/// What tasks took, of those that may run; of one alone nobody asks.
fn durations(graph: &Graph, plan: &Plan, history: &mut History) -> BTreeMap<TaskId, f64> {
    let running: Vec<TaskId> = (plan.tasks.iter())
        .filter(|(_, status)| status.may_run())
        .map(|(id, _)| *id)
        .collect();
    if running.len() < 2 {
        return BTreeMap::new();
    }
    let mut seconds = |id: TaskId| {
        let elapsed = history.elapsed(&graph.task(id).name)?;
        Some((id, elapsed.as_secs_f64()))
    };
    running.into_iter().filter_map(&mut seconds).collect()
}
