//! What files and disks can do to a build: a clear error or the right result, and nothing lost.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use common::Project;
use common::dozen::{Dozen, all, receipts};

/// One command that lists and concatenates its input, whatever it is.
const READS: &str = r#"
kananafile = 1
[goal]
default = [":t"]
[task.t]
kind = "command"
inputs.x = "SOURCE"
outputs = { out = "file" }
params.argv = ["sh", "-c", 'find -L "$1" -type f -print0 | sort -z | xargs -0 cat > "$2"', "sh", "{inputs.x}", "{outputs.out}"]
"#;

fn reads(source: &str) -> Project {
    Project::with(&[("Kananafile", &READS.replace("SOURCE", source))])
}

fn no_receipt(project: &Project) -> bool {
    receipts(&project.path("cache/receipts")).is_empty()
}

#[test]
fn what_cannot_be_a_source_is_said() {
    type Make = fn(&Path);
    let rows: [(&str, &str, Make); 8] = [
        ("src", "`src` does not exist", |_| ()),
        ("src", "`src` is not a regular file", fifo),
        ("src", "symbolic links", |path| {
            symlink("src", path).unwrap()
        }),
        ("src", "symbolic link to a directory above it", |path| {
            fs::create_dir(path).unwrap();
            symlink("..", path.join("up")).unwrap();
        }),
        ("src", "`src/pipe` is not a regular file", |path| {
            fs::create_dir(path).unwrap();
            fifo(&path.join("pipe"));
        }),
        ("src", "the name is not UTF-8", odd_name),
        ("src/*", "the name is not UTF-8", odd_name),
        ("src/*.txt", "matches no file", |path| {
            fs::create_dir(path).unwrap()
        }),
    ];
    for (source, message, make) in rows {
        let project = reads(source);
        make(&project.path("src"));
        project.run(&[]).exits(1).says(message);
        assert!(no_receipt(&project), "{message}");
        // And once it is one, the same command goes on.
        let path = project.path("src");
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        project.write(&source.replace('*', "a"), "text");
        project.ok(&[]);
        assert_eq!(project.read("cache/latest/t/out"), "text", "{message}");
    }
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo starts").success());
}

fn odd_name(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join(std::ffi::OsStr::from_bytes(b"\xff.txt")), "").unwrap();
}

#[test]
fn any_text_is_a_name() {
    let long = "n".repeat(250);
    let names = [
        " ",
        "a b",
        "line\nbreak",
        "-n",
        "quo\"te'",
        "st*r",
        "{inputs.x}",
        "$HOME",
        "\u{d55c}",
        &long,
    ];
    for source in ["src", "src/*"] {
        let project = reads(source);
        for (number, name) in names.iter().enumerate() {
            project.write(&format!("src/{name}"), &format!("{number}\n"));
        }
        assert_eq!(project.built(&[]), ["t"], "{source}");
        let mut found: Vec<usize> = project
            .read("cache/latest/t/out")
            .lines()
            .map(|line| line.parse().expect("a number"))
            .collect();
        found.sort_unstable();
        assert_eq!(found, (0..names.len()).collect::<Vec<_>>(), "{source}");
        assert_eq!(project.built(&[]), [""; 0], "{source}");
        project.write("src/line\nbreak", "99\n");
        assert_eq!(project.built(&[]), ["t"], "{source}");
    }
}

/// `KBUILD_FILES=100000` for more.
#[test]
fn a_source_of_many_files_is_read_once() {
    let files =
        std::env::var("KBUILD_FILES").map_or(10_000, |text| text.parse().expect("a number"));
    let project = reads("src/**/*.txt");
    for number in 0..files {
        let folder = project.path(&format!("src/{}", number % 100));
        if number < 100 {
            fs::create_dir_all(&folder).expect("folders are made");
        }
        fs::write(folder.join(format!("{number}.txt")), format!("{number}\n"))
            .expect("files are written");
    }
    assert_eq!(project.built(&[]), ["t"]);
    assert_eq!(project.read("cache/latest/t/out").lines().count(), files);
    assert_eq!(project.built(&[]), [""; 0]);
    project.write("src/7/7.txt", "seven\n");
    assert_eq!(project.built(&[]), ["t"]);
    assert!(project.read("cache/latest/t/out").contains("seven\n"));
}

/// Edits that leave length and times as they were, as fast as they can be made.
#[test]
fn no_edit_is_too_quick() {
    let project = reads("src");
    for round in 0..20 {
        let text = format!("{:03}", round % 2);
        project.write("src", &text);
        let hour = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let source = fs::File::options()
            .append(true)
            .open(project.path("src"))
            .expect("it is there");
        source.set_modified(hour).expect("the time is set");
        project.ok(&[]);
        assert_eq!(project.read("cache/latest/t/out"), text, "round {round}");
    }
}

/// A plugin whose body is a script that knows `$result`, `$tree`, `$out` and `$attempt`.
fn plugin(script: &str) -> Project {
    let script = format!(
        r#"
result=$(sed -n 's/.*"result": "\(.*\)".*/\1/p' "$1")
tree=$(sed -n 's/.*"tree": "\(.*\)".*/\1/p' "$1")
out=$(dirname "$result")
attempt=$(dirname "$out")
there=$PWD/there
set -eu
{script}
"#
    );
    Project::with(&[
        (
            "Kananafile",
            "kananafile = 1\n[plugin.p]\npath = \"p\"\n[task.t]\nkind = \"p\"\n[goal]\ndefault = [\":t\"]\n",
        ),
        (
            "p/kind.toml",
            "version = 1\nsummary = \"s\"\nargv = [\"sh\", \"p.sh\"]\nfiles = [\"p.sh\"]\n[outputs.result]\nformat = \"file\"\n[outputs.tree]\nformat = \"directory\"\n",
        ),
        ("p/p.sh", &script),
        ("there/result", "mine"),
        ("there/tree/file", "mine"),
        ("there/out/result", "mine"),
        ("there/out/tree/file", "mine"),
    ])
}

#[rustfmt::skip]
const LEADS_ELSEWHERE: [(&str, &str); 12] = [
    ("ln -s \"$there/result\" \"$result\"; echo x > \"$tree/x\"",             "is a link that leads out"),
    ("ln -s ../../../../there/result \"$result\"; echo x > \"$tree/x\"",      "is a link that leads out"),
    ("ln -s result \"$result\"; echo x > \"$tree/x\"",                        "is a link that leads out"),
    ("ln -s nowhere \"$result\"; echo x > \"$tree/x\"",                       "is a link that leads out"),
    ("echo x > \"$result\"; ln -s \"$there/tree\" \"$tree/sub\"",             "is a link that leads out"),
    ("echo x > \"$result\"; rmdir \"$tree\"; ln -s \"$there/tree\" \"$tree\"", "is a file where a directory is expected"),
    ("rm -r \"$out\"; ln -s \"$there\" \"$out\"",                             "replaced the directory of its outputs"),
    ("mv \"$attempt\" \"$attempt.x\"; ln -s \"$there\" \"$attempt\"",         "replaced the directory of its outputs"),
    ("mkfifo \"$result\"; echo x > \"$tree/x\"",                              "is not a regular file"),
    ("echo x > \"$result\"; mkfifo \"$tree/x\"",                              "is not a regular file"),
    ("echo x > \"$result\"; echo x > \"$tree/x\"; echo x > \"$out/more\"",    "wrote `more`, which is no output port"),
    ("echo x > \"$result\"; echo x > \"$tree/$(printf '\\377')\"",            "is not UTF-8"),
];

#[test]
fn outputs_that_lead_elsewhere_are_refused() {
    for (script, message) in LEADS_ELSEWHERE {
        let project = plugin(script);
        project.run(&[]).exits(1).says(message);
        assert!(no_receipt(&project), "{script}");
        for mine in ["result", "tree/file", "out/result", "out/tree/file"] {
            assert_eq!(project.read(&format!("there/{mine}")), "mine", "{script}");
        }
    }
}

#[test]
fn a_hard_link_to_a_file_of_the_user_is_a_copy() {
    let project =
        plugin("ln \"$there/result\" \"$result\"; ln \"$there/tree/file\" \"$tree/file\"");
    project.ok(&[]);
    for name in ["result", "tree/file"] {
        project.write(&format!("there/{name}"), "changed");
        assert_eq!(project.read(&format!("cache/latest/t/{name}")), "mine");
    }
    project.ok(&["fsck"]).says("0 damaged");
}

#[test]
fn ports_cannot_be_paths() {
    for port in ["../out", "/tmp/out", "a/b", ".", "..", ""] {
        let text = "kananafile = 1\n[task.t]\nkind = \"command\"\noutputs = { PORT = \"file\" }\nparams.argv = [\"touch\", \"{outputs.PORT}\"]\n";
        let quoted = text
            .replacen("PORT", &format!("\"{port}\""), 1)
            .replace("PORT", port);
        let project = Project::with(&[("Kananafile", &quoted)]);
        project.run(&["t"]).exits(2).says("cannot name a port");
        let project = plugin("true");
        let kind =
            project.read("p/kind.toml") + &format!("[outputs.\"{port}\"]\nformat = \"file\"\n");
        project.write("p/kind.toml", &kind);
        project.run(&[]).exits(2).says("cannot name a port");
    }
}

/// Runs a script where it may mount what it likes. `None`, with the reason said, where that is not allowed.
fn in_a_world_of_its_own(dozen: &Dozen, script: &str, arguments: &[&str]) -> Option<()> {
    let program = dozen.command(&[], &dozen.home("first"));
    let home = |name| dozen.home(name).path().to_owned();
    for mode in ["-m", "-rm"] {
        let mut command = Command::new("unshare");
        command
            .args([mode, "sh", "-c", script, "sh"])
            .args(arguments)
            .current_dir(dozen.project.path(""))
            .env("KBUILD", program.get_program())
            .env("FIRST", home("first"))
            .env("SECOND", home("second"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        let output = command.output().ok()?;
        if output.status.success() {
            return Some(());
        }
        println!(
            "skipped with `unshare {mode}`: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    None
}

/// Brings out of the world what the script kept of the cache.
fn take_cache(dozen: &Dozen) {
    fs::remove_dir(dozen.project.path("cache")).expect("the place of the mount is empty");
    fs::rename(dozen.project.path("kept"), dozen.project.path("cache"))
        .expect("the cache was kept");
}

/// A build on a small disk, then the same command on a larger one.
const FULL: &str = r#"
set -u
mkdir -p cache && mount -t tmpfs -o "size=$1,nr_inodes=$2" none cache || exit 99
HOME=$FIRST "$KBUILD" > first.out 2>&1; echo $? > first.code
cp -r cache/receipts first-receipts 2> /dev/null || mkdir first-receipts
mount -o remount,size=64m,nr_inodes=100000 cache || exit 99
HOME=$SECOND "$KBUILD" > second.out 2>&1; echo $? > second.code
cp -r cache kept
"#;

#[test]
fn a_full_disk_loses_nothing() {
    let sizes = (0..20).map(|step| {
        (
            format!("{}k", 4 << (step / 2) | (step % 2) << (step / 2 + 1)),
            "100000".to_owned(),
        )
    });
    let inodes = (0..16).map(|step| ("64m".to_owned(), (8 + step * 12).to_string()));
    let mut full = 0;
    for (size, inodes) in sizes.chain(inodes) {
        let dozen = Dozen::new();
        if in_a_world_of_its_own(&dozen, FULL, &[&size, &inodes]).is_none() {
            return;
        }
        let what = format!("size {size}, inodes {inodes}");
        let (code, said) = (
            dozen.project.read("first.code"),
            dozen.project.read("first.out"),
        );
        assert!(!said.contains("panicked"), "{what}: {said}");
        if code != "0\n" {
            full += 1;
            assert!(code == "1\n" || code == "3\n", "{what}: {code}: {said}");
            assert!(said.contains("No space left"), "{what}: {said}");
        }
        let finished = receipts(&dozen.project.path("first-receipts"));
        take_cache(&dozen);
        assert_eq!(
            dozen.project.read("second.code"),
            "0\n",
            "{what}: {}",
            dozen.project.read("second.out")
        );
        assert_eq!(dozen.wrong(), [""; 0], "{what}");
        let again = dozen.home("second").ran();
        assert!(
            again.iter().all(|task| !finished.contains_key(task)),
            "{what}: {again:?}"
        );
        assert_eq!(again.len() + finished.len(), all().len(), "{what}");
    }
    assert!(full > 10, "only {full} of the disks were full");
}

/// A finished build on a disk that then cannot be written.
const READ_ONLY: &str = r#"
set -u
mkdir -p cache && mount -t tmpfs none cache || exit 99
say() { HOME=$SECOND "$KBUILD" "$@" > out 2>&1; echo "$* $?" >> codes; cat out >> said; }
HOME=$FIRST "$KBUILD" > /dev/null 2>&1
mount -o remount,ro cache || exit 99
say; say plan; say why a0; say status
echo new > data/a.txt
say; say plan --detailed-exitcode
mount -o remount,rw cache
say
cp -r cache kept
"#;

#[test]
fn a_disk_that_cannot_be_written_is_read() {
    let dozen = Dozen::new();
    if in_a_world_of_its_own(&dozen, READ_ONLY, &[]).is_none() {
        return;
    }
    let codes = dozen.project.read("codes");
    let said = dozen.project.read("said");
    assert_eq!(
        codes, " 0\nplan 0\nwhy a0 0\nstatus 0\n 3\nplan --detailed-exitcode 4\n 0\n",
        "{said}"
    );
    assert!(
        said.contains("Read-only file system")
            && said.contains("help: building writes to `cache/`"),
        "{said}"
    );
    take_cache(&dozen);
    assert_eq!(dozen.wrong(), [""; 0]);
    assert_eq!(dozen.home("second").ran().len(), 6);
}
