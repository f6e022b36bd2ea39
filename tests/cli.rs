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
    empty.ok(&[]).says("Usage");
    empty.ok(&["init"]).says("wrote Kananafile");
    empty
        .run(&["init"])
        .exits(2)
        .says("there is a Kananafile already");
    empty.ok(&["check"]);
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
