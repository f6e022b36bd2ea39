//! Plans where content was dropped: what its digests are enough for, and what must be made again.

use super::*;

/// `clean` and `model` are temporary; `ledger` reads `clean` alone, `report` reads `model`.
const PIPELINE: &str = r#"
    [goal]
    all = [":ledger", ":report"]
    [task.clean]
    kind = "clean"
    inputs.documents = "data/*.jsonl"
    temporary = true
    [task.model]
    kind = "train"
    inputs.documents = ":clean"
    params.hidden = 8
    temporary = true
    [task.ledger]
    kind = "report"
    inputs.curves = { clean = ":clean.ledger" }
    [task.report]
    kind = "report"
    inputs.curves = { train = ":model.metrics" }
"#;

/// Everything built, and the content of temporary tasks dropped, parts as well.
fn dropped(text: &str) -> (Kananafile, World) {
    let kananafile = loaded(text);
    let mut world = World::new(&kananafile, &["a", "b"]);
    world.build(&kananafile, by_key);
    drop_temporary(&kananafile, &mut world);
    (kananafile, world)
}

fn drop_temporary(kananafile: &Kananafile, world: &mut World) {
    let is_temporary = |name: &str| {
        let ids = kananafile.graph.find(name).unwrap_or_default();
        ids.iter().any(|id| kananafile.graph.task(*id).temporary)
    };
    let receipts = world.receipts.values();
    let going = receipts.filter(|receipt| is_temporary(&receipt.task));
    world.absent = going.map(|receipt| receipt.key).collect();
}

/// Every task with a word for its status: `back` is what must be made again because it was dropped.
fn words(kananafile: &Kananafile, world: &World, goal: &str) -> Vec<(String, &'static str)> {
    let graph = &kananafile.graph;
    let goals = graph.select(&[goal]).unwrap();
    let plan = plan(graph, &world.snapshot, world, &goals);
    let word = |status: &Status| match status {
        Status::Hit(_) => "hit",
        Status::Dropped(_) => "dropped",
        Status::Miss(work) if work.dropped.is_some() => "back",
        Status::Miss(_) => "miss",
        Status::Unknown(_) => "unknown",
        Status::Blocked(_) => "blocked",
    };
    let tasks = plan.tasks.iter();
    tasks
        .map(|(id, status)| (graph.task(*id).name.clone(), word(status)))
        .collect()
}

#[track_caller]
fn expect(kananafile: &Kananafile, world: &World, goal: &str, expected: &[(&str, &str)]) {
    let found = words(kananafile, world, goal);
    let found: BTreeMap<&str, &str> = found.iter().map(|(name, word)| (&**name, *word)).collect();
    assert_eq!(found, expected.iter().copied().collect());
}

#[test]
fn digests_are_enough_where_nothing_runs() {
    let (kananafile, world) = dropped(PIPELINE);
    let everything = [
        ("clean", "dropped"),
        ("model", "dropped"),
        ("ledger", "hit"),
        ("report", "hit"),
    ];
    expect(&kananafile, &world, "all", &everything);
    let graph = &kananafile.graph;
    let everything = graph.everything();
    let plan = plan(graph, &world.snapshot, &world, &everything);
    assert!(plan.is_done() && plan.protected(graph).is_empty());
}

#[test]
fn a_reader_that_runs_wants_back_what_it_reads_and_what_that_is_made_of() {
    let (_, world) = dropped(PIPELINE);
    let changed = PIPELINE.replace("{ train = ", "{ curve = ");
    let kananafile = loaded(&changed);
    let expected = [
        ("clean", "back"),
        ("model", "back"),
        ("ledger", "hit"),
        ("report", "miss"),
    ];
    expect(&kananafile, &world, "all", &expected);
    let plan = world.plan(&kananafile);
    let needed_by = |task: &str| match &reasons_of(&plan, &kananafile, task)[..] {
        [Reason::Dropped { needed_by }] => needed_by.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(needed_by("clean"), ["model"]);
    assert_eq!(needed_by("model"), ["report"]);
    let Status::Miss(work) = status(&plan, &kananafile, "clean") else {
        panic!("{plan:?}")
    };
    let parts = work.parts.as_ref().unwrap();
    assert_eq!(
        parts.missing().len(),
        parts.total(),
        "the content of its parts is gone, too"
    );
}

#[test]
fn a_reader_that_may_run_wants_it_back_and_one_that_cannot_does_not() {
    let two = PIPELINE.replace(
        "inputs.curves = { clean = \":clean.ledger\" }",
        "inputs.curves = { clean = \":clean.ledger\", other = \":other.ledger\" }\n    [task.other]\n    kind = \
         \"clean\"\n    inputs.documents = \"other.jsonl\"",
    );
    let (kananafile, mut world) = dropped(&two);
    let other = kananafile.graph.sources().last().unwrap().0;
    world
        .snapshot
        .sources
        .insert(other, Ok(Arc::new(shards(&["x"]))));
    let expected = [
        ("other", "miss"),
        ("clean", "back"),
        ("model", "dropped"),
        ("ledger", "unknown"),
        ("report", "hit"),
    ];
    expect(&kananafile, &world, "all", &expected);
    world
        .snapshot
        .sources
        .insert(other, Err("is missing".to_owned()));
    let words = words(&kananafile, &world, "all");
    assert!(
        words.contains(&("other".to_owned(), "blocked")),
        "{words:?}"
    );
}

#[test]
fn a_goal_wants_it_back() {
    let (kananafile, world) = dropped(PIPELINE);
    let expected = [("clean", "back"), ("model", "back")];
    expect(&kananafile, &world, "model", &expected);
    let plan = world.plan(&kananafile);
    let asked_for = Reason::Dropped {
        needed_by: Vec::new(),
    };
    assert_eq!(reasons_of(&plan, &kananafile, "model"), [asked_for]);
    assert!(
        matches!(status(&plan, &kananafile, "report"), Status::Hit(_)),
        "it is expected to give what it gave before"
    );
}

#[test]
fn what_is_not_temporary_any_more_is_made_again() {
    let (_, world) = dropped(PIPELINE);
    let kananafile = loaded(&PIPELINE.replace(
        "params.hidden = 8\n    temporary = true",
        "params.hidden = 8",
    ));
    let expected = [("clean", "back"), ("model", "back"), ("report", "hit")];
    expect(&kananafile, &world, "report", &expected);
}

#[test]
fn a_source_that_changed_is_a_reason_of_its_own() {
    let (kananafile, mut world) = dropped(PIPELINE);
    let changed = Ok(Arc::new(shards(&["a", "x"])));
    world.snapshot.sources.insert(SourceId(0), changed);
    let expected = [
        ("clean", "miss"),
        ("model", "unknown"),
        ("ledger", "unknown"),
        ("report", "unknown"),
    ];
    expect(&kananafile, &world, "all", &expected);
}

#[test]
fn a_build_that_learns_more_plans_the_rest_again() {
    let (kananafile, world) = dropped(PIPELINE);
    let graph = &kananafile.graph;
    let model = graph.find("model").unwrap()[0];
    let clean = graph.find("clean").unwrap()[0];
    let mut known = Known::new(&world.snapshot);
    let given = world.receipts[&world.last["clean"].key()].clone();
    known.insert(graph, clean, given);
    let goals = graph.find("report").unwrap().iter().copied().collect();
    let behind = graph.reached_from(&[model]);
    let outlook = outlook(graph, &world.snapshot, &world, &goals, known, behind);
    assert!(matches!(outlook.status(model), Some(Status::Dropped(_))));
    assert!(outlook.is_done(), "early cutoff: nobody needs it");
}
