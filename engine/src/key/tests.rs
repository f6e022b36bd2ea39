//! Keys: pinned, and compared with what may and what may not change them.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::graph::Origin;
use crate::testing::loaded;

/// The key of the task `target`, where the content of a source is its file name.
fn key_of(text: &str, target: &str) -> Digest {
    let kananafile = loaded(text);
    let graph = &kananafile.graph;
    let id = graph.find(target).unwrap()[0];
    let digest = |binding: &Binding| match binding.from {
        Origin::Source(id) => {
            let pattern = &graph.source(id).pattern;
            Digest::of(pattern.rsplit('/').next().unwrap().as_bytes())
        }
        Origin::Task { .. } => Digest::of(b"an output"),
    };
    Manifest::of(graph.task(id), digest, None).key()
}

const TRAIN: &str = r#"
    [task.train]
    kind = "train"
    inputs = { documents = ["a.jsonl", "b.jsonl"] }
    params = { hidden = 8, mixture = [0.25, 0.75] }
"#;

#[test]
fn keys_are_pinned() {
    let clean = "[task.c]\nkind = \"clean\"\ninputs.documents = \"a\"\n";
    let keys = [key_of(TRAIN, "train"), key_of(clean, "c")].map(Digest::to_hex);
    assert_eq!(
        keys,
        [
            "2e2d48e6b35095c49f6e8e1c3d715b1f5be5a690d9ff8cd438b7d215b8b4bebf",
            "f3552b3b5c336862725e470c4f0c51838a4fc0a1346c5174bba031877abc2d8b",
        ]
    );
}

#[test]
fn the_text_that_is_hashed_is_readable() {
    let kananafile = loaded(TRAIN);
    let (_, task) = kananafile.graph.tasks().next().unwrap();
    let digest = Digest::of(b"content");
    let mut manifest = Manifest::of(task, |_| digest, None);
    manifest.inputs.get_mut("documents").unwrap().truncate(1);
    let text = canonical::to_string(&manifest).unwrap();
    let inputs = format!(r#""inputs":{{"documents":[{{"digest":"{digest}"}}]}}"#);
    let params = r#""params":{"hidden":8,"lr":0.01,"mixture":[0.25,0.75],"optimizer":{"beta1":0.0,"beta2":0.0}}"#;
    let expected = format!(r#"{{{inputs},"kind":"train",{params},"schema":1,"version":1}}"#);
    assert_eq!(text, expected);
    assert_eq!(Digest::of(text.as_bytes()), manifest.key());
    let read: Manifest = serde_json::from_value(manifest.to_value()).unwrap();
    assert_eq!(read, manifest);
}

#[test]
fn the_quick_text_is_the_canonical_one() {
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let digest = Digest::of(b"content");
    let entry = |label: Option<&str>| InputEntry {
        digest,
        label: label.map(str::to_owned),
    };
    let inputs = [
        ("a \"b\"", vec![entry(None), entry(Some("한\n글"))]),
        ("z", Vec::new()),
    ];
    let program = ProgramEntry {
        argv: vec!["a\tb".to_owned()],
        files: vec![digest],
        env: BTreeMap::from([("LANG".to_owned(), None)]),
    };
    for (program, part) in [(None, false), (Some(program), true)] {
        let manifest = Manifest {
            schema: SCHEMA,
            kind: "tr\u{7f}ain".to_owned(),
            version: 7,
            params: value(r#"{"z":[1.0,-0.0,1e300,-3,null,true],"a":{"\\":"\u0001"}}"#),
            inputs: inputs
                .clone()
                .map(|(port, list)| (port.to_owned(), list))
                .into(),
            program,
            part,
        };
        assert_eq!(manifest.text(), canonical::to_string(&manifest).unwrap());
    }
}

#[test]
fn a_part_is_not_the_whole() {
    let kananafile = loaded("[task.c]\nkind = \"clean\"\ninputs.documents = \"a\"\n");
    let (_, task) = kananafile.graph.tasks().next().unwrap();
    let digest = Digest::of(b"a");
    let whole = Manifest::of(task, |_| digest, None);
    let label = None;
    let part = whole.part(&[("documents".to_owned(), InputEntry { digest, label })]);
    assert_eq!(part.inputs, whole.inputs);
    assert_ne!(part.key(), whole.key());
}

#[test]
fn labels_count_on_labelled_ports_alone() {
    let report = |label: &str| {
        let inputs = format!("inputs.curves.{label} = \"a.json\"");
        key_of(&format!("[task.r]\nkind = \"report\"\n{inputs}\n"), "r")
    };
    assert_ne!(report("one"), report("two"));
    let train = |label: &str| {
        let inputs = format!("inputs.documents.{label} = \"a\"\nparams.hidden = 8");
        key_of(&format!("[task.t]\nkind = \"train\"\n{inputs}\n"), "t")
    };
    assert_eq!(train("one"), train("two"));
}

/// [`TRAIN`] with everything that may differ without changing what is made.
fn dressed(name: &str, folder: &str, labels: [&str; 2], run: &str, params: &str) -> String {
    let [a, b] = labels;
    format!(
        "[task.{name}]\nkind = \"train\"\nrun = {{ {run} }}\n\
         inputs.documents = {{ {a} = \"{folder}/a.jsonl\", {b} = \"{folder}/b.jsonl\" }}\n\
         params = {{ {params}mixture = {{ {b} = 0.75, {a} = 0.25 }} }}\n"
    )
}

fn run_settings() -> impl Strategy<Value = String> {
    let numbers = (1_u32..9, 1_u32..9, 0_usize..3, 1_u32..4, any::<bool>());
    numbers.prop_map(|(threads, hours, device, gpu, recompute)| {
        let device = ["auto", "cpu", "gpu"][device];
        format!(
            "threads = {threads}, timeout = \"{hours}h\", device = \"{device}\", \
             attempts = {threads}, recompute = {recompute}, slots = {{ gpu = {gpu} }}"
        )
    })
}

proptest! {
    #[test]
    fn names_labels_paths_and_run_settings_keep_the_key(
        name in "[a-z][a-z0-9-]{0,8}",
        folder in "[a-z]{1,8}(/[a-z]{1,8}){0,2}",
        labels in ("x[a-z]{0,6}", "y[a-z]{0,6}"),
        run in run_settings(),
        spelt_out in any::<bool>(),
    ) {
        prop_assume!(!["plan", "build"].contains(&name.as_str()));
        let params = if spelt_out { "lr = 0.01, hidden = 8, " } else { "hidden = 8, " };
        let text = dressed(&name, &folder, [&labels.0, &labels.1], &run, params);
        prop_assert_eq!(key_of(&text, &name), key_of(TRAIN, "train"));
    }

    #[test]
    fn any_param_changes_the_key(hidden in 1_u64..1000, lr in 1e-6_f64..1.0, beta in 0.0_f64..1.0) {
        prop_assume!((hidden, lr, beta) != (8, 0.01, 0.0));
        let (lr, beta) = (json!(lr), json!(beta));
        let params = format!("hidden = {hidden}, lr = {lr}, optimizer = {{ beta1 = {beta} }}, ");
        let text = dressed("train", "data", ["a", "b"], "", &params);
        prop_assert_ne!(key_of(&text, "train"), key_of(TRAIN, "train"));
    }

    #[test]
    fn any_input_changes_the_key(content in "[a-z]{1,8}", second in any::<bool>()) {
        let replaced = if second { "b.jsonl" } else { "a.jsonl" };
        let text = TRAIN.replace(replaced, &content);
        prop_assert_ne!(key_of(&text, "train"), key_of(TRAIN, "train"));
    }
}

#[test]
fn order_and_version_change_the_key() {
    let swapped = TRAIN.replace("\"a.jsonl\", \"b.jsonl\"", "\"b.jsonl\", \"a.jsonl\"");
    assert_ne!(key_of(&swapped, "train"), key_of(TRAIN, "train"));
    let kananafile = loaded(TRAIN);
    let (_, task) = kananafile.graph.tasks().next().unwrap();
    let old = Manifest::of(task, |_| Digest::of(b"x"), None);
    let mut new = old.clone();
    new.version += 1;
    assert_ne!(old.key(), new.key());
}
