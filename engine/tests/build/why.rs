//! What `why` says after real builds.

use kbuild_engine::explain::Explanation;
use kbuild_engine::plan::Reason;
use serde_json::json;

use crate::world::World;

const CHAIN: &str = r#"
kananafile = 1
[vars]
top = 2
[task.sorted]
kind = "command"
inputs.words = "data/*.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'cat "$1"/* | sort > "$2"', "sh", "{inputs.words}", "{outputs.out}"]
[task.top]
kind = "command"
inputs.words = ":sorted"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'head -n ${top} "$1" > "$2"', "sh", "{inputs.words}", "{outputs.out}"]
[task.end]
kind = "command"
inputs.top = ":top"
outputs = { out = "file" }
params.argv = ["cp", "{inputs.top}", "{outputs.out}"]
"#;

fn world() -> World {
    let files = ["1", "2", "3"].map(|n| (format!("data/{n}.txt"), format!("w{n}\n")));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    World::new(CHAIN, &files)
}

fn why(world: &World, task: &str) -> Explanation {
    let project = world.open();
    let task = project.graph().find(task).unwrap()[0];
    project.explain(&project.prepare(&[task]), task)
}

/// Tasks of the chain with the parts that changed for them: `("sorted", ["data/2.txt"])`.
fn changed_parts(explanation: &Explanation) -> Vec<(String, Vec<String>)> {
    let links = explanation.chain.iter();
    links
        .map(|link| {
            let parts = link
                .differences
                .iter()
                .filter_map(|each| each.parts.as_ref());
            let names = parts.flat_map(|parts| parts.changed.clone());
            (link.task.clone(), names.collect())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_ends_at_the_source_before_and_after_its_tasks_ran() {
    let world = world();
    let never = why(&world, "end");
    assert_eq!((never.status, &never.last), ("unknown", &None));
    assert!(never.chain.iter().all(|link| link.never_built));

    world.build("end").await.complete();
    assert_eq!(why(&world, "end").chain, []);

    world.write("project/data/2.txt", "w0\n");
    let sorted = ("sorted".to_owned(), vec!["data/2.txt".to_owned()]);
    let waiting = ("top".to_owned(), Vec::new());
    let unknown = why(&world, "end");
    assert_eq!(unknown.status, "unknown");
    assert_eq!(changed_parts(&unknown), [waiting.clone(), sorted.clone()]);
    assert_eq!(unknown.last.unwrap().differences, []);

    // Now `sorted` and `top` are hits, and what `end` read last is two results ago.
    world.build("top").await.complete();
    let miss = why(&world, "end");
    assert_eq!(miss.status, "miss");
    assert_eq!(changed_parts(&miss), [waiting, sorted]);
    let root = miss.chain.iter().find(|link| link.is_root).unwrap();
    assert_eq!(
        (root.task.as_str(), root.status, root.leads_to.as_str()),
        ("sorted", "hit", "top")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nearest_result_may_be_older_than_the_last_build() {
    let world = world();
    world.build("top").await.complete();
    let kananafile = std::fs::read_to_string(world.path("project/Kananafile")).unwrap();
    let change = |top: u32| {
        let text = kananafile.replace("top = 2", &format!("top = {top}"));
        world.write("project/Kananafile", &text);
    };
    change(3);
    world.write("project/data/1.txt", "w9\n");
    world.build("top").await.complete();
    world.write("project/data/1.txt", "w1\n");
    change(4);
    world.build("sorted").await.complete();

    let found = why(&world, "top");
    let last = found.last.unwrap();
    assert_eq!(last.differences.len(), 2, "{last:#?}");
    let nearest = found.nearest.unwrap();
    assert_ne!(nearest.key, last.key);
    let changed = |old: &str, new: &str| Reason::ParamChanged {
        path: "argv[2]".to_owned(),
        old: Some(json!(format!("head -n {old} \"$1\" > \"$2\""))),
        new: Some(json!(format!("head -n {new} \"$1\" > \"$2\""))),
    };
    let reasons: Vec<&Reason> = nearest
        .differences
        .iter()
        .map(|each| &each.reason)
        .collect();
    assert_eq!(reasons, [&changed("2", "4")]);
}
