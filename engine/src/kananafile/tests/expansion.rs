//! What right Kananafiles stand for.

use serde_json::json;

use super::super::{Kananafile, Options};
use crate::artifact::Shape;
use crate::graph::{Device, Executor, Origin};
use crate::testing::{load_with, loaded};

fn names(kananafile: &Kananafile) -> Vec<&str> {
    let tasks = kananafile.graph.tasks();
    tasks.map(|(_, task)| task.name.as_str()).collect()
}

fn task<'a>(kananafile: &'a Kananafile, name: &str) -> &'a crate::graph::Task {
    let found = kananafile.graph.find(name).unwrap();
    assert_eq!(found.len(), 1, "{name}");
    kananafile.graph.task(found[0])
}

/// `port[label]=source pattern | task.port` of every input.
fn inputs(kananafile: &Kananafile, name: &str) -> Vec<String> {
    let graph = &kananafile.graph;
    let ports = task(kananafile, name).inputs.iter();
    ports
        .flat_map(|port| port.bindings.iter().map(move |binding| (port, binding)))
        .map(|(port, binding)| {
            let from = match binding.from {
                Origin::Source(id) => graph.source(id).pattern.clone(),
                Origin::Task { task, port } => {
                    let task = graph.task(task);
                    format!(":{}.{}", task.name, task.outputs[port as usize].name)
                }
            };
            format!("{}[{}]={from}", port.name, binding.label)
        })
        .collect()
}

#[test]
fn defaults_are_filled_in_and_order_follows_the_file() {
    let kananafile = loaded(
        r#"
        [task.second]
        kind = "train"
        inputs.documents = ":first"
        params.hidden = 8
        [task.first]
        kind = "clean"
        inputs.documents = "data/*.jsonl"
        [task.alone]
        kind = "clean"
        inputs.documents = "other.jsonl"
        "#,
    );
    assert_eq!(names(&kananafile), ["first", "second", "alone"]);
    let first = task(&kananafile, "first");
    assert_eq!(
        first.params,
        json!({ "language": "english", "min_words": 50 })
    );
    assert_eq!(first.version, 1);
    assert!(first.is_mapped() && first.outputs[0].mapped);
    assert_eq!(first.outputs[0].extension, "jsonl");
    assert_eq!(
        inputs(&kananafile, "first"),
        ["documents[data/*.jsonl]=data/*.jsonl"]
    );
    assert_eq!(
        inputs(&kananafile, "second"),
        ["documents[first]=:first.documents"]
    );
    let (_, source) = kananafile.graph.sources().next().unwrap();
    assert_eq!(source.shape, Some(Shape::Shards));
}

#[test]
fn vars_keep_their_type_alone_and_are_written_out_inside() {
    let kananafile = loaded(
        r#"
        [vars]
        hidden = 8
        root = "data"
        files = "${root}/ko"
        mixture = { a = 0.25, b = 0.75 }
        [task.t]
        kind = "train"
        inputs.documents = { a = "${files}-${hidden}.jsonl", b = "$${x}.jsonl" }
        params = { hidden = "${hidden}", mixture = "${mixture}" }
        "#,
    );
    let params = &task(&kananafile, "t").params;
    assert_eq!(params["hidden"], json!(8));
    assert_eq!(params["mixture"], json!([0.25, 0.75]));
    assert_eq!(
        inputs(&kananafile, "t"),
        ["documents[a]=data/ko-8.jsonl", "documents[b]=${x}.jsonl"]
    );
}

#[test]
fn values_by_input_follow_the_port_and_not_the_table() {
    let text = |mixture: &str| {
        format!(
            "[task.ko]\nkind = \"clean\"\ninputs.documents = \"ko\"\n\
             [task.en]\nkind = \"clean\"\ninputs.documents = \"en\"\n\
             [task.t]\nkind = \"train\"\ninputs.documents = [\":en\", \":ko\"]\n\
             params = {{ hidden = 8, mixture = {mixture} }}\n"
        )
    };
    let one = loaded(&text("{ ko = 0.1, en = 0.9 }"));
    let two = loaded(&text("[0.9, 0.1]"));
    assert_eq!(task(&one, "t").params["mixture"], json!([0.9, 0.1]));
    assert_eq!(task(&one, "t").params, task(&two, "t").params);
}

#[test]
fn a_matrix_names_its_variants_with_floats_in_shortest_form() {
    let kananafile = loaded(
        r#"
        [goal]
        all = [":report"]
        [task.anneal]
        kind = "train"
        matrix = { lr = [1e-3, 3e-3], hidden = { small = 8, large = 16 } }
        inputs.documents = "x.jsonl"
        params = { lr = "${matrix.lr}", hidden = "${matrix.hidden}" }
        [task.next]
        kind = "train"
        inputs = { init = ":anneal@lr=3e-3,hidden=large.model", documents = "x.jsonl" }
        params.hidden = 16
        [task.report]
        kind = "report"
        inputs.curves = { annealed = ":anneal.metrics", next = ":next" }
        "#,
    );
    let all = [
        "anneal@lr=0.001,hidden=small",
        "anneal@lr=0.001,hidden=large",
        "anneal@lr=0.003,hidden=small",
        "anneal@lr=0.003,hidden=large",
    ];
    assert_eq!(names(&kananafile)[..4], all);
    assert_eq!(kananafile.graph.find(":anneal").unwrap().len(), 4);
    assert_eq!(task(&kananafile, all[3]).params["hidden"], json!(16));
    assert_eq!(
        inputs(&kananafile, "next")[0],
        "init[anneal@lr=0.003,hidden=large.model]=:anneal@lr=0.003,hidden=large.model"
    );
    assert_eq!(
        inputs(&kananafile, "report")[1..],
        [
            "curves[annealed@lr=0.001,hidden=large]=:anneal@lr=0.001,hidden=large.metrics",
            "curves[annealed@lr=0.003,hidden=small]=:anneal@lr=0.003,hidden=small.metrics",
            "curves[annealed@lr=0.003,hidden=large]=:anneal@lr=0.003,hidden=large.metrics",
            "curves[next]=:next.metrics",
        ]
    );
}

#[test]
fn a_composite_becomes_its_steps() {
    let kananafile = loaded(
        r#"
        [resources]
        disk = 1
        [goal]
        all = [":rounds"]
        [task.rounds]
        kind = "rounds"
        inputs = { init = ":base", documents = ["a.jsonl", "b.jsonl"] }
        params = { rounds = 3, hidden = 8 }
        run = { device = "cpu", timeout = "1h", threads = 2, recompute = true, attempts = 3, slots = { disk = 1 } }
        protect = true
        temporary = true
        [task.base]
        kind = "train"
        inputs.documents = "x.jsonl"
        params.hidden = 8
        [task.after]
        kind = "train"
        inputs = { init = ":rounds", documents = "x.jsonl" }
        params.hidden = 8
        "#,
    );
    let steps = ["rounds/round-0", "rounds/round-1", "rounds/round-2"];
    assert_eq!(
        names(&kananafile),
        ["base", steps[0], steps[1], steps[2], "after"]
    );
    assert_eq!(
        inputs(&kananafile, steps[0]),
        ["init[base]=:base.model", "documents[a.jsonl]=a.jsonl"]
    );
    assert_eq!(
        inputs(&kananafile, steps[1]),
        [
            "init[round-0]=:rounds/round-0.model",
            "documents[b.jsonl]=b.jsonl"
        ]
    );
    assert_eq!(
        inputs(&kananafile, "after")[0],
        "init[rounds]=:rounds/round-2.model"
    );
    assert_eq!(kananafile.graph.find("rounds").unwrap().len(), 3);
    assert_eq!(kananafile.graph.goals()["all"].len(), 3);
    let step = task(&kananafile, steps[2]);
    assert!(step.protect && step.temporary);
    assert_eq!(step.run.device, Device::Cpu);
    assert_eq!(step.run.timeout.unwrap().as_secs(), 3600);
    assert_eq!((step.run.threads, step.run.attempts), (Some(2), 3));
    assert!(step.run.recompute);
    let (provider, port) = kananafile.composites["rounds"].outputs["model"];
    assert_eq!(kananafile.graph.task(provider).name, steps[2]);
    assert_eq!(port, 0);
    assert_eq!(
        kananafile.warnings[0].message, "no goal needs task `after`",
        "{:?}",
        kananafile.warnings
    );
}

#[test]
fn a_profile_says_what_is_temporary() {
    let text = r#"
        kananafile = 1
        [task.raw]
        kind = "clean"
        inputs.documents = "x.jsonl"
        [task.next]
        kind = "clean"
        inputs.documents = ":raw.documents"
        temporary = true
        [profile.small.task]
        raw.temporary = true
        next.temporary = false
    "#;
    let temporary = |profiles: &[String]| {
        let options = Options {
            profiles,
            ..Options::default()
        };
        let kananafile = load_with(text, &[], &options).unwrap();
        ["raw", "next"].map(|name| task(&kananafile, name).temporary)
    };
    assert_eq!(temporary(&[]), [false, true]);
    assert_eq!(temporary(&["small".to_owned()]), [true, false]);
}

#[test]
fn profiles_and_the_command_line_change_vars_and_params() {
    let text = r#"
        kananafile = 1
        [vars]
        hidden = 8
        lr = 0.5
        [task.t]
        kind = "train"
        inputs.documents = "x.jsonl"
        params = { hidden = "${hidden}", lr = "${lr}" }
        [profile.gpu.vars]
        hidden = 768
        [profile.gpu.task.t]
        params.optimizer = { beta1 = 0.8 }
        run.device = "gpu"
    "#;
    let with = |profiles: &[String], set: &[(String, String)]| {
        let options = Options {
            profiles,
            set,
            ..Options::default()
        };
        let kananafile = load_with(text, &[], &options).unwrap();
        let task = task(&kananafile, "t");
        let params = &task.params;
        (
            params["hidden"].as_u64().unwrap(),
            params["lr"].as_f64().unwrap(),
            params["optimizer"]["beta1"].as_f64().unwrap(),
            task.run.device,
        )
    };
    let gpu = ["gpu".to_owned()];
    let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
    assert_eq!(with(&[], &[]), (8, 0.5, 0.0, Device::Auto));
    assert_eq!(with(&gpu, &[]), (768, 0.5, 0.8, Device::Gpu));
    assert_eq!(with(&gpu, &set("hidden", "32")).0, 32);
    assert_eq!(with(&[], &set("lr", "1")).1, 1.0);
}

#[test]
fn included_files_speak_of_their_own_folder() {
    let root = "kananafile = 1\ninclude = \"sub/data.kanana\"\n[vars]\nn = 3\n\
                [task.t]\nkind = \"train\"\ninputs.documents = [\":c\", \"y.jsonl\"]\nparams.hidden = 8\n";
    let data = "include = \"../Kananafile\"\n[task.c]\nkind = \"clean\"\n\
                inputs.documents = \"x.jsonl\"\nparams.min_words = \"${n}\"\n";
    let options = Options::default();
    let kananafile = load_with(root, &[("sub/data.kanana", data)], &options).unwrap();
    assert_eq!(inputs(&kananafile, "c"), ["documents[x.jsonl]=sub/x.jsonl"]);
    assert_eq!(inputs(&kananafile, "t")[1], "documents[y.jsonl]=y.jsonl");
    assert_eq!(task(&kananafile, "c").place.file, "sub/data.kanana");
    let twice = format!("{root}[task.c]\nkind = \"clean\"\ninputs.documents = \"z\"\n");
    let problems = load_with(&twice, &[("sub/data.kanana", data)], &options).unwrap_err();
    assert_eq!(problems[0].message, "task `c` is declared twice");
}

#[test]
fn an_argument_that_is_a_var_is_its_text() {
    let kananafile = loaded(
        r#"
        [vars]
        seed = 7
        lr = 1e-3
        on = true
        [task.t]
        kind = "command"
        outputs = { out = "file" }
        matrix.n = [2.0]
        params.argv = ["x", "${seed}", "${lr}", '${on}', "${matrix.n}", "${seed} ${lr} ${on} ${matrix.n}", "{outputs.out}"]
        "#,
    );
    let Executor::Command(program) = &task(&kananafile, "t").executor else {
        panic!("a command")
    };
    assert_eq!(
        program.argv[1..6],
        ["7", "0.001", "true", "2.0", "7 0.001 true 2.0"]
    );
}

#[test]
fn a_command_has_its_own_ports_and_program() {
    let kananafile = loaded(
        r#"
        [task.count]
        kind = "command"
        inputs = { words = ["a.txt", "b.txt"], model = ":train" }
        outputs = { counts = "report", log = "file" }
        [task.count.params]
        argv = ["bin/count.sh", "{inputs.words}", "{inputs.model}", "--to={outputs.counts}", "{outputs.log}"]
        files = ["lib.sh"]
        env = ["LANG"]
        [task.train]
        kind = "train"
        inputs.documents = "x.jsonl"
        params.hidden = 8
        [task.report]
        kind = "report"
        inputs.curves.count = ":count"
        "#
        .replace("\":train\"", "\":train.model\"")
        .as_str(),
    );
    let count = task(&kananafile, "count");
    let Executor::Command(program) = &count.executor else {
        panic!("{:?}", count.executor)
    };
    assert_eq!(program.files, ["bin/count.sh", "lib.sh"]);
    assert_eq!(program.env, ["LANG"]);
    assert_eq!(program.argv[0], "bin/count.sh");
    assert_eq!(
        count.params["outputs"],
        json!({ "counts": "report", "log": "file" })
    );
    assert_eq!(count.outputs[0].shape, Shape::File);
    assert_eq!(
        inputs(&kananafile, "report"),
        ["curves[count]=:count.counts"]
    );
}

const PLUGIN: &str = r#"
    version = 3
    summary = "counts words"
    argv = ["python3", "main.py"]
    files = ["main.py"]
    env = ["LANG"]
    [inputs.documents]
    format = "documents"
    arity = "many"
    [outputs.counts]
    format = "report"
    [params.minimum]
    type = "integer"
    default = 3
    [params.share]
    type = "number"
"#;

fn with_plugin(params: &str) -> Result<Kananafile, Vec<super::super::Problem>> {
    let text = format!(
        "kananafile = 1\n[plugin.count]\npath = \"plugins/count\"\n[task.t]\nkind = \"count\"\n\
         inputs.documents = \"x.jsonl\"\nparams = {params}\n"
    );
    let files = [("plugins/count/kind.toml", PLUGIN)];
    load_with(&text, &files, &Options::default())
}

#[test]
fn a_plugin_is_a_kind() {
    let kananafile = with_plugin("{ share = 1 }").unwrap();
    let counts = task(&kananafile, "t");
    assert_eq!(counts.version, 3);
    assert_eq!(counts.params.to_string(), r#"{"minimum":3,"share":1.0}"#);
    let Executor::Plugin(program) = &counts.executor else {
        panic!("{:?}", counts.executor)
    };
    assert_eq!(program.argv, ["python3", "plugins/count/main.py"]);
    assert_eq!(program.declared, ["python3", "main.py"]);
    assert_eq!(program.files, ["plugins/count/main.py"]);
    assert!(kananafile.plugins.contains_key("count"));
}

#[test]
fn params_of_a_plugin_are_checked() {
    let say = |params: &str| {
        let problems = with_plugin(params).unwrap_err();
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    assert_eq!(
        say("{ share = 1.5, minimum = \"x\" }"),
        "Kananafile:7:35: param `minimum`: expected integer, found \"x\""
    );
    assert_eq!(
        say("{ shore = 1.5 }"),
        "Kananafile:4:7: task `t` lacks the param `share`\n\
         Kananafile:7:12: `count` has no param `shore`\n  help: did you mean `share`?"
    );
}

#[test]
fn the_same_text_gives_the_same_graph() {
    let text = "[task.a]\nkind = \"clean\"\ninputs.documents = \"x\"\n\
                [task.b]\nkind = \"clean\"\ninputs.documents = \":a\"\n";
    let shown = |kananafile: &Kananafile| format!("{:?}", kananafile.graph);
    assert_eq!(shown(&loaded(text)), shown(&loaded(text)));
}
