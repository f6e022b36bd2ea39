//! Running a task again: the same bytes, other bytes, and other bytes of another numeric environment.

use std::path::Path;

use kbuild_engine::build::Options;
use kbuild_engine::event::Events;
use kbuild_engine::kind::{Kinds, Likeness};
use kbuild_engine::project::{FileDifference, Project, Verdict};
use kbuild_engine::runner::Stop;
use tokio::sync::watch;

use crate::world::{World, files};

/// `moody` writes a number that grows with every run.
const TASKS: &str = r#"
kananafile = 1
[task.sorted]
kind = "command"
inputs.words = "data/*.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'cat "$1"/* | sort > "$2"', "sh", "{inputs.words}", "{outputs.out}"]
[task.moody]
kind = "command"
inputs.words = ":sorted"
outputs = { out = "directory" }
params.argv = ["sh", "-c", 'echo x >> RUNS; cp "$1" "$2/same"; wc -l < RUNS > "$2/runs"', "sh", "{inputs.words}", "{outputs.out}"]
"#;

async fn again(project: &Project, task: &str) -> Option<Vec<FileDifference>> {
    let kinds = Kinds::default().comparing("directory", near);
    let id = project.graph().find(task).unwrap()[0];
    let stop = watch::Sender::new(Stop::No);
    let quiet = Events::new(|_| ());
    let again = project
        .again(id, Options::new("test"), quiet, stop.subscribe())
        .await
        .unwrap()?;
    assert!(again.outcome.is_complete());
    Some(project.compare(project.graph().task(id), &again, &kinds))
}

/// Numbers that differ by at most one are close.
fn near(_: &str, a: &Path, b: &Path) -> Result<Likeness, String> {
    let number = |path: &Path| -> f64 {
        let text = std::fs::read_to_string(path).unwrap();
        text.trim().parse().unwrap()
    };
    let apart = (number(a) - number(b)).abs();
    Ok(Likeness {
        is_close: apart <= 1.0,
        detail: format!("{apart} apart"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_is_compared_and_leaves_the_store_as_it_was() {
    let world = World::new(TASKS, &[("data/1.txt", "b\n"), ("data/2.txt", "a\n")]);
    let project = world.open();
    assert_eq!(again(&project, "sorted").await, None, "never built");
    world.build("moody").await.complete();
    let before = files(&world.cache());
    assert_eq!(again(&project, "sorted").await, Some(Vec::new()));

    let found = again(&project, "moody").await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let of_runs = ("out".to_owned(), "runs".to_owned(), Verdict::Differs);
    assert_eq!(
        (
            found[0].port.clone(),
            found[0].file.clone(),
            found[0].verdict
        ),
        of_runs
    );
    assert_eq!(files(&world.cache()), before);
    assert_eq!(world.runs().len(), 2, "it did run again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_environment_is_asked_for_likeness_and_not_for_bytes() {
    let world = World::new(TASKS, &[("data/1.txt", "b\n"), ("data/2.txt", "a\n")]);
    world.build("moody").await.complete();
    let project = world.open();
    let key = project.store.last("moody").unwrap().key;
    let mut receipt = project.store.receipt(&key).unwrap().unwrap();
    let device = receipt.environment.get_mut("device").unwrap();
    assert_eq!(device, "cpu");
    "gpu".clone_into(device);
    project.store.write_receipt(&receipt).unwrap();

    let found = again(&project, "moody").await.unwrap();
    assert_eq!(
        (found[0].verdict, found[0].detail.as_str()),
        (Verdict::Close, "1 apart")
    );
    let found = again(&project, "moody").await.unwrap();
    assert_eq!(
        (found[0].verdict, found[0].detail.as_str()),
        (Verdict::Differs, "2 apart")
    );
}
