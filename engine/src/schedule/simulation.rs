//! The scheduler in a seeded world: random graphs, orders of completion, failures and cancellations.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::facts::Prediction;
use crate::graph::{Binding, Device, Executor, InputPort, Origin, Place, RunSettings, Task};
use crate::testing::Seeded;

fn task(name: usize, upstream: &[usize], run: RunSettings) -> Task {
    let bindings = upstream.iter().map(|before| Binding {
        label: before.to_string(),
        from: Origin::Task {
            task: TaskId(u32::try_from(*before).unwrap()),
            port: 0,
        },
    });
    Task {
        name: name.to_string(),
        kind: "any".to_owned(),
        version: 1,
        params: Value::Null,
        inputs: vec![InputPort {
            name: "in".to_owned(),
            mapped: false,
            labelled: false,
            bindings: bindings.collect(),
        }],
        outputs: Vec::new(),
        executor: Executor::BuiltIn,
        run,
        protect: false,
        temporary: false,
        prediction: Prediction::default(),
        place: Place {
            file: String::new(),
            span: 0..0,
        },
    }
}

fn graph(tasks: Vec<Task>) -> Graph {
    Graph::new(tasks, Vec::new(), BTreeMap::new(), BTreeMap::new())
}

fn random_graph(random: &mut Seeded) -> Graph {
    let n = 1 + random.below(24);
    let tasks = (0..n).map(|index| {
        let wanted = random.below(4).min(index);
        let upstream: BTreeSet<usize> = (0..wanted).map(|_| random.below(index)).collect();
        let upstream: Vec<usize> = upstream.into_iter().collect();
        task(index, &upstream, random_run(random))
    });
    graph(tasks.collect())
}

fn random_run(random: &mut Seeded) -> RunSettings {
    let mut slots = BTreeMap::new();
    if random.chance(20) {
        slots.insert("gpu".to_owned(), u32::try_from(random.below(3)).unwrap());
    }
    if random.chance(20) {
        slots.insert("disk".to_owned(), 1);
    }
    RunSettings {
        device: [Device::Auto, Device::Cpu][random.below(2)],
        slots,
        threads: random
            .chance(30)
            .then(|| 1 + u32::try_from(random.below(6)).unwrap()),
        recompute: false,
        timeout: None,
        attempts: 1 + u32::try_from(random.below(3)).unwrap(),
    }
}

/// A world that carries out commands in any order, and checks each of them.
struct World<'a> {
    graph: &'a Graph,
    resources: Resources,
    resolving: BTreeSet<TaskId>,
    running: BTreeMap<TaskId, Grant>,
    resolved: BTreeMap<TaskId, u32>,
    attempts: BTreeMap<TaskId, u32>,
    done: BTreeSet<TaskId>,
    cancelled: bool,
}

impl World<'_> {
    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Resolve(task) => {
                    assert!(!self.cancelled, "nothing is resolved after a cancellation");
                    *self.resolved.entry(task).or_default() += 1;
                    assert_eq!(self.resolved[&task], 1, "a task is resolved once");
                    self.check_inputs(task);
                    self.resolving.insert(task);
                }
                Command::Run {
                    task,
                    attempt,
                    grant,
                } => {
                    assert!(!self.cancelled, "nothing starts after a cancellation");
                    self.check_inputs(task);
                    let attempts = self.attempts.entry(task).or_default();
                    *attempts += 1;
                    assert_eq!(*attempts, attempt);
                    assert!(attempt <= self.graph.task(task).run.attempts);
                    assert!(grant.cpu >= 1);
                    assert!(self.running.insert(task, grant).is_none());
                    self.check_resources();
                }
                Command::Stop(task) => {
                    assert!(self.cancelled && self.running.contains_key(&task));
                }
            }
        }
    }

    fn check_inputs(&self, task: TaskId) {
        for before in self.graph.dependencies(task) {
            assert!(
                self.done.contains(before),
                "{task:?} before its input {before:?}"
            );
        }
    }

    fn check_resources(&self) {
        let cpu: u32 = self.running.values().map(|grant| grant.cpu).sum();
        assert!(cpu <= self.resources.cpu, "CPU slots are oversubscribed");
        let mut gpus: Vec<u32> = self.running.values().flat_map(|g| g.gpus.clone()).collect();
        gpus.sort_unstable();
        let held = gpus.len();
        gpus.dedup();
        assert_eq!(held, gpus.len(), "a GPU is given out twice");
        assert!(gpus.iter().all(|gpu| self.resources.gpus.contains(gpu)));
        for (pool, slots) in &self.resources.pools {
            let used = self.running.values().filter_map(|g| g.pools.get(pool));
            assert!(used.sum::<u32>() <= *slots, "pool {pool} is oversubscribed");
        }
    }

    fn next_event(&mut self, random: &mut Seeded, failing: usize) -> Event {
        let choice = random.below(self.resolving.len() + self.running.len());
        if let Some(task) = self.resolving.iter().nth(choice).copied() {
            self.resolving.remove(&task);
            let resolution = match random.below(100) {
                0..30 => Resolution::Hit,
                30..33 => Resolution::Held,
                33..36 => Resolution::Blocked,
                _ => Resolution::Miss,
            };
            if resolution == Resolution::Hit {
                self.done.insert(task);
            }
            return Event::Resolved { task, resolution };
        }
        let index = choice - self.resolving.len();
        let task = *self.running.keys().nth(index).unwrap();
        self.running.remove(&task);
        if random.chance(failing) {
            let classes = [
                FailureClass::Input,
                FailureClass::Resources,
                FailureClass::Timeout,
                FailureClass::Interrupted,
            ];
            let class = classes[random.below(4)];
            return Event::Failed { task, class };
        }
        self.done.insert(task);
        Event::Finished { task }
    }
}

fn simulate(seed: u64) {
    let mut random = Seeded(seed);
    let graph = random_graph(&mut random);
    let all: Vec<TaskId> = graph.tasks().map(|(id, _)| id).collect();
    let resources = Resources {
        cpu: 1 + u32::try_from(random.below(4)).unwrap(),
        gpus: (0..u32::try_from(random.below(3)).unwrap()).collect(),
        pools: BTreeMap::from([("disk".to_owned(), 1)]),
    };
    let keep_going = random.chance(50);
    let failing = [0, 10, 50][random.below(3)];
    let cancel_at = random.chance(20).then(|| random.below(40));
    let options = Options {
        keep_going,
        durations: BTreeMap::new(),
    };
    let mut scheduler = Scheduler::new(&graph, &all, resources.clone(), options);
    let mut world = World {
        graph: &graph,
        resources,
        resolving: BTreeSet::new(),
        running: BTreeMap::new(),
        resolved: BTreeMap::new(),
        attempts: BTreeMap::new(),
        done: BTreeSet::new(),
        cancelled: false,
    };
    world.obey(scheduler.start());
    for step in 0.. {
        if scheduler.is_done() {
            break;
        }
        if cancel_at == Some(step) {
            world.cancelled = true;
            let commands = scheduler.on(Event::Cancel);
            world.obey(commands);
            continue;
        }
        let waits = world.resolving.len() + world.running.len();
        assert!(waits > 0, "seed {seed}: nothing happens and it is not done");
        let event = world.next_event(&mut random, failing);
        let commands = scheduler.on(event);
        world.obey(commands);
    }
    check_end(&scheduler, &world, keep_going);
}

fn check_end(scheduler: &Scheduler, world: &World<'_>, keep_going: bool) {
    assert!(world.running.is_empty() && world.resolving.is_empty());
    for (task, state) in scheduler.states() {
        assert!(state.is_final());
        assert_eq!(state.is_done(), world.done.contains(&task));
        let upstream = world.graph.dependencies(task);
        let all_done = upstream.iter().all(|id| scheduler.state(*id).is_done());
        if let State::Skipped(cause) = state {
            assert!(!all_done && !scheduler.state(*cause).is_done());
            assert!(world.graph.reached_from(&[*cause]).contains(&task));
        }
        if keep_going && !world.cancelled && all_done {
            assert!(!matches!(state, State::Cancelled | State::Skipped(_)));
        }
    }
}

#[test]
fn promises_hold_in_thousands_of_worlds() {
    for seed in 0..5_000 {
        simulate(seed);
    }
}

fn chain_and_single() -> Graph {
    // 0 ─▶ 2 ─▶ 3, and 1 on its own.
    let run = RunSettings {
        threads: Some(1),
        ..RunSettings::default()
    };
    graph(vec![
        task(0, &[], run.clone()),
        task(1, &[], run.clone()),
        task(2, &[0], run.clone()),
        task(3, &[2], run),
    ])
}

fn misses(scheduler: &mut Scheduler, tasks: &[u32]) -> Vec<Command> {
    let miss = |task: &u32| Event::Resolved {
        task: TaskId(*task),
        resolution: Resolution::Miss,
    };
    tasks
        .iter()
        .flat_map(|task| scheduler.on(miss(task)))
        .collect()
}

fn started(commands: &[Command]) -> Vec<(u32, u32)> {
    let run = |command: &Command| match command {
        Command::Run { task, grant, .. } => Some((task.0, grant.cpu)),
        _ => None,
    };
    commands.iter().filter_map(run).collect()
}

fn machine(cpu: u32) -> Resources {
    Resources {
        cpu,
        ..Resources::default()
    }
}

#[test]
fn the_longest_chain_goes_first() {
    let graph = chain_and_single();
    let all = graph.reach(&[TaskId(1), TaskId(3)]);
    let mut scheduler = Scheduler::new(&graph, &all, machine(1), Options::default());
    scheduler.start();
    assert_eq!(started(&misses(&mut scheduler, &[1, 0])), [(0, 1)]);

    let options = Options {
        durations: BTreeMap::from([(TaskId(1), 100.0)]),
        ..Options::default()
    };
    let mut scheduler = Scheduler::new(&graph, &all, machine(1), options);
    scheduler.start();
    assert_eq!(started(&misses(&mut scheduler, &[0, 1])), [(1, 1)]);
}

#[test]
fn free_threads_are_shared_among_who_can_use_them() {
    let any = RunSettings::default();
    let graph = graph(vec![task(0, &[], any.clone()), task(1, &[], any)]);
    let all = [TaskId(0), TaskId(1)];
    let mut both = Scheduler::new(&graph, &all, machine(8), Options::default());
    both.start();
    assert_eq!(started(&misses(&mut both, &[0, 1])), [(0, 4), (1, 4)]);
    let mut one = Scheduler::new(&graph, &all[..1], machine(8), Options::default());
    one.start();
    assert_eq!(started(&misses(&mut one, &[0])), [(0, 8)]);
}

#[test]
fn a_failure_stops_what_depends_on_it_and_no_more() {
    let graph = chain_and_single();
    let all = graph.reach(&[TaskId(1), TaskId(3)]);
    let options = Options {
        keep_going: true,
        ..Options::default()
    };
    let mut scheduler = Scheduler::new(&graph, &all, machine(1), options);
    scheduler.start();
    misses(&mut scheduler, &[0, 1]);
    let class = FailureClass::Input;
    let commands = scheduler.on(Event::Failed {
        task: TaskId(0),
        class,
    });
    assert_eq!(started(&commands), [(1, 1)]);
    assert_eq!(*scheduler.state(TaskId(0)), State::Failed(class));
    assert_eq!(*scheduler.state(TaskId(3)), State::Skipped(TaskId(0)));
    scheduler.on(Event::Finished { task: TaskId(1) });
    assert!(scheduler.is_done());
}

#[test]
fn a_machine_without_what_is_asked_for_says_so() {
    let run = RunSettings {
        device: Device::Gpu,
        ..RunSettings::default()
    };
    let graph = graph(vec![task(0, &[], run)]);
    let mut scheduler = Scheduler::new(&graph, &[TaskId(0)], machine(1), Options::default());
    scheduler.start();
    misses(&mut scheduler, &[0]);
    assert_eq!(
        *scheduler.state(TaskId(0)),
        State::Unservable("gpu".to_owned())
    );
    assert!(scheduler.is_done());
}
