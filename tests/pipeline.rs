//! The Kananafile of this repository: it must pass its own check in every profile, and every source must be there.

use std::path::Path;

use kbuild_engine::kananafile::{Kananafile, Options, load};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pipeline(profiles: &[String]) -> Kananafile {
    let read =
        |path: &str| std::fs::read_to_string(root().join(path)).map_err(|error| error.to_string());
    let options = Options {
        file: "Kananafile",
        profiles,
        ..Options::default()
    };
    match load(&read, &kbuild_tasks::kinds(), &options) {
        Ok(kananafile) => kananafile,
        Err(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("{}", problems.join("\n"));
        }
    }
}

#[test]
fn the_pipeline_is_right_in_every_profile() {
    let full = pipeline(&[]);
    assert!(full.warnings.is_empty(), "{:?}", full.warnings);
    let small = pipeline(&["ci".to_owned()]);
    assert!(small.graph.len() > 100);
    assert!(full.graph.len() >= small.graph.len());
}

#[test]
fn every_source_of_the_pipeline_is_in_the_repository() {
    for (_, source) in pipeline(&[]).graph.sources() {
        let pattern = root().join(&source.pattern);
        let found = glob::glob(&pattern.to_string_lossy())
            .unwrap()
            .filter_map(Result::ok)
            .count();
        assert!(found > 0, "`{}` matches nothing", source.pattern);
    }
}
