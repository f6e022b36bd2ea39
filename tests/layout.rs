//! The layout of the workspace, asserted: who may depend on whom, who may print, what must be documented.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kbuild_engine::kind::{Body, Kind};

const ML_CRATES: [&str; 9] = [
    "candle-core",
    "cudarc",
    "fasttext",
    "gemm",
    "half",
    "ndarray",
    "safetensors",
    "tch",
    "tokenizers",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(path: &str) -> toml::Table {
    let text = std::fs::read_to_string(root().join(path)).expect("the manifest is there");
    text.parse().expect("the manifest is TOML")
}

/// Every `.rs` file below a folder, by its path from the root of the repository.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .expect("the folder is there")
            .flatten()
        {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root())
                    .expect("below the root")
                    .to_string_lossy()
                    .into_owned();
                files.push((
                    name,
                    std::fs::read_to_string(&path).expect("a source file is text"),
                ));
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no source below {folder}");
    files
}

/// Lines of code that hold one of the words: comments do not count, and neither do tests.
fn lines_with(
    files: &[(String, String)],
    words: &[&str],
    allowed: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    let is_test = |name: &str| name.contains("/tests") || name.contains("testing");
    let counted = files
        .iter()
        .filter(|(name, _)| !allowed(name) && !is_test(name));
    for (name, text) in counted {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.trim();
            if !line.starts_with("//") && words.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    found
}

#[test]
fn plain_cargo_builds_runs_and_tests_everything() {
    let manifest = manifest("Cargo.toml");
    let members: Vec<&str> = manifest["workspace"]["default-members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap())
        .collect();
    assert_eq!(members, [".", "engine", "tasks"]);
    assert_eq!(manifest["package"]["default-run"].as_str(), Some("kbuild"));
}

#[test]
fn the_engine_depends_on_nothing_of_ours_and_on_no_ml_crate() {
    let lock = manifest("Cargo.lock");
    let packages: BTreeMap<&str, Vec<&str>> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
            // A dependency is `name`, or `name version` where there are several.
            let names = dependencies
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.as_str()?.split(' ').next())
                .collect();
            (package["name"].as_str().unwrap(), names)
        })
        .collect();
    let mut seen = BTreeSet::new();
    let mut stack = vec!["kbuild-engine"];
    while let Some(name) = stack.pop() {
        if seen.insert(name) {
            stack.extend(&packages[name]);
        }
    }
    assert!(
        seen.len() > 10 && seen.contains("blake3"),
        "the lock file was read: {seen:?}"
    );
    for name in ML_CRATES.into_iter().chain(["kbuild-tasks", "kbuild"]) {
        assert!(!seen.contains(name), "kbuild-engine depends on {name}");
    }
}

#[test]
fn the_tasks_do_not_know_the_program() {
    let manifest = manifest("tasks/Cargo.toml");
    assert!(
        !manifest["dependencies"]
            .as_table()
            .unwrap()
            .contains_key("kbuild")
    );
}

#[test]
fn the_model_alone_names_candle_and_cudarc() {
    let words = ["candle_core", "candle::", "cudarc"];
    let found = lines_with(&sources("tasks/src"), &words, |name| {
        name.starts_with("tasks/src/model/")
    });
    assert!(
        found.is_empty(),
        "only tasks/src/model names candle or cudarc:\n{}",
        found.join("\n")
    );
}

#[test]
fn one_file_names_sled() {
    let found = lines_with(&sources("engine/src"), &["sled::"], |name| {
        name == "engine/src/store/history.rs"
    });
    assert!(
        found.is_empty(),
        "only the history names sled:\n{}",
        found.join("\n")
    );
}

#[test]
fn only_the_console_prints() {
    let mut files = sources("src");
    files.extend(sources("engine/src"));
    files.extend(sources("tasks/src"));
    let found = lines_with(&files, &["print!(", "println!(", "dbg!("], |_| false);
    assert!(
        found.is_empty(),
        "print through src/console:\n{}",
        found.join("\n")
    );
    // The end of the protocol inside a task writes its events.
    let streams = ["stdout()", "stderr()"];
    let found = lines_with(&files, &streams, |name| {
        name.starts_with("src/console/") || name.starts_with("engine/src/runner/")
    });
    assert!(
        found.is_empty(),
        "write through src/console:\n{}",
        found.join("\n")
    );
}

#[test]
fn the_pure_half_of_the_engine_touches_nothing() {
    let effects = [
        "std::fs",
        "std::process",
        "std::net",
        "Instant::now",
        "SystemTime",
        "std::env",
        "tokio::",
    ];
    let acts = [
        "build",
        "read",
        "store",
        "workspace",
        "runner",
        "project",
        "error",
        "event",
    ];
    let found = lines_with(&sources("engine/src"), &effects, |name| {
        let module = name
            .trim_start_matches("engine/src/")
            .trim_end_matches(".rs");
        acts.contains(&module.split('/').next().unwrap_or_default())
    });
    assert!(
        found.is_empty(),
        "decide purely, act elsewhere:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_kind_is_documented() {
    let kinds = kbuild_tasks::kinds();
    let missing: Vec<String> = kinds.iter().flat_map(undocumented).collect();
    assert!(
        missing.is_empty(),
        "not documented:\n{}",
        missing.join("\n")
    );
}

fn undocumented(kind: &Kind) -> Vec<String> {
    let name = &kind.name;
    let mut missing = Vec::new();
    if kind.summary.trim().is_empty() {
        missing.push(format!("{name}: SUMMARY"));
    }
    let inputs = kind.ports.inputs.iter().map(|port| (&port.name, &port.doc));
    let ports = inputs.chain(
        kind.ports
            .outputs
            .iter()
            .map(|port| (&port.name, &port.doc)),
    );
    missing.extend(
        ports
            .filter(|port| port.1.is_empty())
            .map(|port| format!("{name}: port {}", port.0)),
    );
    if matches!(kind.body, Body::BuiltIn { .. } | Body::Composite { .. }) {
        let none = serde_json::Map::new();
        let params = kind.schema["properties"].as_object().unwrap_or(&none);
        let bare = params.iter().filter(|(_, param)| {
            param["description"]
                .as_str()
                .is_none_or(|text| text.trim().is_empty())
        });
        missing.extend(bare.map(|(param, _)| format!("{name}: param {param}")));
    }
    missing
}

#[test]
fn no_page_is_forgotten() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect(path);
    let readme = read("README.md");
    for page in [
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/kananafile.md",
        "docs/kinds.md",
        "docs/plugin-protocol.md",
    ] {
        assert!(root().join(page).exists(), "{page}");
        assert!(readme.contains(page), "README.md does not name {page}");
    }
    for example in std::fs::read_dir(root().join("examples"))
        .unwrap()
        .flatten()
    {
        for file in ["README.md", "Kananafile"] {
            assert!(
                example.path().join(file).exists(),
                "{file} of {}",
                example.path().display()
            );
        }
    }
}
