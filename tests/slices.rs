//! A little moved since everything was done: what rests on it is looked at alone, and nobody can tell from the result.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use common::Project;
use common::processes::kill_group;
use common::random::Random;
use serde_json::Value;

/// Each task gives the lines of what it reads, sorted, each once: a line that is there already changes nothing after
/// the first task.
const KANANAFILE: &str = r#"
kananafile = 1
[goal]
default = [":top", ":side"]
[task.one]
kind = "command"
inputs.a = "one/*.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo one >> runs; cat "$1"/* | sort -u > "$2"', "sh", "{inputs.a}", "{outputs.out}"]
[task.two]
kind = "command"
inputs.a = "two.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo two >> runs; test ! -e fail && sort -u "$1" > "$2"', "sh", "{inputs.a}", "{outputs.out}"]
[task.both]
kind = "command"
inputs = { a = ":one", b = ":two" }
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo both >> runs; sort -u "$1" "$2" > "$3"', "sh", "{inputs.a}", "{inputs.b}", "{outputs.out}"]
[task.alone]
kind = "command"
inputs.a = ":two"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo alone >> runs; grep -v 7 "$1" > "$2"; true', "sh", "{inputs.a}", "{outputs.out}"]
[task.top]
kind = "command"
inputs = { a = ":both", b = ":alone" }
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo top >> runs; sort -u "$1" "$2" > "$3"', "sh", "{inputs.a}", "{inputs.b}", "{outputs.out}"]
[task.side]
kind = "command"
inputs.a = "two.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo side >> runs; head -1 "$1" > "$2"', "sh", "{inputs.a}", "{outputs.out}"]
"#;

const TASKS: usize = 6;

/// Long enough for what was just written to be believed.
fn settle() {
    std::thread::sleep(Duration::from_millis(25));
}

fn started() -> Project {
    let files = [
        ("Kananafile", KANANAFILE),
        ("one/0.txt", "10\n"),
        ("one/1.txt", "11\n"),
        ("two.txt", "20\n"),
    ];
    let project = Project::with(&files);
    project.ok(&[]);
    sealed(&project);
    runs(&project);
    project
}

/// Builds until there is nothing to do, and that is remembered.
fn sealed(project: &Project) {
    settle();
    for _ in 0..3 {
        project.ok(&[]);
    }
}

/// The tasks that ran since this was asked last, in order.
fn runs(project: &Project) -> Vec<String> {
    let runs = fs::read_to_string(project.path("runs")).unwrap_or_default();
    let _ = fs::remove_file(project.path("runs"));
    runs.lines().map(str::to_owned).collect()
}

/// How many tasks the last build took as done without looking at them.
fn beside(project: &Project) -> u64 {
    let logs = fs::read_dir(project.path("cache/logs")).expect("there are logs");
    let newest: PathBuf = logs.flatten().map(|log| log.path()).max().expect("a log");
    let events = fs::read_to_string(newest.join("events.jsonl")).expect("events");
    let first: Value = serde_json::from_str(events.lines().next().expect("one")).expect("JSON");
    first["beside"].as_u64().expect("a number")
}

#[test]
fn where_one_task_gives_what_it_gave_nothing_else_is_looked_at() {
    let project = started();
    project.write("one/1.txt", "11\n10\n");
    let said = project.ok(&[]).stderr();
    assert!(said.contains("[6/6] built one"), "{said}");
    assert!(said.contains("1 built, 5 up to date"), "{said}");
    assert_eq!(runs(&project), ["one"]);
    assert_eq!(beside(&project), TASKS as u64 - 1);
    let status = project.ok(&["status"]).stdout();
    assert!(status.contains("5 tasks up to date"), "{status}");
    for _ in 0..3 {
        settle();
        project
            .ok(&[])
            .says("nothing to do: 6 tasks are up to date");
    }
    assert_eq!(runs(&project), [""; 0]);
}

#[test]
fn where_it_gives_something_else_everything_is_looked_at() {
    let project = started();
    project.write("one/2.txt", "12\n");
    project.ok(&[]).says("3 built, 3 up to date");
    assert_eq!(runs(&project), ["one", "both", "top"]);
    assert_eq!(project.read("cache/latest/top/out"), "10\n11\n12\n20\n");
    // Back again: done before, but not what the others rest on now.
    sealed(&project);
    fs::remove_file(project.path("one/2.txt")).expect("the file is there");
    project.ok(&[]).says("6 up to date");
    assert_eq!(project.read("cache/latest/top/out"), "10\n11\n20\n");
    assert_eq!(runs(&project), [""; 0]);
}

#[test]
fn a_report_is_shown_as_it_is_now() {
    let text = r#"
kananafile = 1
[goal]
default = [":last"]
[task.rep]
kind = "report"
inputs.entries = { a = "m.json" }
params = { title = "t", gates = [ { name = "g", value = "/a/x", below = 5 } ] }
[task.last]
kind = "command"
inputs = { r = ":rep" }
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo same > "$1"', "sh", "{outputs.out}"]
"#;
    let metrics = |x: usize| format!("{{\"kind\":\"report\",\"x\":{x}}}\n");
    let files = [("Kananafile", text), ("m.json", &metrics(3))];
    for goal in [&[][..], &["rep"]] {
        let project = Project::with(&files);
        let mut pages = BTreeSet::new();
        for (x, passed) in [(3, "1 of 1"), (30, "0 of 1"), (3, "1 of 1"), (30, "0 of 1")] {
            project.write("m.json", &metrics(x));
            for _ in 0..4 {
                settle();
                project.ok(goal).says(passed);
            }
            let page = project.read("cache/latest/rep/report.html");
            assert!(page.contains(passed), "{x}: {page}");
            pages.insert(page);
        }
        assert!(pages.len() >= 2);
    }
}

#[test]
fn temporary_content_goes_when_what_held_it_goes() {
    let text = KANANAFILE.replace("[task.one]\n", "[task.one]\ntemporary = true\n");
    let project = Project::with(&[
        ("Kananafile", text.as_str()),
        ("one/0.txt", "10\n"),
        ("two.txt", "20\n"),
    ]);
    project.ok(&["one"]);
    project.ok(&["gc", "--pin", "one"]);
    sealed(&project);
    assert!(project.path("cache/latest/one/out").exists());
    project.ok(&["gc", "--unpin", "one"]);
    project.ok(&[]).says("dropped one");
    assert!(!project.path("cache/latest/one/out").exists());
}

#[test]
fn an_output_that_nobody_reads_makes_nobody_run() {
    let text = KANANAFILE.replace(
        "outputs = { out = \"file\" }\nparams.argv = [\"sh\", \"-c\", 'echo one >> runs; cat \"$1\"/* | sort -u > \"$2\"', \"sh\", \"{inputs.a}\", \"{outputs.out}\"]",
        "outputs = { out = \"file\", all = \"file\" }\nparams.argv = [\"sh\", \"-c\", 'echo one >> runs; cat \"$1\"/* > \"$3\"; sort -u \"$3\" > \"$2\"', \"sh\", \"{inputs.a}\", \"{outputs.out}\", \"{outputs.all}\"]",
    )
    .replace("inputs = { a = \":one\", b", "inputs = { a = \":one.out\", b");
    assert_ne!(text, KANANAFILE);
    let project = started();
    project.write("Kananafile", &text);
    sealed(&project);
    runs(&project);
    project.write("one/1.txt", "11\n11\n");
    project.ok(&[]).says("1 built, 5 up to date");
    assert_eq!(runs(&project), ["one"]);
    assert_eq!(project.read("cache/latest/one/all"), "10\n11\n11\n");
    sealed(&project);
    assert_eq!(runs(&project), [""; 0]);
}

#[test]
fn several_tasks_that_must_run_do_not_wait_for_each_other() {
    let project = started();
    project.write("two.txt", "20\n20\n");
    project.ok(&[]).says("2 built, 4 up to date");
    assert_eq!(beside(&project), 0);
    let ran: BTreeSet<String> = runs(&project).into_iter().collect();
    assert_eq!(ran, ["side", "two"].map(str::to_owned).into());
}

#[test]
fn what_depends_on_a_failure_is_told() {
    let project = started();
    // `side` has run with this before, so `two` is the only one that must.
    fs::write(project.path("fail"), "").expect("a file");
    project.write("two.txt", "20\n21\n");
    project.run(&["side"]).exits(0);
    settle();
    let ran = project.run(&[]).exits(1);
    let said = ran.stderr();
    assert!(said.contains("1 failed, 3 skipped, 2 up to date"), "{said}");
    for task in ["alone", "both", "top"] {
        assert!(
            said.contains(&format!("skipped {task} because of two")),
            "{said}"
        );
    }
    let status = project.ok(&["status"]).stdout();
    assert!(status.contains("2 tasks up to date"), "{status}");
    fs::remove_file(project.path("fail")).expect("the file is there");
    project.ok(&[]).says("4 built, 2 up to date");
    let status = project.ok(&["status"]).stdout();
    assert!(status.contains("2 tasks up to date"), "one log: {status}");
    assert_eq!(project.read("cache/latest/top/out"), "10\n11\n20\n21\n");
}

#[test]
fn a_book_that_is_lost_or_damaged_is_a_look_at_everything() {
    for harm in [
        (|path: &PathBuf| fs::remove_file(path).expect("a book")) as fn(&PathBuf),
        |path| fs::write(path, "harmed").expect("a book"),
        |path| {
            let mut bytes = fs::read(path).expect("a book");
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(path, bytes).expect("a book");
        },
    ] {
        let project = started();
        let memo = fs::read_dir(project.path("cache/memo")).expect("memos");
        let is_book = |path: &PathBuf| path.to_string_lossy().contains("book-");
        let books: Vec<PathBuf> = memo
            .flatten()
            .map(|entry| entry.path())
            .filter(is_book)
            .collect();
        assert!(!books.is_empty());
        books.iter().for_each(harm);
        project.write("one/1.txt", "11\n10\n");
        project.ok(&[]).says("1 built, 5 up to date");
        assert_eq!(beside(&project), 0);
        assert_eq!(runs(&project), ["one"]);
    }
}

#[test]
fn protected_and_temporary_tasks_are_as_they_were() {
    let project = started();
    let text = KANANAFILE.replace("[task.one]\n", "[task.one]\nprotect = true\n");
    project.write("Kananafile", &text);
    sealed(&project);
    project.write("one/1.txt", "11\n10\n");
    project.run(&[]).exits(1).says("--yes one");
    assert_eq!(runs(&project), [""; 0]);
    project.ok(&["--yes", "one"]).says("1 built");
    assert_eq!(runs(&project), ["one"]);

    let text = KANANAFILE.replace("[task.one]\n", "[task.one]\ntemporary = true\n");
    project.write("Kananafile", &text);
    sealed(&project);
    runs(&project);
    project.write("one/1.txt", "11\n10\n11\n");
    project.ok(&[]).says("1 built, 5 up to date");
    assert_eq!(runs(&project), ["one"]);
    sealed(&project);
    assert_eq!(runs(&project), [""; 0]);
}

/// What every task gives, by what lies in the workspace, and what each of them has read.
fn expected(project: &Project) -> BTreeMap<&'static str, (String, String)> {
    let sorted = |text: &str| {
        let lines: BTreeSet<&str> = text.lines().collect();
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let folder = fs::read_dir(project.path("one")).expect("the folder");
    let names: BTreeSet<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    let texts: Vec<String> = names
        .iter()
        .map(|path| fs::read_to_string(path).expect("a source"))
        .collect();
    let two = project.read("two.txt");
    let mut all: BTreeMap<&str, (String, String)> = BTreeMap::new();
    // Shards are what they are by their order, not by their names.
    all.insert("one", (texts.join("\0"), sorted(&texts.concat())));
    all.insert("two", (two.clone(), sorted(&two)));
    let first = two
        .lines()
        .next()
        .map_or(String::new(), |line| format!("{line}\n"));
    all.insert("side", (two.clone(), first));
    let given = |all: &BTreeMap<&str, (String, String)>, task: &str| all[task].1.clone();
    let (one, two) = (given(&all, "one"), given(&all, "two"));
    all.insert(
        "both",
        (format!("{one}\0{two}"), sorted(&format!("{one}{two}"))),
    );
    let kept = two.lines().filter(|line| !line.contains('7'));
    let kept = kept.map(|line| format!("{line}\n")).collect();
    all.insert("alone", (two, kept));
    let (both, alone) = (given(&all, "both"), given(&all, "alone"));
    all.insert(
        "top",
        (
            format!("{both}\0{alone}"),
            sorted(&format!("{both}{alone}")),
        ),
    );
    all
}

/// Changes of all sorts, one after the other, with and without time to be remembered: always the right results, and no
/// work is done twice.
#[test]
fn whatever_changes_results_are_right_and_no_work_is_done_twice() {
    let seed = std::env::var("KBUILD_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(20_261_127);
    println!("seed {seed}");
    let mut random = Random(seed);
    let project = started();
    let mut done: BTreeSet<(&str, String)> = BTreeSet::new();
    let note = |done: &mut BTreeSet<(&'static str, String)>| {
        let new = expected(&project).into_iter();
        let new = new.filter(|(task, (read, _))| done.insert((*task, read.clone())));
        new.map(|(task, _)| task.to_owned())
            .collect::<BTreeSet<_>>()
    };
    note(&mut done);
    for step in 0..120 {
        let (file, line) = (random.below(3), 10 + random.below(30));
        let source = ["one/0.txt", "one/1.txt", "two.txt"][file];
        let export = ["one", "two", "both", "alone", "top", "side"][random.below(6)];
        let export = format!("cache/latest/{export}/out");
        let what = match random.below(9) {
            0..3 => {
                let text = project.read(source);
                project.write(source, &format!("{text}{line}\n"));
                format!("{line} added to {source}")
            }
            3 => {
                let text = project.read(source);
                let kept: Vec<&str> = text.lines().take(1 + random.below(3)).collect();
                project.write(source, &(kept.join("\n") + "\n"));
                format!("{source} cut")
            }
            4 => {
                project.write(&format!("one/{line}.txt"), "10\n");
                format!("one/{line}.txt new")
            }
            5 => {
                let _ = fs::remove_file(project.path(&export));
                project.write(&export, "tampered\n");
                format!("{export} tampered with")
            }
            6 => {
                let _ = fs::remove_file(project.path(&export));
                format!("{export} removed")
            }
            7 => {
                let memo = fs::read_dir(project.path("cache/memo")).expect("memos");
                let memo = memo.flatten().map(|entry| entry.path());
                let memo: Vec<PathBuf> = memo.filter(|path| path.is_file()).collect();
                let path = &memo[random.below(memo.len())];
                fs::remove_file(path).expect("a memo");
                format!("{} removed", path.display())
            }
            _ => "nothing".to_owned(),
        };
        let mut ran = BTreeSet::new();
        for _ in 0..=random.below(3) {
            project.ok(&[]);
            let now = runs(&project);
            let count = now.len();
            let before = ran.len();
            ran.extend(now);
            assert_eq!(
                ran.len(),
                before + count,
                "{step}: {what}: something ran twice"
            );
            if random.below(2) == 0 {
                settle();
            }
        }
        assert_eq!(ran, note(&mut done), "{step}: {what}");
        is_right(&project, &format!("{step}: {what}"));
    }
}

/// Makes `one` run, with another result or with the same.
fn change(project: &Project, random: &mut Random) {
    let text = project.read("one/1.txt");
    let line = match random.below(2) {
        0 => "11".to_owned(),
        _ => (1_000 + random.below(1_000_000)).to_string(),
    };
    project.write("one/1.txt", &format!("{text}{line}\n"));
}

/// Every task's newest result is what it should be.
#[track_caller]
fn is_right(project: &Project, what: &str) {
    for (task, (_, gives)) in expected(project) {
        let found = project.read(&format!("cache/latest/{task}/out"));
        assert_eq!(found, gives, "{what}: {task}");
    }
}

#[test]
fn a_slice_that_is_killed_is_gone_on_with() {
    let (project, mut random) = (started(), Random(7));
    for _ in 0..25 {
        sealed(&project);
        runs(&project);
        change(&project, &mut random);
        let mut build = project.command(&[]).stderr(Stdio::null()).spawn();
        let build = build.as_mut().expect("the program starts");
        std::thread::sleep(Duration::from_micros(random.next() % 40_000));
        kill_group(build.id());
        build.wait().expect("it ends");
        project.ok(&[]);
        is_right(&project, "in the end");
        let ran = runs(&project);
        let most = ran
            .iter()
            .map(|task| ran.iter().filter(|other| *other == task).count());
        assert!(most.max() <= Some(2), "{ran:?}");
    }
}

#[test]
fn several_slices_at_once_do_the_work_once() {
    let (project, mut random) = (started(), Random(8));
    for _ in 0..10 {
        sealed(&project);
        runs(&project);
        change(&project, &mut random);
        let builds = [(); 4].map(|()| project.command(&[]).stderr(Stdio::null()).spawn());
        for build in builds {
            let ended = build.expect("the program starts").wait();
            assert!(ended.expect("it ends").success());
        }
        is_right(&project, "in the end");
        let ran = runs(&project);
        let once: BTreeSet<&String> = ran.iter().collect();
        assert_eq!(once.len(), ran.len(), "{ran:?}");
    }
}
