//! What programs and people do that a build must not believe: inputs that are written to, processes that stay, links that
//! are turned.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use kbuild_engine::project::Question;
use kbuild_engine::runner::Stop;
use kbuild_engine::schedule::State;
use tokio::sync::watch;

use crate::world::{World, until};

/// `a` makes a file, `b` does something with it, `c` copies it after `b`.
fn chain(script: &str) -> World {
    let text = format!(
        r#"
kananafile = 1
[task.a]
kind = "command"
inputs.text = "data/text.txt"
outputs = {{ out = "file" }}
params.argv = ["sh", "-c", 'echo a >> RUNS; cat "$1" > "$2"', "sh", "{{inputs.text}}", "{{outputs.out}}"]
[task.b]
kind = "command"
inputs.a = ":a"
outputs = {{ out = "file" }}
params.argv = ["sh", "-c", '''{script}''', "sh", "{{inputs.a}}", "{{outputs.out}}"]
[task.c]
kind = "command"
inputs = {{ a = ":a", b = ":b" }}
outputs = {{ out = "file" }}
params.argv = ["sh", "-c", 'echo c >> RUNS; cat "$1" > "$3"', "sh", "{{inputs.a}}", "{{inputs.b}}", "{{outputs.out}}"]
"#
    );
    World::new(&text, &[("data/text.txt", "clean\n")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_writes_to_its_input_fails_and_the_input_is_made_again() {
    let world =
        chain(r#"echo ok > "$2"; test -e RUNS.tame || { chmod u+w "$1"; echo dirty > "$1"; }"#);
    let built = world.build("c").await;
    let (task, message) = built.failure().unwrap();
    assert_eq!(task, "b");
    assert!(message.contains("was written to"), "{message}");
    assert_eq!(world.runs(), ["a"], "nobody read what it wrote");
    world.write("runs.tame", "");
    world.build("c").await.complete();
    assert_eq!(world.latest("c/out"), "clean\n");
    assert_eq!(world.runs(), ["a", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_left_its_group_does_not_outlive_the_attempt() {
    let world = chain(
        r#"exec 3> "$2"; echo in time >&3; setsid sh -c 'sleep 0.3; echo late >&3; sleep 30' & echo started >&2"#,
    );
    world.build("b").await.complete();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.latest("b/out"), "in time\n");
    world.build("c").await.complete();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_asked_to_leave_has_not_finished_whatever_it_says() {
    let world = chain(
        r#"trap 'exit 0' TERM; echo half > "$2"; echo b >> RUNS; sleep 30 & wait; echo whole > "$2""#,
    );
    let stop = watch::Sender::new(Stop::No);
    let (runs, asker) = (world.path("runs"), stop.clone());
    let asking = std::thread::spawn(move || {
        let began = || fs::read_to_string(&runs).is_ok_and(|text| text.contains('b'));
        until("started", began);
        asker.send_replace(Stop::Leave);
    });
    let built = world.build_with("b", |_| (), stop).await;
    asking.join().unwrap();
    let states: Vec<&State> = built.outcome.states.values().collect();
    assert_eq!(
        states,
        [&State::Built, &State::Cancelled],
        "{:#?}",
        built.events
    );
}

/// A folder `data` that is a link to `one` or `two`, whose files are old and of one size.
fn turned(world: &World, to: &str) {
    let link = world.path("project/turning");
    let _ = fs::remove_file(&link);
    symlink(to, &link).unwrap();
    fs::rename(&link, world.path("project/data")).unwrap();
}

fn two_folders(script: &str) -> World {
    let world = chain(script);
    fs::remove_dir_all(world.path("project/data")).unwrap();
    for (name, text) in [("one", "111\n"), ("two", "222\n")] {
        world.write(&format!("project/{name}/text.txt"), text);
        let path = world.path(&format!("project/{name}/text.txt"));
        let file = fs::File::options().write(true).open(path).unwrap();
        let old = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(old).unwrap();
    }
    turned(&world, "one");
    // The files themselves are not young any more.
    std::thread::sleep(Duration::from_millis(50));
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_turned_and_turned_back_does_not_lend_other_content() {
    let world = two_folders("true");
    let text = world.filled(
        r#"
kananafile = 1
[task.a]
kind = "command"
inputs.text = "data/text.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'rm data; ln -s two data; cat "$1" > "$2"; rm data; ln -s one data', "sh", "{inputs.text}", "{outputs.out}"]
"#,
    );
    world.write("project/Kananafile", &text);
    world.build("a").await.complete();
    assert_eq!(world.latest("a/out"), "111\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seal_speaks_of_what_was_not_read() {
    let world = two_folders(r#"cat "$1" > "$2""#);
    world.build("c").await.complete();
    std::thread::sleep(Duration::from_millis(50));
    let project = world.open();
    let goals = project.graph().select(&["c"]).unwrap();
    let question = |word: &str| Question::new(&project.workspace, &[word.to_owned()]);
    let sealed = |question: &Question, is_turned: bool| {
        let prepared = project.prepare(&goals);
        assert!(project.is_settled(&prepared));
        if is_turned {
            turned(&world, "two");
        }
        project.seal(question, &prepared, b"done", &[]).unwrap()
    };
    assert!(sealed(&question("as it is"), false));
    let asked = question("turned meanwhile");
    assert!(
        !sealed(&asked, true),
        "what lies there now is as old, and was not read"
    );
    assert!(asked.answer(&project.workspace).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_left_elsewhere_goes_while_nobody_else_works() {
    let world = chain(r#"cat "$1" > "$2""#);
    world.build("a").await.complete();
    let left = world.cache().join("tmp/1-1-0badc0de-0");
    let visit = world.open().store.visit().unwrap();
    fs::create_dir_all(&left).unwrap();
    world.build("b").await.complete();
    assert!(left.exists(), "somebody else is there, and may own it");
    drop(visit);
    world.build("c").await.complete();
    assert!(!left.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_removal_can_be_interrupted() {
    let world = chain(r#"cat "$1" > "$2""#);
    world.build("a").await.complete();
    let presence = world.open().store.enter().unwrap().unwrap();
    let wait = || {
        let waits = || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let stop = watch::Sender::new(Stop::Leave);
                world.build_with("b", |_| (), stop).await
            })
        };
        std::thread::scope(|scope| scope.spawn(waits).join().unwrap())
    };
    let built = presence.alone(wait).unwrap();
    assert!(built.outcome.is_interrupted() && !built.outcome.is_complete());
    assert_eq!(built.warnings().len(), 1, "it says what it waits for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_is_damaged_while_another_task_runs_is_not_read() {
    let world = World::new(
        r#"
kananafile = 1
[task.a]
kind = "command"
inputs.text = "data/text.txt"
outputs = { out = "file" }
params.argv = ["cp", "{inputs.text}", "{outputs.out}"]
[task.slow]
kind = "command"
inputs.text = "data/text.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'if test -e RUNS.blob; then f=$(cat RUNS.blob); chmod u+w $f; echo dirty > $f; rm RUNS.blob; fi; echo slow > "$1"', "sh", "{outputs.out}"]
[task.b]
kind = "command"
inputs = { a = ":a", slow = ":slow" }
outputs = { out = "file" }
params.argv = ["sh", "-c", 'cat "$1" "$2" > "$3"', "sh", "{inputs.a}", "{inputs.slow}", "{outputs.out}"]
"#,
        &[("data/text.txt", "clean\n")],
    );
    world.build("a").await.complete();
    let digest = kbuild_engine::digest::Digest::of(b"clean\n");
    let blob = world.open().store.blob_path(&digest);
    world.write("runs.blob", &blob.display().to_string());
    let built = world.build("b").await;
    let (task, message) = built.failure().unwrap();
    assert_eq!(task, "b");
    assert!(message.contains("is damaged"), "{message}");
    world.build("b").await.complete();
    assert_eq!(world.latest("b/out"), "clean\nslow\n");
}
