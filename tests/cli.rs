//! What a user sees: transcripts of commands, run and compared. `TRYCMD=overwrite` writes them.

mod common;

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .env("NO_COLOR", "1")
        .case("tests/cli/*.md");
}

/// A transcript that builds, in a copy of its project.
#[test]
fn questions_are_answered_as_the_transcript_says() {
    let project = common::Project::copy_of("tests/questions");
    let written = common::root().join("tests/questions/transcript.md");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("questions.md");
    std::fs::copy(&written, &copy).expect("the transcript is copied");
    // The project of a transcript lies beside it, under its name.
    std::os::unix::fs::symlink(project.path(""), folder.path().join("questions.in"))
        .expect("the project is linked");
    let cases = trycmd::TestCases::new();
    cases.env("NO_COLOR", "1").case(&copy);
    cases.run();
    if std::env::var("TRYCMD").is_ok_and(|word| word == "overwrite") {
        std::fs::copy(&copy, &written).expect("the transcript is written");
    }
}

/// The tour of the README, in a copy of the example that it starts from.
#[test]
fn readme_shows_what_really_happens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(common::root().join("README.md"), at("readme.md")).expect("README.md is copied");
    std::fs::write(at("readme.toml"), "fs.sandbox = true\n").expect("the settings are written");
    std::fs::create_dir(at("readme.in")).expect("the sandbox is made");
    std::fs::write(at("readme.in/.keep"), "").expect("the sandbox is made");
    let cases = trycmd::TestCases::new();
    cases.env("NO_COLOR", "1").case(at("readme.md"));
    cases.run();
    if std::env::var("TRYCMD").is_ok_and(|word| word == "overwrite") {
        std::fs::copy(at("readme.md"), common::root().join("README.md"))
            .expect("README.md is written");
    }
}

#[test]
fn a_folder_without_a_kananafile_says_what_to_do() {
    let empty = common::Project::with(&[]);
    empty
        .run(&["check"])
        .exits(3)
        .says("no Kananafile here")
        .says("kbuild init");
    empty
        .run(&["plan", "-f", "missing.toml"])
        .exits(2)
        .says("missing.toml");
    empty
        .run(&["plan", "-f", "."])
        .exits(2)
        .says("`.` is a directory")
        .says("-C .");
    empty
        .run(&[])
        .exits(3)
        .says("Usage")
        .says("no Kananafile here");
    empty.ok(&["init"]).says("wrote Kananafile");
    empty
        .run(&["init"])
        .exits(2)
        .says("there is a Kananafile already");
    empty.ok(&["check"]);
}

#[test]
fn a_new_project_elsewhere_says_how_to_get_there() {
    let empty = common::Project::with(&[]);
    empty
        .ok(&["init", "sub"])
        .says("next: `cd sub`; then `kbuild plan`");
}

/// Two tasks, a goal that needs neither of the others, and profiles that were never applied.
const WARNED: &str = r#"
kananafile = 1
[vars]
seed = 7
[goal]
default = [":a"]
[task.a]
kind = "command"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'echo "$1" > "$2"', "sh", "${seed}", "{outputs.out}"]
[task.b]
kind = "command"
outputs = { out = "file" }
params.argv = ["touch", "{outputs.out}"]
"#;

#[test]
fn what_cannot_be_written_is_an_error_and_who_reads_no_more_is_none() {
    let project = common::Project::with(&[("Kananafile", WARNED)]);
    for words in [
        &["schema"][..],
        &["plan"],
        &["plan", "--json"],
        &["--json"],
        &["--help"],
    ] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full is there");
        let output = project.command(words).stdout(full).output();
        common::Ran::new(words, output.expect("the program starts"))
            .exits(3)
            .says("cannot write to standard output: No space left");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = project.command(words).stdout(writer).output();
        common::Ran::new(words, output.expect("the program starts")).exits(0);
    }
}

#[test]
fn warnings_are_shown_by_check_and_mentioned_by_a_build() {
    let project = common::Project::with(&[("Kananafile", WARNED)]);
    let warning = "no goal needs task `b`";
    let check = project.ok(&["check"]);
    assert_eq!(check.stderr(), "");
    assert!(check.stdout().contains(warning));
    assert!(
        check
            .stdout()
            .ends_with("2 tasks: no problems found, 1 warning\n")
    );
    let json = project.ok(&["check", "--format", "json"]).stdout();
    let json: serde_json::Value = serde_json::from_str(&json).expect("a warning is JSON");
    assert_eq!(
        (&json["severity"], &json["message"]),
        (&"warning".into(), &warning.into())
    );
    let github = project.ok(&["check", "--format", "github"]).stdout();
    assert_eq!(
        github,
        format!("::warning file=Kananafile,line=11,col=7::{warning}\n")
    );
    for words in [&["plan"][..], &[]] {
        let stderr = project.ok(words).stderr();
        assert!(stderr.starts_with("1 warning: `kbuild check` shows them\n"));
        assert!(!stderr.contains(warning), "{stderr}");
    }
    for words in [&["why", "a"][..], &["metrics"], &["show"], &["gc"]] {
        let stderr = project.ok(words).stderr();
        assert!(!stderr.contains("warning"), "{words:?}: {stderr}");
    }
    assert_eq!(project.read("cache/latest/a/out"), "7\n");
}

#[test]
fn check_looks_into_profiles_that_nobody_applied() {
    let profiles = "
[profile.good.vars]
seed = 8
[profile.x.task.nope]
params = {}
[profile.y.task.a]
params = { agrv = [\"ko\"] }
[profile.z.vars]
sead = 1
[profile.u.vars]
seed = [1]
";
    let text = WARNED.to_owned() + profiles;
    let project = common::Project::with(&[("Kananafile", &text)]);
    let github = project.run(&["check", "--format", "github"]).exits(2);
    let said = github.stdout();
    let errors: Vec<&str> = said.lines().skip(1).collect();
    let expected = [
        "::error file=Kananafile,line=18,col=17::with `--profile x`: no task is called `nope`%0Ahelp: there is `a`, `b`",
        "::error file=Kananafile,line=21,col=12::with `--profile y`: `params` of a command has no key `agrv`%0Ahelp: did you mean `argv`?",
        "::error file=Kananafile,line=23,col=1::with `--profile z`: no var is called `sead`%0Ahelp: did you mean `seed`?",
        "::error file=Kananafile,line=10,col=54::with `--profile u`: an argument must be a string, found an array",
    ];
    assert_eq!(errors, expected);
    project.ok(&["check", "--profile", "good"]);
    project.ok(&["plan"]);
}

#[test]
fn a_mistyped_name_of_a_task_is_no_verb() {
    let project = common::Project::with(&[("Kananafile", WARNED)]);
    for words in [
        &["why", "chck"][..],
        &["diff", "chck", "b"],
        &["log", "chck"],
        &["plan", "chck"],
    ] {
        let run = project.run(words).exits(2);
        let run = run.says("no goal or task is called `chck`");
        assert!(!run.stderr().contains("`check`"), "{}", run.stderr());
    }
    project
        .run(&["chck"])
        .exits(2)
        .says("did you mean `check`?");
    project.run(&["log", "a"]).exits(1).says("no log");
    project.run(&["-j", "0"]).exits(2).says("--jobs");
}

#[test]
fn what_is_not_pinned_cannot_be_unpinned() {
    let project = common::Project::with(&[("Kananafile", WARNED)]);
    project.ok(&["a", "b"]);
    project
        .run(&["gc", "--unpin", "a"])
        .exits(1)
        .says("nothing is");
    project.ok(&["gc", "--pin", "b"]);
    project
        .run(&["gc", "--unpin", "a"])
        .exits(1)
        .says("is not pinned")
        .says("(b)");
    project.ok(&["gc", "--unpin", "b"]);
    project
        .ok(&["gc", "--older-than", "1d", "--max-size", "1"])
        .says("or they are not old enough");
}

/// Also where there is nothing: no card, no driver, no Kananafile.
#[test]
fn doctor_says_what_there_is_and_what_would_bring_the_rest() {
    let empty = common::Project::with(&[]);
    let run = empty.ok(&["doctor"]);
    let run = run
        .says("+ processor")
        .says("+ memory")
        .says("cublaslt")
        .says("device");
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        run.says("libcuda not found")
            .says("help: install the NVIDIA driver")
            .says("tasks run on the processor");
    }
}
