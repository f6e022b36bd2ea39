//! Nine probes of behaviour: what happens to a build of twelve commands, and what kbuild may run then.
//!
//! What was executed is counted by a line that every command leaves behind; kbuild itself is not asked. After every
//! probe all twelve results hold the right bytes.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::Ran;
use common::damage::Damage;
use common::dozen::{Dozen, all, files};
use common::processes::kill_group;

/// A row: what happens, what must follow, and the function that shows it.
struct Probe {
    what: &'static str,
    ideal: &'static str,
    show: fn(&Dozen),
}

const fn probe(what: &'static str, ideal: &'static str, show: fn(&Dozen)) -> Probe {
    Probe { what, ideal, show }
}

#[rustfmt::skip]
const PROBES: [Probe; 9] = [
    probe("an input is touched, same bytes",            "0 executions",                                          touch),
    probe("an input is edited, first output is equal",  "1 execution",                                           edit),
    probe("an export is deleted",                       "0 executions, restored",                                delete_export),
    probe("an export is tampered with",                 "0 executions, right bytes back; a blob: its producer",  tamper),
    probe("an input is edited while its task runs",     "recorded under neither content, said, next run right",  edit_meanwhile),
    probe("kill -9 of everything, then the same again", "nothing finished repeats, no partial output, exit 0",   kill_everything),
    probe("two, then eight invocations at once",        "12 executions in all, every exit code 0",               at_once),
    probe("any state file is cut, flipped or deleted",  "a warning, right result, no more work than was lost",   damage_state),
    probe("dry run on a clean clone",                   "exit 0, or 4, 12 listed with reasons, nothing written", dry_run),
];

#[test]
fn every_row_is_ideal() {
    std::thread::scope(|scope| {
        let shown = PROBES.map(|probe| {
            let thread = scope.spawn(move || (probe.show)(&Dozen::new()));
            (probe.what, probe.ideal, thread)
        });
        let failed: Vec<String> = shown
            .into_iter()
            .filter_map(|(what, ideal, thread)| match thread.join() {
                Ok(()) => None,
                Err(_) => Some(format!("{what}: {ideal}")),
            })
            .collect();
        assert!(failed.is_empty(), "not ideal:\n{}", failed.join("\n"));
    });
}

const NOTHING: &[&str] = &[];

/// Moves the times of a file, and of nothing else.
fn touch_at(path: &Path, time: SystemTime) {
    let file = File::options().append(true).open(path);
    file.and_then(|file| file.set_modified(time))
        .expect("the time is set");
}

fn touch(dozen: &Dozen) {
    dozen.executes(&everything());
    let now = SystemTime::now();
    let year = Duration::from_secs(365 * 24 * 3600);
    for time in [now, now + year, now - year] {
        touch_at(&dozen.project.path("data/a.txt"), time);
        dozen.executes(NOTHING);
    }
    dozen
        .project
        .write("data/a.txt", &dozen.project.read("data/a.txt"));
    dozen.executes(NOTHING);
}

fn everything() -> Vec<&'static str> {
    vec![
        "a0", "a1", "a2", "a3", "a4", "a5", "b0", "b1", "b2", "b3", "b4", "b5",
    ]
}

fn edit(dozen: &Dozen) {
    dozen.executes(&everything());
    // `a0` keeps three lines.
    dozen
        .project
        .write("data/a.txt", "a1\na2\na3\nanother fourth\n");
    dozen.executes(&["a0"]);
    dozen.project.write("data/a.txt", "a1\na2\nA3\n");
    dozen.executes(&["a0", "a1", "a2", "a3", "a4", "a5"]);
}

fn delete_export(dozen: &Dozen) {
    dozen.executes(&everything());
    fs::remove_file(dozen.export("a3")).expect("the export is there");
    dozen.executes(NOTHING);
    fs::remove_dir_all(dozen.project.path("cache/latest")).expect("exports are there");
    dozen.executes(NOTHING);
}

fn tamper(dozen: &Dozen) {
    dozen.executes(&everything());
    for damage in Damage::ALL {
        damage.harm(&dozen.export("a3"));
        dozen.executes(NOTHING);
    }
    for damage in Damage::ALL {
        damage.harm(&dozen.blob("a3"));
        dozen.executes(&["a3"]).says("warning");
        // Without the memo, too: it only saves time.
        damage.harm(&dozen.blob("b4"));
        fs::remove_dir_all(dozen.project.path("cache/memo")).expect("the memo is there");
        dozen.executes(&["b4"]).says("warning");
    }
}

fn edit_meanwhile(dozen: &Dozen) {
    let (old, new) = ("old\n", "new\n");
    for moment in ["begun", "done"] {
        dozen.project.write("data/a.txt", old);
        let home = dozen.home("meanwhile");
        home.hold("a0", moment);
        let mut command = dozen.command(&[], &home);
        let build = command
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("the program starts");
        home.await_held("a0", moment);
        dozen.project.write("data/a.txt", new);
        home.release("a0", moment);
        let ended = build.wait_with_output().expect("the program ends");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{moment}: {said}");
        assert!(said.contains("`data/a.txt` changed"), "{moment}: {said}");
        assert!(!dozen.finished().contains("a0"), "{moment}: recorded");
    }
    // Neither content counts as done: each runs once.
    for text in [new, old] {
        dozen.project.write("data/a.txt", text);
        let (_, executed) = dozen.build();
        assert!(executed.contains(&"a0".to_owned()), "{text}: {executed:?}");
    }
    dozen.project.write("data/a.txt", new);
    dozen.executes(NOTHING);
}

fn kill_everything(dozen: &Dozen) {
    const STEPS: [&str; 6] = ["0", "1", "2", "3", "4", "5"];
    for (index, step) in STEPS.iter().enumerate() {
        let moment = ["begun", "done"][index % 2];
        let (before, home) = (dozen.finished(), dozen.home(step));
        // Nothing gets further than this step.
        for later in &STEPS[index..] {
            home.hold(&format!("a{later}"), moment);
            home.hold(&format!("b{later}"), moment);
        }
        let mut build = dozen.start(&["-j", "12"], home);
        build.home.await_held(&format!("a{step}"), moment);
        kill_group(build.child.id());
        build.child.wait().expect("the program ends");
        let what = format!("killed when a{step} was {moment}");
        assert_eq!(dozen.visibly_wrong(), [""; 0], "{what}");
        assert!(!dozen.export(&format!("a{step}")).exists(), "{what}");
        let ran = build.home.ran();
        assert!(
            ran.iter().all(|task| !before.contains(task)),
            "{what}: {ran:?}, {before:?}"
        );
    }
    let before = dozen.finished();
    let (_, executed) = dozen.build();
    assert!(
        executed.iter().all(|task| !before.contains(task)),
        "{executed:?}, {before:?}"
    );
    assert_eq!(dozen.two_writers(), "");
    assert!(files(&dozen.project.path("cache/tmp")).is_empty());
    dozen.executes(NOTHING);
}

fn at_once(_: &Dozen) {
    for builds in [2, 8] {
        let dozen = Dozen::paced("0.01", "0");
        let running: Vec<_> = (0..builds)
            .map(|n| dozen.start(&[], dozen.home(&format!("build-{n}"))))
            .collect();
        let mut executed = Vec::new();
        for mut build in running {
            let status = build.child.wait().expect("the program ends");
            assert_eq!(status.code(), Some(0), "{builds} at once");
            executed.extend(build.home.ran());
        }
        executed.sort();
        assert_eq!(executed, all(), "{builds} at once");
        assert_eq!(dozen.wrong(), [""; 0], "{builds} at once");
        assert_eq!(dozen.two_writers(), "", "{builds} at once");
        dozen.executes(NOTHING);
    }
}

/// Every file below `cache/`, harmed in every way.
fn damage_state(dozen: &Dozen) {
    dozen.executes(&everything());
    let cache = dozen.project.path("cache");
    for path in files(&cache) {
        for damage in Damage::ALL {
            // What a file means is read before it is harmed.
            let lost = producer(dozen, &path);
            if !path.exists() || !damage.harm(&path) {
                continue;
            }
            let name = path.strip_prefix(&cache).expect("below the cache");
            let ran = match name.starts_with("history") {
                true => build_something(dozen),
                false => dozen.executes(&lost.iter().map(String::as_str).collect::<Vec<_>>()),
            };
            let (said, what) = (ran.stderr(), format!("{damage:?} {}", name.display()));
            assert!(!said.contains("panicked"), "{what}: {said}");
            let must_say = match name.iter().next().and_then(|room| room.to_str()) {
                Some("receipts") => damage != Damage::Deleted,
                Some("memo") => damage != Damage::Deleted && is_memo(name),
                Some("blobs") => true,
                _ => false,
            };
            assert!(
                !must_say || said.contains("warning"),
                "{what} passed in silence: {said}"
            );
        }
    }
    dozen.executes(NOTHING);
}

/// What is remembered of how files looked. (A damaged seal is none, and everything is looked at again.)
fn is_memo(name: &Path) -> bool {
    ["sources", "blobs", "latest"]
        .map(|memo| Path::new("memo").join(memo))
        .contains(&name.to_owned())
}

/// The history is read when something runs: `b0`, whose output stays what it was.
fn build_something(dozen: &Dozen) -> Ran {
    let old = dozen.project.read("data/b.txt");
    let times = dozen.receipts()["b0"].len();
    dozen
        .project
        .write("data/b.txt", &format!("b1\nb2\nb3\n{times}\n"));
    let ran = dozen.executes(&["b0"]);
    dozen.project.write("data/b.txt", &old);
    dozen.executes(NOTHING);
    ran
}

/// The task whose work is lost with a file.
fn producer(dozen: &Dozen, path: &Path) -> Option<String> {
    let finished = dozen.receipts();
    let owner = finished
        .iter()
        .find(|(_, receipts)| receipts.iter().any(|receipt| receipt == path));
    match owner {
        Some((task, _)) => Some(task.clone()),
        None => finished.into_keys().find(|task| dozen.blob(task) == path),
    }
}

fn dry_run(dozen: &Dozen) {
    let before = everything_below(&dozen.project.path(""));
    let listed = [
        dozen.run(&["-n"]),
        dozen.run(&["plan"]),
        dozen.run(&["plan", "--detailed-exitcode"]),
    ];
    for ((ran, executed), code) in listed.into_iter().zip([0, 0, 4]) {
        let text = ran.exits(code).stdout();
        for task in all() {
            let line = text
                .lines()
                .find(|line| line.contains(&format!(" {task} ")));
            let line = line.unwrap_or_else(|| panic!("`{task}` is not listed:\n{text}"));
            let reason = line.split("  ").last().unwrap_or_default();
            assert!(
                reason.contains("never built") || reason.contains("after"),
                "{line}"
            );
        }
        assert_eq!(executed, [""; 0]);
    }
    assert_eq!(everything_below(&dozen.project.path("")), before);
}

/// Every path with its length and the time of its last change.
fn everything_below(folder: &Path) -> Vec<(std::path::PathBuf, u64, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is read").flatten() {
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).expect("the path is there");
        if metadata.is_dir() {
            found.extend(everything_below(&path));
        }
        found.push((path, metadata.len(), metadata.modified().expect("a time")));
    }
    found.sort();
    found
}
