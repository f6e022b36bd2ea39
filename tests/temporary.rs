//! Temporary tasks: their content goes with its last reader, and comes back where it is needed.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::dozen::{Dozen, Running, all, files};
use common::processes::{kill, kill_group};
use common::random::Random;

/// The dozen with some of its steps temporary, in both halves.
fn dozen(steps: &[&str]) -> Dozen {
    let dozen = Dozen::paced("0.004", "0.1");
    edit(&dozen, |text| {
        let mark = |text: String, step: &&str| {
            ["a", "b"].iter().fold(text, |text, half| {
                let task = format!("[task.{half}{step}]\n");
                text.replace(&task, &format!("{task}temporary = true\n"))
            })
        };
        steps.iter().fold(text, mark)
    });
    dozen
}

fn edit(dozen: &Dozen, change: impl FnOnce(String) -> String) {
    let text = dozen.project.read("Kananafile");
    let changed = change(text.clone());
    assert_ne!(changed, text, "the Kananafile changes");
    dozen.project.write("Kananafile", &changed);
}

fn swap(dozen: &Dozen, from: &str, to: &str) {
    edit(dozen, |text| text.replace(from, to));
}

/// Builds, and gives what was executed.
#[track_caller]
fn build(dozen: &Dozen, words: &[&str]) -> Vec<String> {
    let (ran, executed) = dozen.run(words);
    ran.exits(0);
    executed
}

/// How many files of content the store has, and their bytes.
fn content(dozen: &Dozen) -> (usize, u64) {
    let blobs = files(&dozen.project.path("cache/blobs"));
    let bytes = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
    (blobs.len(), blobs.iter().map(bytes).sum())
}

#[test]
fn what_nobody_needs_any_more_goes_and_nothing_runs_again() {
    let plain = dozen(&["5"]);
    build(&plain, &[]);
    let dozen = dozen(&["0", "1", "2", "3", "4"]);
    assert_eq!(build(&dozen, &[]), all());
    let ((many, large), (few, small)) = (content(&plain), content(&dozen));
    assert_eq!((many, few), (12, 2), "goals are kept");
    assert!(small < large / 2, "{small} of {large} bytes");
    assert!(dozen.export("a5").exists() && !dozen.export("a3").exists());

    let (ran, executed) = dozen.run(&[]);
    let ran = ran.exits(0);
    assert!(executed.is_empty(), "{executed:?}");
    ran.says("nothing to do: 12 tasks are up to date");
    let plan = dozen.project.plan(&[]);
    assert_eq!((&plan["hits"], &plan["misses"]), (&12.into(), &0.into()));
    assert_eq!(plan["tasks"][0]["dropped"], true);
    dozen
        .project
        .ok(&["why", "a0"])
        .says("its content was dropped");
    dozen.project.ok(&["fsck"]).says("0 damaged");
    dozen.project.ok(&["gc", "--yes"]).says("freed 0 B");
    assert!(
        build(&dozen, &[]).is_empty(),
        "the receipts are still there"
    );
}

#[test]
fn exactly_what_is_needed_comes_back() {
    let dozen = dozen(&["0", "1", "2"]);
    build(&dozen, &[]);
    swap(&dozen, "[\":a1\", \":a2\"]", "[\":a2\", \":a1\"]");
    dozen
        .project
        .ok(&["plan"])
        .says("its content was dropped, and `a3` needs it")
        .says("its content was dropped, and `a1`, `a2` need it");
    assert_eq!(build(&dozen, &[]), ["a0", "a1", "a2", "a3", "a5"]);
    assert_eq!(
        content(&dozen).0,
        8,
        "a3, a4, a5 and b3, b4, b5; and those that were"
    );
    assert!(build(&dozen, &[]).is_empty());

    let source = dozen.project.read("data/b.txt");
    dozen
        .project
        .write("data/b.txt", &(source + "another line\n"));
    assert_eq!(
        build(&dozen, &[]),
        ["b0"],
        "its first lines are what they were"
    );
    assert!(build(&dozen, &[]).is_empty());
}

#[test]
fn a_goal_is_made_again_and_kept() {
    let dozen = dozen(&["0", "1", "2", "3"]);
    build(&dozen, &[]);
    let project = &dozen.project;
    let target = project.path("copy").display().to_string();
    let refused = |words: &[&str]| {
        let (ran, executed) = dozen.run(words);
        assert!(executed.is_empty());
        ran.exits(1).says("was dropped")
    };
    refused(&["export", "a2", &target]).says("build it as a goal");
    refused(&["verify", "a4"]).says("`kbuild a2`");
    refused(&["verify", "a2"]);
    refused(&["accept", "a2", "--reason", "no"]);

    assert_eq!(build(&dozen, &["a2"]), ["a0", "a2"]);
    assert!(build(&dozen, &["a2"]).is_empty());
    project.ok(&["export", "a2", &target]);
    assert_eq!(project.read("copy/out"), dozen.expected("a2"));
    let (ran, _) = dozen.run(&["verify", "a4"]);
    ran.exits(0);
    assert_eq!(content(&dozen).0, 5, "a2 beside what was kept before");
    assert!(build(&dozen, &[]).is_empty());
    assert_eq!(content(&dozen).0, 4, "it is no goal of this one");
}

#[test]
fn a_task_that_is_not_temporary_any_more_is_made_again() {
    let dozen = dozen(&["2"]);
    build(&dozen, &[]);
    swap(&dozen, "[task.a2]\ntemporary = true\n", "[task.a2]\n");
    assert_eq!(build(&dozen, &[]), ["a2"]);
    assert_eq!(
        dozen.project.read("cache/latest/a2/out"),
        dozen.expected("a2")
    );
}

#[test]
fn two_builds_and_sudden_ends_lose_nothing() {
    for seed in 1..=6 {
        storm(seed);
    }
}

/// Two builds at once, of which one is killed and then the other, until one gets through.
fn storm(seed: u64) {
    let mut random = Random(seed);
    let dozen = dozen(&["0", "1", "2", "3", "4"]);
    for round in 0..4 {
        let before = dozen.finished();
        let pair = [0, 1].map(|member| {
            let home = dozen.home(&format!("round-{round}-{member}"));
            dozen.start(&[], home)
        });
        for running in pair {
            std::thread::sleep(Duration::from_micros(random.below(60_000) as u64));
            end(running, &before, &mut random, seed);
        }
        assert_eq!(dozen.visibly_wrong(), [""; 0], "seed {seed}");
        assert!(before.is_subset(&dozen.finished()), "seed {seed}");
    }
    build(&dozen, &[]);
    for goal in ["a5", "b5"] {
        let text = dozen.project.read(&format!("cache/latest/{goal}/out"));
        assert_eq!(text, dozen.expected(goal), "seed {seed}");
    }
    assert_eq!(build(&dozen, &[]), [""; 0], "seed {seed}");
    assert_eq!(content(&dozen).0, 2, "seed {seed}");
    dozen.project.ok(&["fsck"]).says("0 damaged");
    assert_eq!(dozen.two_writers(), "");
}

/// What was finished before is not done again: dropped or not, everything that reads it is done.
fn end(running: Running, before: &BTreeSet<String>, random: &mut Random, seed: u64) {
    let Running { mut child, home } = running;
    match random.below(3) {
        0 => kill(child.id()),
        1 => kill_group(child.id()),
        _ => {}
    }
    child.wait().expect("the build ends");
    let ran = home.ran();
    let repeated: Vec<&String> = ran.iter().filter(|task| before.contains(*task)).collect();
    assert!(repeated.is_empty(), "seed {seed}: {repeated:?}");
}
