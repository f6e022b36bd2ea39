//! Content that goes once nothing needs it, and comes back when something does.

use std::fs;
use std::sync::Arc;

use kbuild_engine::build::Options;
use kbuild_engine::event::BuildEvent;
use kbuild_engine::runner::Stop;
use kbuild_engine::store::Step;
use tokio::sync::watch;

use crate::world::{World, files};

/// A command that reads files and leaves a line for each execution.
fn command(name: &str, inputs: &str, script: &str) -> String {
    format!(
        r#"
[task.{name}]
kind = "command"
inputs.from = {inputs}
outputs = {{ out = "file" }}
params.argv = ["sh", "-c", '''echo {name} >> RUNS; out="$1"; shift; {script}''', "sh", "{{outputs.out}}", "{{inputs.from}}"]
"#
    )
}

fn temporary(name: &str, inputs: &str, script: &str) -> String {
    command(name, inputs, script).replace("kind =", "temporary = true\nkind =")
}

/// `raw` → `mid` → `side` and `end`; `raw` keeps the first line of its source.
fn chain() -> String {
    [
        "kananafile = 1\n".to_owned(),
        temporary("raw", r#""data.txt""#, r#"echo RAW > "$out"; head -n 1 "$1" >> "$out""#),
        temporary("mid", r#"":raw""#, r#"cat "$1" > "$out"; echo MID >> "$out""#),
        command(
            "side",
            r#"":mid""#,
            r#"test -e flag && exit 1; grep -L MID cache/blobs/*/* | xargs grep -l RAW >> RUNS; wc -l < "$1" > "$out""#,
        ),
        command("end", r#"[":mid", ":side"]"#, r#"cat "$@" | wc -c > "$out""#),
    ]
    .concat()
}

fn world(kananafile: &str) -> World {
    World::new(kananafile, &[("data.txt", "one\n")])
}

/// Names of temporary texts that are in the store.
fn left(world: &World) -> Vec<&'static str> {
    let texts: Vec<Vec<u8>> = files(&world.cache().join("blobs")).into_values().collect();
    let latest = files(&world.cache().join("latest")).into_values();
    let copies: Vec<Vec<u8>> = latest.filter(|text| text.starts_with(b"RAW")).collect();
    assert!(copies.iter().all(|copy| texts.contains(copy)));
    let has = |mark: &str| {
        let is_one = |text: &&Vec<u8>| {
            let text = String::from_utf8_lossy(text);
            text.starts_with("RAW") && text.contains("MID") == (mark == "mid")
        };
        texts.iter().any(|text| is_one(&text))
    };
    ["raw", "mid"]
        .into_iter()
        .filter(|mark| has(mark))
        .collect()
}

/// Executions of a build of `goal`, and whether another build would find nothing to do, at once.
#[track_caller]
fn settled(world: &World, goal: &str) -> bool {
    let project = world.open();
    let goals = project.graph().select(&[goal]).unwrap();
    project.is_settled(&project.prepare(&goals))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_goes_with_its_last_reader_and_nothing_runs_again() {
    let world = world(&chain());
    let built = world.build("end").await.complete();
    assert_eq!(
        world.runs(),
        ["end", "mid", "raw", "side"],
        "raw was gone when side ran"
    );
    let dropped = built.events.iter().filter_map(|event| match event {
        BuildEvent::Dropped { tasks, bytes } => Some((tasks[0].as_str(), *bytes)),
        _ => None,
    });
    assert_eq!(dropped.collect::<Vec<_>>(), [("raw", 8), ("mid", 12)]);
    assert_eq!(left(&world), [""; 0]);
    assert!(settled(&world, "end"));
    let built = world.build("end").await.complete();
    assert_eq!((built.outcome.totals.hits, world.runs().len()), (4, 0));
    assert!(built.warnings().is_empty(), "{:?}", built.warnings());
    let project = world.open();
    assert_eq!(project.store.examine().findings, []);
    let kept = project
        .store
        .garbage(&project.reached(), &Default::default());
    assert_eq!((kept.results, kept.freed()), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reader_needs_comes_back_and_the_others_stay_hits() {
    let text = chain();
    let world = world(&text);
    world.build("end").await.complete();
    world.runs();
    let changed = text.replace("wc -c >", "wc -w >");
    world.write("project/Kananafile", &world.filled(&changed));
    world.build("end").await.complete();
    assert_eq!(world.runs(), ["end", "mid", "raw"]);
    assert_eq!(left(&world), [""; 0]);

    world.write("project/data.txt", "one\nand more\n");
    let built = world.build("end").await.complete();
    let hits = built.outcome.totals.hits;
    assert_eq!(
        (world.runs(), hits),
        (vec!["raw".to_owned()], 3),
        "early cutoff"
    );
    assert_eq!(left(&world), [""; 0]);

    world.build("mid").await.complete();
    assert_eq!(world.runs(), ["mid", "raw"], "a goal wants it back");
    assert_eq!(left(&world), ["mid"], "and keeps it");
    world.build("mid").await.complete();
    assert_eq!(world.runs(), [""; 0]);
    assert!(!settled(&world, "end"), "there is something to drop");
    world.build("end").await.complete();
    assert_eq!((world.runs().len(), left(&world).len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_reader_keeps_what_it_needs() {
    let world = world(&chain());
    world.write("project/flag", "");
    let built = world.build("end").await;
    assert!(!built.outcome.is_complete());
    world.runs();
    assert_eq!(left(&world), ["mid"]);
    fs::remove_file(world.path("project/flag")).unwrap();
    world.build("end").await.complete();
    assert_eq!(world.runs(), ["end", "side"]);
    assert_eq!(left(&world), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_while_others_are_in_the_store() {
    let world = world(&chain());
    let store = world.open().store;
    store.create().unwrap();
    let other = store.enter().unwrap().unwrap();
    world.build("end").await.complete();
    assert_eq!(left(&world), ["raw", "mid"]);
    assert!(!settled(&world, "end"));
    drop(other);
    let runs = world.runs();
    assert_eq!(runs.len(), 5, "{runs:?}");
    world.build("end").await.complete();
    assert_eq!((world.runs().len(), left(&world).len()), (0, 0));
    assert!(settled(&world, "end"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_or_a_result_with_the_same_content_keeps_it() {
    let twin = command("twin", r#"":raw""#, r#"cat "$1" > "$out""#);
    let world = world(&(chain() + &twin + "[goal]\nboth = [':end', ':twin']\n"));
    world.build("both").await.complete();
    assert_eq!(left(&world), ["raw"], "it is the content of twin, too");
    assert!(
        settled(&world, "both"),
        "it is not looked for again and again"
    );
    let project = world.open();
    let key = project.store.last("mid").unwrap().key;
    project.store.pin(&key).unwrap();
    world.build("mid").await.complete();
    world.build("both").await.complete();
    assert_eq!(left(&world), ["raw", "mid"]);
    assert!(settled(&world, "both"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_cutoff_reaches_through_several_that_were_dropped() {
    let text = [
        "kananafile = 1\n".to_owned(),
        temporary("raw", r#""data.txt""#, r#"head -n 1 "$1" > "$out""#),
        temporary("one", r#"":raw""#, r#"cat "$1" > "$out"; echo 1 >> "$out""#),
        temporary("two", r#"":raw""#, r#"cat "$1" > "$out"; echo 2 >> "$out""#),
        temporary("both", r#"[":one", ":two"]"#, r#"cat "$@" > "$out""#),
        command(
            "end",
            r#"[":both", ":two"]"#,
            r#"cat "$@" | wc -c > "$out""#,
        ),
    ];
    let world = world(&text.concat());
    world.build("end").await.complete();
    world.runs();
    world.write("project/data.txt", "one\nand more\n");
    world.build("end").await.complete();
    assert_eq!(world.runs(), ["raw"]);
    world.write("project/data.txt", "another\n");
    world.build("end").await.complete();
    assert_eq!(world.runs(), ["both", "end", "one", "raw", "two"]);
    assert_eq!(files(&world.cache().join("blobs")).len(), 2, "of end alone");
}

/// `moody` never gives the same twice; `b` reads it and `calm`.
fn moody() -> String {
    [
        "kananafile = 1\n".to_owned(),
        temporary("moody", r#""data.txt""#, r#"wc -l < RUNS > "$out""#),
        temporary("calm", r#""data.txt""#, r#"cat "$1" > "$out""#),
        command("a", r#"":moody""#, r#"cat "$1" > "$out"; echo a >> "$out""#),
        command("b", r#"[":moody", ":calm"]"#, r#"cat "$@" > "$out""#),
        command("end", r#"[":a", ":b"]"#, r#"cat "$@" > "$out""#),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_gives_something_else_the_second_time_is_followed() {
    let text = moody();
    let world = world(&text);
    world.build("end").await.complete();
    let changed = text.replace(
        "echo a >> RUNS; out=\"$1\"; shift; cat",
        "echo a >> RUNS; out=\"$1\"; shift; : ; cat",
    );
    world.write("project/Kananafile", &world.filled(&changed));
    let built = world.build("end").await.complete();
    let ran = world.runs();
    let times = |task: &str| ran.iter().filter(|name| *name == task).count();
    assert_eq!((times("b"), times("calm")), (2, 2), "{ran:?}");
    assert!(built.warnings()[0].contains("`b` must run after all"));
    let a = world.latest("a/out");
    let moody = a.strip_suffix("a\n").unwrap();
    let b = format!("{moody}one\n");
    assert_eq!(world.latest("b/out"), b, "both read the same");
    assert_eq!(world.latest("end/out"), format!("{a}{b}"));
    world.build("end").await.complete();
    assert_eq!(world.runs(), [""; 0]);
}

/// `first` and `second` have the same bytes. The receipt of `second` is held back until `first` would have been dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_has_no_receipt_yet_is_not_dropped_with_its_equal() {
    let text = [
        "kananafile = 1\n[goal]\nall = [':tail', ':reader']\n".to_owned(),
        temporary("first", r#""data.txt""#, r#"cat "$1" > "$out""#),
        temporary("second", r#""data.txt""#, r#": ; cat "$1" > "$out""#),
        command("end", r#"":first""#, r#"wc -c < "$1" > "$out""#),
        command("tail", r#"":end""#, r#"cp "$1" "$out""#),
        command("reader", r#"":second""#, r#"cat "$1" "$1" > "$out""#),
    ];
    let world = world(&text.concat());
    let mut project = world.open();
    let runs = world.path("runs");
    let witness = move |step: Step<'_>| {
        let is_second =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(r#""task":"second""#);
        if matches!(step, Step::Write(_, bytes) if is_second(bytes)) {
            let is_past = || fs::read_to_string(&runs).is_ok_and(|runs| runs.contains("tail"));
            crate::world::until("the reader of `first` is done", is_past);
        }
        Ok(())
    };
    project.store = project.store.clone().with_witness(Arc::new(witness));
    let several = |options: &mut Options| options.resources.cpu = 4;
    let stop = watch::Sender::new(Stop::No);
    World::run(&project, "all", several, stop).await.complete();
    assert_eq!(world.latest("reader/out"), "one\none\n");
    assert_eq!(world.open().store.examine().findings, []);
    assert_eq!(files(&world.cache().join("blobs")).len(), 2, "of goals");
}

const MAPPED: &str = r#"
kananafile = 1
[plugin.upper]
path = "plugin"
[task.up]
kind = "upper"
inputs.lines = "data/*.txt"
temporary = true
[task.all]
kind = "command"
inputs.lines = ":up.out"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo all >> RUNS; cat "$1"/* > "$2"', "sh", "{inputs.lines}", "{outputs.out}"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_temporary_task_go_and_come_back_together() {
    let (kind, main) = (crate::parts::KIND, crate::parts::MAIN);
    let files_of_it = [
        ("plugin/kind.toml", kind),
        ("plugin/main.sh", main),
        ("data/1.txt", "one\n"),
        ("data/2.txt", "two\n"),
    ];
    let world = World::new(MAPPED, &files_of_it);
    world.build("all").await.complete();
    assert_eq!(world.runs(), ["all", "one", "two"]);
    let texts: Vec<Vec<u8>> = files(&world.cache().join("blobs")).into_values().collect();
    assert_eq!(texts, [b"ONE\nTWO\n"]);
    world.build("all").await.complete();
    assert_eq!(world.runs(), [""; 0]);
    world.build("up").await.complete();
    assert_eq!(world.runs(), ["one", "two"]);
    assert_eq!(world.latest("up/out/00001.txt"), "TWO\n");
    world.write("project/data/2.txt", "new\n");
    world.build("all").await.complete();
    assert_eq!(
        world.runs(),
        ["all", "new"],
        "the parts were kept for a goal"
    );
    assert_eq!(world.latest("all/out"), "ONE\nNEW\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_result_is_neither_accepted_nor_compared() {
    let text = chain();
    let world = world(&text);
    world.build("end").await.complete();
    let project = world.open();
    let find = |task: &str| project.graph().find(task).unwrap()[0];
    assert_eq!(project.dropped(find("side")), ["mid"]);
    assert_eq!(project.dropped(find("mid")), ["raw", "mid"]);
    assert_eq!(project.dropped(find("end")), ["mid"]);
    let changed = text.replace("echo MID >>", "echo MID2 >>");
    world.write("project/Kananafile", &world.filled(&changed));
    let project = world.open();
    let refused = project.accept(find("mid"), "why not").unwrap_err();
    assert!(refused.to_string().contains("was dropped"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_build_keeps_what_its_readers_need() {
    let text = chain().replace(
        "wc -l < \"$1\"",
        "echo waits >> RUNS; sleep 30; wc -l < \"$1\"",
    );
    let world = world(&text);
    let stop = watch::Sender::new(Stop::No);
    let (asker, runs) = (stop.clone(), world.path("runs"));
    let asking = std::thread::spawn(move || {
        let waits = || fs::read_to_string(&runs).is_ok_and(|text| text.contains("waits"));
        crate::world::until("side runs", waits);
        asker.send_replace(Stop::Kill);
    });
    let built = world.build_with("end", |_| (), stop).await;
    asking.join().unwrap();
    assert!(built.outcome.is_interrupted());
    assert_eq!(left(&world), ["mid"]);
}
