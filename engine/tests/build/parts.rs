//! Mapping tasks: what one changed shard costs.

use std::fs;

use crate::world::{World, files};

const KANANAFILE: &str = r#"
kananafile = 1
[plugin.upper]
path = "plugin"
[task.up]
kind = "upper"
inputs.lines = "data/*.txt"
[task.all]
kind = "command"
inputs.lines = ":up.out"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo all >> RUNS; cat "$1"/* > "$2"', "sh", "{inputs.lines}", "{outputs.out}"]
"#;

pub const KIND: &str = r#"
version = 1
argv = ["sh", "main.sh"]
files = ["main.sh"]
inputs.lines = { format = "lines", mapped = true }
outputs.out = { format = "lines", mapped = true }
"#;

/// Reads the parts from the request (one member a line), makes each and says so. Stops at a part that holds `stop`.
pub const MAIN: &str = r#"
awk -F'"' '/"index":/ { gsub(/[^0-9]/, ""); part = $0; next }
  part != "" && $2 == "lines" { from = $4 }
  part != "" && $2 == "out" { print part, from, $4; part = "" }' "$1" |
while read part from to; do
  grep -q stop "$from" && exit 1
  echo "$(cat "$from")" >> RUNS
  tr a-z A-Z < "$from" > "$to"
  echo "{\"event\":\"part\",\"index\":$part}"
done
"#;

fn world() -> World {
    World::new(
        KANANAFILE,
        &[
            ("plugin/kind.toml", KIND),
            ("plugin/main.sh", MAIN),
            ("data/1.txt", "one\n"),
            ("data/2.txt", "two\n"),
            ("data/3.txt", "three\n"),
        ],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_missing_parts_run() {
    let world = world();
    world.build("all").await.complete();
    assert_eq!(world.runs(), ["all", "one", "three", "two"]);
    assert_eq!(world.latest("all/out"), "ONE\nTWO\nTHREE\n");

    world.write("project/data/2.txt", "new\n");
    world.build("all").await.complete();
    assert_eq!(
        world.runs(),
        ["all", "new"],
        "one changed shard is one part"
    );
    assert_eq!(world.latest("all/out"), "ONE\nNEW\nTHREE\n");

    fs::rename(
        world.path("project/data/1.txt"),
        world.path("project/data/0.txt"),
    )
    .unwrap();
    world.build("all").await.complete();
    assert_eq!(world.runs(), [""; 0], "names of shards are not content");

    world.write("project/data/4.txt", "one\n");
    world.build("all").await.complete();
    assert_eq!(world.runs(), ["all"], "an equal shard was made before");
    assert_eq!(world.latest("all/out"), "ONE\nNEW\nTHREE\nONE\n");

    fs::remove_file(world.path("project/data/3.txt")).unwrap();
    world.write("project/data/4.txt", "");
    world.build("all").await.complete();
    assert_eq!(
        world.runs(),
        ["", "all"],
        "an emptied shard stays as a part"
    );
    assert_eq!(files(&world.cache().join("latest/up/out")).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_parts_survive_a_failure() {
    let world = world();
    world.write("project/data/2.txt", "stop\n");
    assert!(!world.build("up").await.outcome.is_complete());
    assert_eq!(world.runs(), ["one"]);
    world.write("project/data/2.txt", "two\n");
    world.build("up").await.complete();
    assert_eq!(world.runs(), ["three", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_promises_about_parts_are_failures() {
    for (broken, expected) in [
        (
            "echo '{\"event\":\"part\",\"index\":7}'",
            "part 7, which it was not asked for",
        ),
        ("echo '{\"event\":\"part\",\"index\":0}'", "is missing"),
        ("true", "without making part 0"),
    ] {
        let world = world();
        world.write("project/plugin/main.sh", broken);
        let built = world.build("up").await;
        let (_, message) = built.failure().unwrap();
        assert!(message.contains(expected), "{broken}: {message}");
    }
}
