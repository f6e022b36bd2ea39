//! Every example, with the real program in a copy of its folder.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Project;
use serde_json::Value;

#[test]
fn minimal_builds_once_and_follows_a_variable() {
    let project = Project::example("minimal");
    assert_eq!(
        project.ok(&["check"]).stdout(),
        "5 tasks: no problems found\n"
    );
    project.ok(&["plan"]).says("never built");
    assert!(!project.path("cache").exists(), "plan writes nothing");
    assert_eq!(
        project.built(&[]),
        [
            "clean-en",
            "clean-ko",
            "tokenizer",
            "tokens-en",
            "tokens-ko"
        ]
    );
    project
        .ok(&[])
        .says("nothing to do: 5 tasks are up to date");
    assert_eq!(
        project.built(&["--set", "vocab_size=360"]),
        ["tokenizer", "tokens-en", "tokens-ko"]
    );
    assert_eq!(project.built(&[]), [""; 0]);
    project.ok(&["export", "tokenizer", "out"]).says("out");
    assert!(project.path("out/tokenizer.json").exists());
    project
        .run(&["export", "tokenizer", "out"])
        .exits(2)
        .says("is there already");
}

#[test]
fn minimal_drops_what_is_not_prose() {
    let project = Project::example("minimal");
    project.ok(&["clean-en"]);
    let ledger = project.read("cache/latest/clean-en/ledger/00000.json");
    let ledger: Value = serde_json::from_str(&ledger).expect("the ledger is JSON");
    assert_eq!(
        (&ledger["in"]["documents"], &ledger["kept"]["documents"]),
        (&8.into(), &6.into()),
        "{ledger}"
    );
}

#[test]
fn one_changed_shard_runs_one_part() {
    let project = Project::example("incremental-corpus");
    project.ok(&[]);
    let text = project.read("data/shard-2.jsonl");
    project.write("data/shard-2.jsonl", &text);
    assert_eq!(project.plan(&[])["hits"], 6, "a date alone changes nothing");

    let count = |parts: &[(&str, Option<u64>)]| {
        let events = project.ok(&["--json"]).stdout();
        for (task, expected) in parts {
            assert_eq!(missing_parts(&events, task), *expected, "{task}");
        }
    };
    project.write("data/shard-2.jsonl", &text.replace("evening", "night"));
    let clean = &project.plan(&["clean"])["tasks"][0];
    assert_eq!(
        (&clean["parts"]["missing"], &clean["parts"]["total"]),
        (&1.into(), &8.into())
    );
    // The tokenizer's sample is a source of its own: it is not even asked for.
    let one = Some(1);
    count(&[
        ("clean", one),
        ("signatures", one),
        ("distinct", one),
        ("tokens", one),
        ("tokenizer", None),
    ]);

    // The edited document is a near-duplicate of one in shard 0: another of the two is kept now.
    let text = project.read("data/shard-6.jsonl");
    project.write("data/shard-6.jsonl", &text.replace("harbour", "port"));
    count(&[
        ("clean", one),
        ("signatures", one),
        ("distinct", Some(2)),
        ("tokens", Some(2)),
    ]);
    project.ok(&[]).says("nothing to do");
}

/// How many parts of a task ran, by the events of a build.
fn missing_parts(events: &str, task: &str) -> Option<u64> {
    let events = events
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut misses = events.filter(|event| event["event"] == "miss" && event["task"] == task);
    misses.next()?["parts"]["missing"].as_u64()
}

#[test]
fn ci_checks_without_data() {
    let project = Project::example("ci-dry-run");
    project.ok(&["check", "--sources", "optional"]);
    project.ok(&["check", "--sources", "optional", "--profile", "large"]);
    project.run(&["check"]).exits(2).says("corpus/*.jsonl.zst");
    let annotated = project
        .run(&["check", "--format", "github"])
        .exits(2)
        .stdout();
    assert!(
        annotated.starts_with("::error file=Kananafile,line=13,col="),
        "{annotated}"
    );
    project
        .run(&["check", "--sources", "optional", "--set", "hidden=66"])
        .exits(2)
        .says("heads");
    project.ok(&["plan", "base", "--cost"]).says("blocked");
    assert!(!project.path("cache").exists());
    let workflow = project.read(".github/workflows/kbuild.yml");
    for command in [
        "kbuild check --format github --sources optional",
        "kbuild plan --cost --profile large",
    ] {
        assert!(workflow.contains(command), "{command}");
    }
}

/// The figures of arXiv 2502.18934: figure 1, and the saving of depth up-scaling.
#[test]
fn kanana_report_costs_what_the_report_says() {
    let project = Project::example("kanana-report");
    project
        .ok(&["check", "--sources", "optional"])
        .says("no problems found");
    project.run(&["check"]).exits(2).says("stage-1/en-web");
    let goals = ["flag", "essence", "nano", "from-scratch"];
    let words = [&["plan", "--cost"], &goals[..]].concat();
    project
        .ok(&words)
        .says("`up-scaled` takes 11.06 % less than `scratch` by name");
    let plan: Value =
        serde_json::from_str(&project.ok(&[&words[..], &["--json"]].concat()).stdout())
            .expect("the plan is JSON");
    assert!(!project.path("cache").exists(), "plan writes nothing");
    let near = |found: &Value, expected: f64| {
        let found = found.as_f64().unwrap_or(f64::NAN);
        assert!(
            (found / expected - 1.0).abs() < 1e-5,
            "{found:e}, expected {expected:e}"
        );
    };
    let parameters = |task: &str| {
        let tasks = plan["cost"]["tasks"].as_array().expect("tasks have costs");
        let found = tasks.iter().find(|row| row["task"] == task);
        found.expect("the task is planned")["cost"]["parameters"].clone()
    };
    for (task, expected) in [
        ("p8", 8_030_261_248_u64),
        ("essence", 9_775_157_248),
        ("p27", 26_794_296_320),
        ("flag", 32_456_729_600),
        ("p4", 4_512_746_496),
        ("nano", 2_086_979_328),
        ("nano-scratch", 2_086_979_328),
    ] {
        assert_eq!(parameters(task), expected, "{task}");
    }
    let budgets = &plan["cost"]["budgets"];
    for (budget, expected) in [
        ("flag", 5.214e23),
        ("essence", 1.5576e23),
        ("nano", 3.78e21),
        ("left-out", 8.1e21),
    ] {
        near(&budgets[budget]["nominal_flops"], expected);
    }
    near(
        &budgets["up-scaled"]["nominal_saving"],
        1.0 - 112.86 / 126.9,
    );
    // Forward passes of the teacher, which the report leaves out: 2 N of 8.03 billion.
    for step in ["nano", "left-out"] {
        near(&budgets[step]["extra_flops"], 2.0 * 8_030_261_248.0 * 3e11);
    }
}

#[test]
fn python_plugin_is_killed_and_resumes_to_the_same_bytes() {
    let epochs = ["--set", "epochs=40"];
    let whole = Project::example("python-plugin");
    whole.ok(&epochs);
    let expected = whole.read("cache/latest/languages/report.json");

    let project = Project::example("python-plugin");
    let words = [&["--json"], &epochs[..]].concat();
    let mut child = project
        .command(&words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    let saved = lines
        .map_while(Result::ok)
        .find(|line| line.contains("\"checkpoint\""));
    assert!(saved.is_some(), "no checkpoint before the end");
    child.kill().expect("the program is running");
    child.wait().expect("the program ends");
    assert!(
        !project.path("cache/latest/languages/report.json").exists(),
        "no result of a killed attempt"
    );

    project.ok(&epochs).says("from its last checkpoint");
    assert_eq!(project.read("cache/latest/languages/report.json"), expected);
}

#[test]
fn python_plugin_saves_and_leaves_on_ctrl_c() {
    let project = Project::example("python-plugin");
    let mut child = project
        .command(&["--json", "--set", "epochs=2000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe"))
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"checkpoint\"")));
    let asked = Instant::now();
    // SAFETY: the process is a child that was not waited for, so the number is its own.
    #[allow(unsafe_code)]
    let sent = unsafe {
        libc::kill(
            i32::try_from(child.id()).expect("a process number"),
            libc::SIGINT,
        )
    };
    assert_eq!(sent, 0);
    let rest: Vec<String> = lines.collect();
    assert!(
        rest.iter().any(|line| line.contains("\"interrupted\"")),
        "{rest:?}"
    );
    assert_eq!(child.wait().expect("the program ends").code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_plugin_that_writes_outside_is_refused() {
    let project = Project::example("python-plugin");
    let script = "import json, os, sys\n\
                  request = json.load(open(sys.argv[1]))\n\
                  open('outside.json', 'w').write('{}')\n\
                  os.symlink(os.path.abspath('outside.json'), request['outputs']['report'])\n\
                  open(request['outputs']['metrics'], 'w').write('')\n";
    project.write("plugins/language-id/train.py", script);
    project.run(&[]).exits(1).says("leads out of the outputs");
    assert!(!project.path("cache/latest/languages").exists());
    project.run(&["plan"]).exits(0).says("never built");
}

#[test]
fn editing_a_plugin_runs_its_tasks_again() {
    let project = Project::example("python-plugin");
    project.ok(&["--set", "epochs=2"]);
    let script = project.read("plugins/language-id/train.py");
    project.write(
        "plugins/language-id/train.py",
        &format!("{script}\n# edited\n"),
    );
    project
        .ok(&["plan", "--set", "epochs=2"])
        .says("program file `plugins/language-id/train.py`");
}
