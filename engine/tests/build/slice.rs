//! What a slice may be taken for: by the tasks that it holds, and by what is asked for.

use std::time::Duration;

use kbuild_engine::project::{Answer, Question, Slice};

use crate::world::World;

/// `a` copies, `b` sorts, `c` counts lines.
fn counted() -> World {
    let text = r#"
kananafile = 1
[task.a]
kind = "command"
inputs.text = "data/text.txt"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'cat "$1" > "$2"', "sh", "{inputs.text}", "{outputs.out}"]
[task.b]
kind = "command"
inputs.text = ":a"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'sort -u "$1" > "$2"', "sh", "{inputs.text}", "{outputs.out}"]
[task.c]
kind = "command"
inputs.text = ":b"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'wc -l < "$1" > "$2"', "sh", "{inputs.text}", "{outputs.out}"]
"#;
    World::new(text, &[("data/text.txt", "one\n")])
}

fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

fn question(world: &World) -> Question {
    Question::new(&world.open().workspace, &["c".to_owned()])
}

/// Leaves a seal of a project with nothing to do.
fn seal(world: &World) {
    settle();
    let project = world.open();
    let question = question(world);
    let prepared = project.prepare(&project.graph().select(&["c"]).unwrap());
    assert!(project.is_settled(&prepared));
    let sealed = project.seal(&question, &prepared, b"answer", &[]);
    assert!(sealed.unwrap());
}

/// The slice of what has moved since.
fn slice(world: &World) -> Slice {
    settle();
    let question = question(world);
    let workspace = world.open().workspace;
    match question.answer(&workspace) {
        Some(Answer::Loose(loose)) => Slice::cut(&workspace, question, loose).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gives_what_it_gave_is_sealed_again() {
    let world = counted();
    world.build("c").await.complete();
    seal(&world);
    world.write("project/data/text.txt", "two\n");
    world.build("c").await.complete();
    assert!(
        slice(&world).prepare().is_none(),
        "`a` gives something else"
    );
    world.write("project/data/text.txt", "one\n");
    world.build("c").await.complete();
    let slice = slice(&world);
    let prepared = slice.prepare().unwrap();
    assert_eq!(slice.answer(), b"answer");
    assert!(slice.is_settled(&prepared) && slice.seal(&prepared).unwrap());
    let workspace = world.open().workspace;
    let answer = question(&world).answer(&workspace);
    assert!(matches!(answer, Some(Answer::Settled(answer)) if answer == b"answer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_tasks_that_must_run_there_is_one_at_most() {
    let world = counted();
    world.build("c").await.complete();
    seal(&world);
    world.write("project/data/text.txt", "two\n");
    let one = slice(&world).prepare().unwrap();
    assert!(!one.plan.is_done());
    assert_eq!(one.beside.tasks, 2);
    world.build("a").await.complete();
    assert!(slice(&world).prepare().is_none(), "`b` reads what changed");
}
