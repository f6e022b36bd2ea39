//! Text of others, with control characters and commands of a CI run in it, through every verb.

mod common;

use common::{Project, Ran};

/// Clears the screen, sets a title, hides text, returns, reorders, and begins a line that a CI run obeys.
const EVIL: &str =
    r"\u001b[2J\u001b]0;t\u0007\u001b[8m\r\b\u009b2J\u202e\u007f\n::error::y\n##[error]z";

const KANANAFILE: &str = r#"
kananafile = 1

[plugin.speaks]
path = "speaks"

[budget.all]
about = "EVIL"
tasks = [":said"]

[goal]
default = [":said", ":copied", ":wrong"]

[task.said]
kind = "speaks"
inputs.text = "a.txt"
params = { word = "EVIL" }

[task.copied]
kind = "command"
inputs.text = "odd*.txt"
outputs = { result = "file" }
params = { argv = ["sh", "-c", "cat \"$@\" >{outputs.result}; # EVIL", "sh", "{inputs.text}"] }

[task.wrong]
kind = "speaks"
inputs.text = "a.txt"
params = { word = "fail" }

[task.absent]
kind = "command"
inputs.text = "x\n::error::y EVIL"
outputs = { result = "file" }
params = { argv = ["cp", "{inputs.text}", "{outputs.result}"] }
"#;

const KIND: &str = r#"
version = 1
summary = "say it: EVIL"
argv = ["python3", "say.py"]
files = ["say.py"]

[inputs.text]
doc = "EVIL"

[outputs.report]
format = "report"
doc = "EVIL"

[params.word]
type = "string"
default = "EVIL"
doc = "EVIL"
"#;

const PROGRAM: &str = r#"
import json, sys
request = json.load(open(sys.argv[-1])) if len(sys.argv) > 1 else json.load(sys.stdin)
evil = json.loads('"EVIL"')
def say(**event): print(json.dumps(event), flush=True)
sys.stderr.write(evil + "\n")
sys.stderr.flush()
say(event="note", text=evil)
say(event="progress", done=1, total=2, unit=evil)
say(event="metric", step=1, name=evil, value=1.5)
say(event="fact", port="report", name=evil, value=evil)
if request["params"]["word"] == "fail":
    say(event="failed", **{"class": "input"}, message=evil, help=evil)
    sys.exit(1)
with open(request["outputs"]["report"], "w") as file:
    json.dump({evil: 0.5, "text": evil}, file)
"#;

fn project() -> Project {
    let project = Project::with(&[("a.txt", "a\n"), ("odd\u{1b}[2J\n::error::f.txt", "b\n")]);
    project.write("Kananafile", &KANANAFILE.replace("EVIL", EVIL));
    project.write("speaks/kind.toml", &KIND.replace("EVIL", EVIL));
    let in_python = EVIL.replace('\\', "\\\\");
    project.write("speaks/say.py", &PROGRAM.replace("EVIL", &in_python));
    project
}

/// No control character but the end of a line, no line that a CI run obeys.
#[track_caller]
fn is_harmless(words: &[&str], ran: &Ran) {
    for text in [ran.stdout(), ran.stderr()] {
        let is_harmful = |letter: char| {
            (letter.is_control() && letter != '\n' && letter != '\t')
                || ('\u{2028}'..='\u{202e}').contains(&letter)
        };
        assert!(!text.contains(is_harmful), "{words:?}: {text:?}");
        let is_command = |line: &str| line.trim_start().starts_with("::") || line.contains("##[");
        let command = text.lines().find(|line| is_command(line));
        assert!(command.is_none(), "{words:?}: {text:?}");
    }
}

#[test]
fn what_others_wrote_controls_no_terminal_and_no_ci_run() {
    let project = project();
    let run = |words: &[&str]| {
        let ran = project.run(words);
        is_harmless(words, &ran);
        ran
    };
    run(&["plan"]).says("never built");
    run(&["plan", "absent"]).says("\\n::error::y");
    run(&["--keep-going", "--json"]);
    run(&["--keep-going"]).exits(1).says("\\u{1b}[2J");
    run(&["absent"]).exits(1).says("\\n::error::y");
    for words in [
        &["plan", "--cost"][..],
        &["plan", "--json"],
        &["check"],
        &["check", "--format", "json"],
        &["why", "said"],
        &["why", "wrong"],
        &["why", "absent"],
        &["why", "said", "--json"],
        &["status"],
        &["status", "--json"],
        &["log"],
        &["log", "said", "--events"],
        &["log", "wrong", "--events", "--json"],
        &["show"],
        &["show", "said"],
        &["graph"],
        &["graph", "--format", "mermaid"],
        &["graph", "--format", "svg"],
        &["graph", "--format", "html"],
        &["kinds"],
        &["kinds", "speaks"],
        &["metrics"],
        &["metrics", "--json"],
        &["diff", "said", "copied"],
        &["diff", "said", "copied", "--json"],
        &["export", "said", "out"],
        &["gc"],
        &["gc", "--json"],
        &["fsck"],
        &["verify", "said"],
        &["accept", "said", "--reason", "\u{1b}[2J\n::error::r"],
        &["plan", "\u{1b}[2J\n::error::goal"],
        &["plan", "--profile", "\u{1b}[2J\n::error::profile"],
        &["plan", "--set", "\u{1b}[2J\n::error::name=1"],
        &["plan", "-f", "\u{1b}[2J\n::error::file"],
        &["--\u{1b}[2J\n::error::option"],
    ] {
        run(words);
    }
}

#[test]
fn a_problem_is_one_annotation_whatever_it_holds() {
    let project = project();
    let ran = project.run(&["check", "--format", "github"]);
    assert!(!ran.stdout().is_empty());
    for line in ran.stdout().lines() {
        let is_ours = line.starts_with("::error file=") || line.starts_with("::warning file=");
        assert!(is_ours && !line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn colours_are_of_the_program_alone() {
    let project = project();
    let mut command = project.command(&["--keep-going"]);
    command.env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1");
    let output = command.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("\u{1b}[31m") || text.contains("\u{1b}[1m"));
    assert!(!text.contains("\u{1b}[2J") && !text.contains("\u{1b}[8m"));
    assert!(!text.contains("\u{1b}]"), "{text:?}");
}
