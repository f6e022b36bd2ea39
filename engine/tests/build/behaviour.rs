//! What runs again, and what does not.

use std::fs;

use kbuild_engine::event::BuildEvent;
use kbuild_engine::runner::{FailureClass, Stop};
use kbuild_engine::schedule::State;
use tokio::sync::watch;

use crate::world::{World, files};

/// `a` keeps the first line of a source, `b` and `c` read `a`, `d` reads both and another source.
const DIAMOND: &str = r#"
kananafile = 1

[task.a]
kind = "command"
inputs.text = "data/text.txt"
outputs = { line = "file" }
params.argv = ["sh", "-c", 'echo a >> RUNS; head -n 1 "$1" > "$2"', "sh", "{inputs.text}", "{outputs.line}"]

[task.b]
kind = "command"
inputs.line = ":a"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo b >> RUNS; tr a-z A-Z < "$1" > "$2"', "sh", "{inputs.line}", "{outputs.out}"]

[task.c]
kind = "command"
inputs.line = ":a"
outputs = { out = "directory" }
params.argv = ["sh", "-c", 'echo c >> RUNS; mkdir "$2/sub"; cat "$1" > "$2/sub/x"', "sh", "{inputs.line}", "{outputs.out}"]

[task.d]
kind = "command"
inputs = { b = ":b", c = ":c", other = "data/other.txt" }
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo d >> RUNS; cat "$1" "$2/sub/x" "$3" > "$4"', "sh", "{inputs.b}", "{inputs.c}", "{inputs.other}", "{outputs.out}"]
"#;

fn diamond() -> World {
    World::new(
        DIAMOND,
        &[
            ("data/text.txt", "one\ntwo\n"),
            ("data/other.txt", "other\n"),
        ],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_changed_runs_again() {
    let world = diamond();
    let built = world.build("d").await.complete();
    assert_eq!(built.outcome.totals.built, 4);
    assert_eq!(world.runs(), ["a", "b", "c", "d"]);
    assert_eq!(world.latest("d/out"), "ONE\none\nother\n");
    assert_eq!(world.latest("c/out/sub/x"), "one\n");

    let built = world.build("d").await.complete();
    assert_eq!((built.outcome.totals.hits, world.runs().len()), (4, 0));

    world.write("project/data/text.txt", "one\ntwo\n");
    world.build("d").await.complete();
    assert_eq!(world.runs(), [""; 0], "touched");

    world.write("project/data/text.txt", "one\nedited\n");
    world.build("d").await.complete();
    assert_eq!(world.runs(), ["a"], "early cutoff");

    world.write("project/data/text.txt", "edited\n");
    world.build("d").await.complete();
    assert_eq!(world.runs(), ["a", "b", "c", "d"]);

    world.write("project/data/text.txt", "one\ntwo\n");
    world.build("d").await.complete();
    assert_eq!(world.runs(), [""; 0], "an old result is still there");
    assert_eq!(
        world.latest("d/out"),
        "ONE\none\nother\n",
        "and is the newest again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_restored_without_work_and_blobs_by_their_producer() {
    let world = diamond();
    world.build("d").await.complete();
    world.runs();
    let out = world.cache().join("latest/d/out");
    fs::remove_file(&out).unwrap();
    world.build("d").await.complete();
    assert_eq!(world.latest("d/out"), "ONE\none\nother\n", "deleted");
    fs::remove_file(&out).unwrap();
    fs::write(&out, "ONE\none\nOTHER\n").unwrap();
    world.build("d").await.complete();
    assert_eq!(world.latest("d/out"), "ONE\none\nother\n", "tampered with");
    fs::remove_dir_all(world.cache().join("latest")).unwrap();
    world.build("d").await.complete();
    assert_eq!(world.runs(), [""; 0]);

    for damage in ["ONE", "XXX\n"] {
        let blob = files(&world.cache().join("blobs"))
            .into_iter()
            .find_map(|(path, bytes)| (bytes == b"ONE\n").then_some(path))
            .unwrap();
        fs::remove_file(&blob).unwrap();
        fs::write(&blob, damage).unwrap();
        let built = world.build("d").await.complete();
        assert_eq!(world.runs(), ["b"], "{damage:?}");
        assert_eq!(built.warnings().len(), 1, "{:?}", built.warnings());
        assert_eq!(fs::read(&blob).unwrap(), b"ONE\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disposable_state_changes_nothing() {
    let world = diamond();
    world.build("d").await.complete();
    world.runs();
    for name in [
        "memo", "history", "latest", "logs", "tmp", "locks", "partial",
    ] {
        fs::remove_dir_all(world.cache().join(name)).unwrap();
        world.build("d").await.complete();
    }
    let state = files(&world.cache());
    let disposable = state.iter().filter(|(path, _)| {
        let path = path.strip_prefix(world.cache()).unwrap();
        path.starts_with("memo") || path.starts_with("history") || path.starts_with("locks")
    });
    for (path, bytes) in disposable {
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }
    world.build("d").await.complete();
    assert_eq!(world.runs(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planning_writes_nothing() {
    let world = diamond();
    let project = world.open();
    let goals = project.graph().select(&["d"]).unwrap();
    let prepared = project.prepare(&goals);
    assert_eq!(prepared.plan.tasks.len(), 4);
    assert!(!world.cache().exists());
    assert_eq!(world.runs(), [""; 0]);
}

fn one(script: &str) -> World {
    let text = format!(
        r#"
kananafile = 1
[task.t]
kind = "command"
inputs.text = "text.txt"
outputs = {{ out = "file" }}
params.argv = ["sh", "-c", '''{script}''', "sh", "{{inputs.text}}", "{{outputs.out}}", "{{partial}}"]
"#
    );
    World::new(&text, &[("text.txt", "text\n")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_changes_while_it_is_read_discards_the_result() {
    let world = one(r#"echo t >> RUNS; cat "$1" > "$2"; echo more >> "$1""#);
    let built = world.build("t").await;
    let (_, message) = built.failure().unwrap();
    assert!(message.contains("`text.txt` changed"), "{message}");
    assert!(files(&world.cache().join("receipts")).is_empty());
    assert!(files(&world.cache().join("tmp")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_promises_are_failures() {
    for (script, expected) in [
        ("true", "output `out` is missing"),
        (r#"mkdir "$2""#, "is a directory where a file"),
        (r#"ln -s /etc/passwd "$2""#, "leads out"),
        (
            r#"echo x > "$2"; echo y > "$2.more""#,
            "which is no output port",
        ),
        (r#"echo x > "$2"; exit 3"#, "exit status 3"),
        (r#"kill -9 $$$$"#, "probably out of memory"),
    ] {
        let world = one(script);
        let built = world.build("t").await;
        let (_, message) = built.failure().unwrap();
        assert!(message.contains(expected), "{script}: {message}");
        assert!(
            files(&world.cache().join("receipts")).is_empty(),
            "{script}"
        );
        assert!(files(&world.cache().join("blobs")).is_empty(), "{script}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_tells_its_last_words_and_keeps_partial_work() {
    let world = one(
        r#"if test -e "$3/half"; then cat "$3/half" > "$2"; else echo half > "$3/half"; echo why >&2; exit 1; fi"#,
    );
    let built = world.build("t").await;
    let tail = built.events.iter().find_map(|event| match event {
        BuildEvent::Failed { tail, class, .. } => Some((tail.as_str(), *class)),
        _ => None,
    });
    assert_eq!(tail, Some(("why", FailureClass::Environment)));
    let built = world.build("t").await.complete();
    let resumed = built
        .events
        .iter()
        .any(|event| matches!(event, BuildEvent::Running { resumed: true, .. }));
    assert!(resumed);
    assert_eq!(world.latest("t/out"), "half\n");
    assert!(files(&world.cache().join("partial")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_interrupts_and_the_next_build_goes_on() {
    let world = one(
        r#"echo t >> RUNS; trap 'echo saved > "$3/state"; exit 1' TERM; test -e "$3/state" || { sleep 30 & wait; }; cat "$1" > "$2""#,
    );
    let stop = watch::Sender::new(Stop::No);
    let runs = world.path("runs");
    let asker = stop.clone();
    let asking = std::thread::spawn(move || {
        crate::world::until("started", || runs.exists());
        // The trap is set right after the line is written.
        std::thread::sleep(std::time::Duration::from_millis(100));
        asker.send_replace(Stop::Leave);
    });
    let built = world.build_with("t", |_| (), stop).await;
    asking.join().unwrap();
    assert!(!built.outcome.is_complete());
    assert_eq!(
        built.outcome.states.values().next(),
        Some(&State::Cancelled),
        "{:#?}",
        built.events
    );
    world.build("t").await.complete();
    assert_eq!(world.runs(), ["t", "t"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protected_task_waits_for_the_word() {
    let protected = DIAMOND.replace("[task.b]\n", "[task.b]\nprotect = true\n");
    let world = World::new(
        &protected,
        &[("data/text.txt", "one\n"), ("data/other.txt", "other\n")],
    );
    world.build("d").await.complete();
    world.runs();
    world.write("project/data/text.txt", "new\n");
    let built = world.build("d").await;
    assert_eq!(built.outcome.totals.held, 1, "{:#?}", built.events);
    assert_eq!(
        world.runs(),
        ["a", "c"],
        "what does not depend on it is built"
    );
    assert_eq!(built.warnings().len(), 1, "announced");
    let allow = |options: &mut kbuild_engine::build::Options| {
        options.allowed.insert("b".to_owned());
    };
    world
        .build_with("d", allow, watch::Sender::new(Stop::No))
        .await
        .complete();
    assert_eq!(world.runs(), ["b", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_may_pass_is_tried_again() {
    let text = r#"
kananafile = 1
[task.t]
kind = "command"
inputs.text = "text.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo t >> RUNS; test -e "$3/x" || { touch "$3/x"; kill -9 $$$$; }; cat "$1" > "$2"', "sh", "{inputs.text}", "{outputs.out}", "{partial}"]
run = { attempts = 2 }
"#;
    let world = World::new(text, &[("text.txt", "text\n")]);
    let built = world.build("t").await.complete();
    assert_eq!(world.runs(), ["t", "t"]);
    let retried = |event: &BuildEvent| matches!(event, BuildEvent::Failed { retried: true, .. });
    assert!(built.events.iter().any(retried));
    assert_eq!(built.outcome.receipts.values().next().unwrap().attempts, 2);
}
