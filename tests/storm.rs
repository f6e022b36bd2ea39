//! A storm of kills: builds whose processes are killed at random moments, again and again until they are done.
//!
//! A few dozen kills in every `cargo test`. For more, and for the seed of a failure:
//!
//! ```text
//! KBUILD_KILLS=1000 KBUILD_SEED=7 cargo test --release --test storm -- --nocapture
//! ```

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::dozen::{Dozen, Home, Running, all, files};
use common::processes::{children, descendants, kill, kill_group};
use common::random::Random;
use kbuild_engine::digest::Digest;
use serde_json::Value;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// kbuild, and nobody else.
    Parent,
    /// A command that it runs.
    Child,
    /// A process that a command started.
    Grandchild,
    /// All of them.
    Everybody,
}

const VICTIMS: [Victim; 4] = [
    Victim::Parent,
    Victim::Child,
    Victim::Grandchild,
    Victim::Everybody,
];

/// What a kill hits, and when: so long after that many events of the build.
#[derive(Debug, Clone, Copy)]
struct Kill {
    victim: Victim,
    events: usize,
    pause: Duration,
}

impl Kill {
    fn choose(random: &mut Random) -> Self {
        Self {
            victim: random.choice(&VICTIMS),
            events: random.below(40),
            pause: Duration::from_micros(random.below(12_000) as u64),
        }
    }
}

/// What was counted.
#[derive(Debug, Default)]
struct Count {
    kills: BTreeMap<Victim, usize>,
    builds: usize,
    repeated: usize,
    visible: usize,
    two_writers: usize,
    manual: usize,
    /// What went wrong, with its seed.
    troubles: Vec<String>,
}

impl Count {
    fn total(&self) -> usize {
        self.kills.values().sum()
    }

    fn add(&mut self, other: Self) {
        for (victim, kills) in other.kills {
            *self.kills.entry(victim).or_default() += kills;
        }
        self.builds += other.builds;
        self.repeated += other.repeated;
        self.visible += other.visible;
        self.two_writers += other.two_writers;
        self.manual += other.manual;
        self.troubles.extend(other.troubles);
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} kills {:?} of {} builds: {} finished tasks repeated, {} partial outputs visible, {} times two writers, \
             {} manual steps",
            self.total(),
            self.kills,
            self.builds,
            self.repeated,
            self.visible,
            self.two_writers,
            self.manual
        )
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Runs rounds, each with a seed of its own, on a few threads until there were enough kills.
fn storm(kills: usize, seed: u64, round: fn(u64) -> Count) -> Count {
    const THREADS: usize = 3;
    let (next, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let rounds = || {
        let mut count = Count::default();
        while killed.load(Ordering::Relaxed) < kills && count.troubles.len() < 5 {
            let seed = seed + next.fetch_add(1, Ordering::Relaxed) as u64;
            let counted = round(seed);
            killed.fetch_add(counted.total(), Ordering::Relaxed);
            count.add(counted);
        }
        count
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(rounds)).collect();
        let mut count = Count::default();
        for thread in threads {
            count.add(thread.join().expect("a round is counted to its end"));
        }
        count
    })
}

#[test]
fn nothing_is_lost_repeated_or_half_seen_in_a_storm_of_kills() {
    let (kills, seed) = (number("KBUILD_KILLS", 30), number("KBUILD_SEED", 1));
    let begun = Instant::now();
    let count = storm(
        usize::try_from(kills).expect("a number of kills"),
        seed,
        one_by_one,
    );
    println!(
        "seed {seed}: {count}, in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    assert!(count.troubles.is_empty(), "{}", count.troubles.join("\n"));
    assert!(
        count.kills.len() == VICTIMS.len(),
        "everybody was hit: {count}"
    );
}

/// One project, built by one kbuild after the other, each killed until one gets through.
fn one_by_one(seed: u64) -> Count {
    const MOST: usize = 12;
    let mut random = Random(seed);
    let mut round = Round::new(seed);
    for attempt in 0..MOST {
        let kill = Kill::choose(&mut random);
        if round.build_and_kill(attempt, kill, &mut random) {
            break;
        }
    }
    round.end()
}

struct Round {
    seed: u64,
    dozen: Dozen,
    count: Count,
    /// Of every invocation: what was finished when it began.
    homes: Vec<(Home, BTreeSet<String>)>,
}

impl Round {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            dozen: Dozen::paced("0.004", "0.2"),
            count: Count::default(),
            homes: Vec::new(),
        }
    }

    fn trouble(&mut self, what: &str) {
        let line = format!("seed {}, build {}: {what}", self.seed, self.count.builds);
        self.count.troubles.push(line);
    }

    /// True when the build got through.
    fn build_and_kill(&mut self, attempt: usize, choice: Kill, random: &mut Random) -> bool {
        let home = self.dozen.home(&format!("build-{attempt}"));
        let finished = self.dozen.finished();
        self.homes.push((home.clone(), finished));
        let mut command = self.dozen.command(&["--json"], &home);
        let mut build = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        self.count.builds += 1;
        let events = build.stdout.take().expect("stdout is a pipe");
        let mut lines = BufReader::new(events).lines();
        for _ in lines.by_ref().take(choice.events) {}
        std::thread::sleep(choice.pause);
        let was_hit = strike(&build, choice.victim, random);
        if was_hit {
            *self.count.kills.entry(choice.victim).or_default() += 1;
        }
        // The build must not wait for its reader.
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).count());
        let status = self.end_of(&mut build);
        reader.join().expect("the reader ends");
        self.look();
        match status.and_then(|status| status.code()) {
            Some(0) => true,
            // Its command was killed: it says so.
            Some(1) if was_hit => false,
            None if was_hit => false,
            code => {
                self.count.manual += 1;
                self.trouble(&format!("{choice:?} ended with {code:?}"));
                true
            }
        }
    }

    fn end_of(&mut self, build: &mut Child) -> Option<ExitStatus> {
        let status = end_of(build);
        if status.is_none() {
            self.count.manual += 1;
            self.trouble("hangs");
            kill_group(build.id());
            build.wait().expect("the program ends");
        }
        status
    }

    /// What lies in the store and under human names, whatever still runs.
    fn look(&mut self) {
        let wrong = self.dozen.visibly_wrong();
        let damaged = damaged_blobs(&self.dozen);
        if !wrong.is_empty() || !damaged.is_empty() {
            self.count.visible += wrong.len() + damaged.len();
            self.trouble(&format!("partial outputs: {wrong:?} {damaged:?}"));
        }
        let finished = self.dozen.finished();
        let lost: Vec<&String> = self
            .homes
            .iter()
            .flat_map(|(_, before)| before.difference(&finished))
            .collect();
        if !lost.is_empty() {
            let lost = format!("finished before and not now: {lost:?}");
            self.trouble(&lost);
        }
    }

    /// The same command without a kill: it gets through, and everything is as if nothing had been.
    fn end(mut self) -> Count {
        let home = self.dozen.home("last");
        let finished = self.dozen.finished();
        let had_work = finished.len() < all().len();
        self.homes.push((home.clone(), finished));
        let Running { mut child, .. } = self.dozen.start(&[], home);
        self.count.builds += 1;
        let status = self.end_of(&mut child);
        let wrong = self.dozen.wrong();
        if status.and_then(|status| status.code()) != Some(0) || !wrong.is_empty() {
            self.count.manual += 1;
            self.trouble(&format!(
                "the last build ended with {status:?}, wrong: {wrong:?}"
            ));
        }
        self.look();
        self.look_back();
        let (null, executed) = self.dozen.run(&[]);
        if !null.output.status.success() || !executed.is_empty() {
            self.count.repeated += executed.len();
            self.trouble(&format!("after the last build: {executed:?}"));
        }
        // A build that has nothing to do tidies nothing up.
        let left = files(&self.dozen.project.path("cache/tmp"));
        if !left.is_empty() && had_work {
            self.trouble(&format!("left behind: {left:?}"));
        }
        self.count
    }

    /// What each invocation executed, against what was finished when it began.
    fn look_back(&mut self) {
        for (home, before) in std::mem::take(&mut self.homes) {
            let ran = home.ran();
            let repeated: Vec<&String> = ran.iter().filter(|task| before.contains(*task)).collect();
            if !repeated.is_empty() {
                self.count.repeated += repeated.len();
                self.trouble(&format!("ran again: {repeated:?}"));
            }
        }
        let writers = self.dozen.two_writers();
        if !writers.is_empty() {
            self.count.two_writers += writers.lines().count();
            self.trouble(&format!("two writers at once: {writers}"));
        }
    }
}

/// Kills. False when there was nobody to kill: the build was over, or never had such a process.
fn strike(build: &Child, victim: Victim, random: &mut Random) -> bool {
    let me = build.id();
    let patience = Instant::now();
    loop {
        let victims = match victim {
            Victim::Parent | Victim::Everybody => children(std::process::id())
                .into_iter()
                .filter(|pid| *pid == me)
                .collect(),
            Victim::Child => children(me),
            Victim::Grandchild => {
                let direct = children(me);
                let mut all = descendants(me);
                all.retain(|pid| !direct.contains(pid));
                all
            }
        };
        if victims.is_empty() {
            if patience.elapsed() > Duration::from_millis(100) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        match victim {
            Victim::Everybody => kill_group(me),
            _ => kill(random.choice(&victims)),
        }
        return true;
    }
}

/// How a process ends; `None` when it has not within a minute.
fn end_of(build: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Some(status) = build.try_wait().expect("a child is waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Blobs that do not hold what their name says.
fn damaged_blobs(dozen: &Dozen) -> Vec<String> {
    let folder = dozen.project.path("cache/blobs");
    let name = |path: &std::path::Path| {
        let parts = path
            .strip_prefix(&folder)
            .expect("below the blobs")
            .components();
        parts
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect::<String>()
    };
    let is_damaged = |path: &std::path::PathBuf| {
        fs::read(path).is_ok_and(|bytes| Digest::of(&bytes).to_hex() != name(path))
    };
    files(&folder)
        .into_iter()
        .filter(is_damaged)
        .map(|path| name(&path))
        .collect()
}

/// What eight invocations ask for.
const GOALS: [&[&str]; 8] = [
    &[],
    &["a5"],
    &["a3", "b1"],
    &["b5"],
    &["a4"],
    &["b3", "a3"],
    &["a5", "b4"],
    &[],
];

#[test]
fn eight_builds_share_the_work_while_some_of_them_are_killed() {
    let (kills, seed) = (number("KBUILD_KILLS", 30) / 3, number("KBUILD_SEED", 1));
    let begun = Instant::now();
    let count = storm(
        usize::try_from(kills).expect("a number of kills"),
        seed,
        crowd,
    );
    println!(
        "seed {seed}: eight at once, {count}, in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    assert!(count.troubles.is_empty(), "{}", count.troubles.join("\n"));
}

struct Member {
    build: Child,
    home: Home,
    events: std::path::PathBuf,
    is_killed: bool,
}

/// Eight invocations with overlapping goals; three of them are killed.
fn crowd(seed: u64) -> Count {
    let mut random = Random(seed);
    let mut round = Round::new(seed);
    let mut members: Vec<Member> = (0..GOALS.len())
        .map(|index| join(&round.dozen, index))
        .collect();
    round.count.builds += members.len();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_micros(random.below(80_000) as u64));
        let index = random.below(members.len());
        let victim = random.choice(&[Victim::Parent, Victim::Everybody]);
        let member = &mut members[index];
        if !member.is_killed && strike(&member.build, victim, &mut random) {
            member.is_killed = true;
            *round.count.kills.entry(victim).or_default() += 1;
        }
    }
    for (index, member) in members.iter_mut().enumerate() {
        let status = round.end_of(&mut member.build);
        let is_done = status.is_some_and(|status| status.success());
        if !is_done && !member.is_killed {
            round.count.manual += 1;
            round.trouble(&format!("build {index} ended with {status:?}"));
        }
    }
    for (task, times) in executions(&members) {
        if times > 1 {
            round.count.repeated += times - 1;
            round.trouble(&format!("{task} was executed {times} times"));
        }
    }
    round.end()
}

fn join(dozen: &Dozen, index: usize) -> Member {
    let home = dozen.home(&format!("member-{index}"));
    let events = dozen.project.path(&format!("events-{index}.jsonl"));
    let words = [&["--json"], GOALS[index]].concat();
    let build = dozen
        .command(&words, &home)
        .stdout(File::create(&events).expect("the file is made"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    Member {
        build,
        home,
        events,
        is_killed: false,
    }
}

/// How often the work of each task was done: by those who lived, whatever they began; by those who were killed, what
/// they said to have finished.
fn executions(members: &[Member]) -> BTreeMap<String, usize> {
    let mut times: BTreeMap<String, usize> = all().into_iter().map(|task| (task, 0)).collect();
    for member in members {
        let done = match member.is_killed {
            true => said_to_be_finished(&member.events),
            false => member.home.ran(),
        };
        for task in done {
            *times.entry(task).or_default() += 1;
        }
    }
    times
}

fn said_to_be_finished(events: &std::path::Path) -> Vec<String> {
    let text = fs::read_to_string(events).expect("events were written");
    let said = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    said.filter(|event| event["event"] == "finished")
        .filter_map(|event| event["task"].as_str().map(str::to_owned))
        .collect()
}
