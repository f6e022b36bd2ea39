//! Builds that are killed, and builds that run beside each other. Each is a process of its own: this test program,
//! started again.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kbuild_engine::runner::Process;

use crate::world::{World, files, until};

const FOLDER: &str = "KBUILD_TEST_FOLDER";

/// Not a test: the body of a build process, when another test started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_of_a_build_process() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let project = World::open_at(folder.as_ref());
    let outcome = World::build_at(&project, "all", |_| ()).await;
    assert!(outcome.is_complete());
}

fn spawn(world: &World) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::body_of_a_build_process"])
        .env(FOLDER, world.path("project"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Six tasks in three layers; each says when it begins.
fn layers(body: &str) -> World {
    let mut text = "kananafile = 1\n[goal]\nall = [':c0', ':c1']\n".replace('\'', "\"");
    for (layer, inputs) in [
        ("a", vec!["source.txt"]),
        ("b", vec![":a0", ":a1"]),
        ("c", vec![":b0", ":b1"]),
    ] {
        for n in 0..2 {
            text.push_str(&format!(
                r#"
[task.{layer}{n}]
kind = "command"
inputs.x = {inputs:?}
outputs = {{ out = "file" }}
params.argv = ["sh", "-c", 'echo {layer}{n} >> RUNS; {body}; echo {layer}{n} > "$0"', "{{outputs.out}}", "{{inputs.x}}"]
"#
            ));
        }
    }
    World::new(&text, &[("source.txt", "text\n")])
}

const ALL: [&str; 6] = ["a0", "a1", "b0", "b1", "c0", "c1"];

#[test]
fn builds_at_once_share_the_work() {
    for builds in [2, 8] {
        let world = layers("sleep 0.03");
        let running: Vec<Child> = (0..builds).map(|_| spawn(&world)).collect();
        for mut build in running {
            assert!(build.wait().unwrap().success(), "{builds} at once");
        }
        assert_eq!(world.runs(), ALL, "{builds} at once");
    }
}

/// Names of tasks that have a receipt.
fn finished(world: &World) -> BTreeSet<String> {
    let receipts = files(&world.cache().join("receipts"));
    receipts
        .into_iter()
        .filter(|(path, _)| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|(_, bytes)| {
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            value["receipt"]["task"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn killed_at_any_moment_nothing_finished_repeats() {
    let mut midway = 0;
    for after_ms in [5, 40, 70, 100, 130, 170] {
        let world = layers("sleep 0.04");
        let mut build = spawn(&world);
        std::thread::sleep(Duration::from_millis(after_ms));
        build.kill().unwrap();
        build.wait().unwrap();
        let before = finished(&world);
        midway += usize::from(!before.is_empty() && before.len() < ALL.len());
        world.runs();
        assert!(
            spawn(&world).wait().unwrap().success(),
            "killed after {after_ms} ms"
        );
        // A command of the killed build may say that it begins at any time before the next build ends it.
        let again: BTreeSet<String> = world.runs().into_iter().collect();
        assert!(
            again.is_disjoint(&before),
            "killed after {after_ms} ms: {again:?}, {before:?}"
        );
        assert_eq!(finished(&world).len(), ALL.len());
        assert!(
            files(&world.cache().join("tmp")).is_empty(),
            "killed after {after_ms} ms"
        );
    }
    println!("{midway} of the builds were killed midway");
}

/// A command that leaves a grandchild behind which ignores everything but SIGKILL, and waits for it the first time.
const STUBBORN: &str = r#"
if test ! -e PIDS; then
  (trap "" TERM HUP INT; exec sleep 60) &
  echo $! > PIDS.new; echo $$$$ >> PIDS.new; mv PIDS.new PIDS; wait
fi"#;

fn stubborn() -> (World, Vec<Process>, Child) {
    let text = format!(
        r#"
kananafile = 1
[goal]
all = [":t"]
[task.t]
kind = "command"
inputs.x = "source.txt"
outputs = {{ out = "file" }}
params.argv = ["sh", "-c", '''{}; echo done > "$0"''', "{{outputs.out}}", "{{inputs.x}}"]
"#,
        STUBBORN.replace("PIDS", "RUNS.pids")
    );
    let world = World::new(&text, &[("source.txt", "text\n")]);
    let build = spawn(&world);
    let pids = world.path("runs.pids");
    until("the command runs", || pids.exists());
    let left = fs::read_to_string(&pids).unwrap();
    let left = left
        .lines()
        .map(|pid| Process::find(pid.parse().unwrap()).unwrap())
        .collect();
    (world, left, build)
}

#[test]
fn the_next_build_ends_what_a_killed_one_left() {
    let (world, left, mut build) = stubborn();
    build.kill().unwrap();
    build.wait().unwrap();
    assert!(spawn(&world).wait().unwrap().success());
    assert_eq!(world.latest("t/out"), "done\n");
    assert!(
        left.iter().all(|process| !process.is_alive()),
        "grandchild and child are gone"
    );
}

#[test]
fn a_killed_child_is_a_failure_and_leaves_nobody() {
    let (world, left, mut build) = stubborn();
    let [grandchild, child] = left[..] else {
        panic!("two processes were recorded")
    };
    let pid = child.pid.to_string();
    assert!(
        Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(!build.wait().unwrap().success());
    assert!(
        !grandchild.is_alive(),
        "the build ends the group before it leaves"
    );
    assert!(spawn(&world).wait().unwrap().success());
}
