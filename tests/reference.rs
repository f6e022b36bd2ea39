//! The generated reference is what the table of kinds says. `UPDATE=1` writes it.

use std::path::Path;
use std::process::Command;

fn is_current(page: &str, words: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_kbuild"))
        .args(words)
        .output()
        .expect("the program starts");
    assert!(output.status.success());
    let made = String::from_utf8(output.stdout).expect("the reference is text");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).expect("the page is written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == made,
        "{page} is out of date: UPDATE=1 cargo test --release --test reference"
    );
}

#[test]
fn reference_of_kinds_is_current() {
    is_current("docs/kinds.md", &["kinds", "--markdown"]);
}
