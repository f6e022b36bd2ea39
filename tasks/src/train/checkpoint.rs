//! Checkpoints of a training task: everything that decides the rest of the run, in a directory that appears whole.
//!
//! `partial/step-<n>/` holds the model, the optimiser, the metrics so far and `state.json` with the numeric
//! environment and the digest of each file. It is written under another name, flushed and renamed; the one before is
//! removed after that. A checkpoint of another environment, or one that is damaged, is not used: the task says so and
//! starts over. Knows nothing of what is trained.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use kbuild_engine::digest::Digest;
use kbuild_engine::runner::{AtPath, Failure};
use kbuild_engine::store::hash_file;
use serde::{Deserialize, Serialize};

use crate::model::{AdamW, AdamWOptions, Core, Model};

/// Everything that decides the rest of a run.
pub struct Checkpoint {
    pub step: u64,
    pub model: Model,
    pub optimizer: AdamW,
    /// Lines of the metrics so far.
    pub metrics: String,
}

#[derive(Serialize, Deserialize)]
struct State {
    format: u32,
    step: u64,
    environment: String,
    files: BTreeMap<String, Digest>,
}

/// What a checkpoint must fit to be continued.
pub struct Fits<'a> {
    pub environment: &'a str,
    /// The model as the run begins.
    pub model: &'a Model,
    /// Steps of the whole run.
    pub steps: u64,
}

const FORMAT: u32 = 1;
const OPTIMIZER: &str = "optimizer.safetensors";
const METRICS: &str = "metrics.jsonl";
const STATE: &str = "state.json";

/// Writes the state of a core after `step` steps; when this returns, it is on disk. When it fails, the checkpoint before
/// is as it was, and nothing else takes room.
pub fn save(
    partial: &Path,
    environment: &str,
    step: u64,
    core: &Core,
    metrics: &str,
) -> Result<(), Failure> {
    let making = partial.join(format!("step-{step}.making"));
    let saved = save_by_way_of(&making, partial, environment, step, core, metrics);
    if saved.is_err() {
        let _ = remove(&making);
    }
    saved
}

fn save_by_way_of(
    making: &Path,
    partial: &Path,
    environment: &str,
    step: u64,
    core: &Core,
    metrics: &str,
) -> Result<(), Failure> {
    remove(making)?;
    std::fs::create_dir_all(making).at(making)?;
    core.save(making)?;
    if let Some(moments) = core.moments()? {
        moments.save(&making.join(OPTIMIZER))?;
    }
    let path = making.join(METRICS);
    std::fs::write(&path, metrics).at(&path)?;
    let state = State {
        format: FORMAT,
        step,
        environment: environment.to_owned(),
        files: digests(making)?,
    };
    let path = making.join(STATE);
    let text = serde_json::to_string(&state)
        .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))?;
    std::fs::write(&path, text).at(&path)?;
    flush(making)?;
    let done = partial.join(format!("step-{step}"));
    remove(&done)?;
    std::fs::rename(making, &done).at(&done)?;
    File::open(partial)
        .and_then(|directory| directory.sync_all())
        .at(partial)?;
    remove_others(partial, &done)
}

/// The newest usable checkpoint, and what was wrong with those that are not.
pub fn load(
    partial: &Path,
    fits: &Fits<'_>,
    options: AdamWOptions,
) -> (Option<Checkpoint>, Vec<String>) {
    let mut notes = Vec::new();
    for directory in found(partial) {
        match read(&directory, fits, options) {
            Ok(checkpoint) => return (Some(checkpoint), notes),
            Err(reason) => notes.push(format!("a checkpoint is not used: {reason}")),
        }
    }
    (None, notes)
}

/// Removes every checkpoint: the result is complete.
pub fn clear(partial: &Path) -> Result<(), Failure> {
    for directory in found(partial) {
        remove(&directory)?;
    }
    Ok(())
}

fn read(directory: &Path, fits: &Fits<'_>, options: AdamWOptions) -> Result<Checkpoint, String> {
    let text = |name: &str| {
        std::fs::read_to_string(directory.join(name)).map_err(|error| format!("`{name}`: {error}"))
    };
    let state: State = serde_json::from_str(&text(STATE)?).map_err(|error| error.to_string())?;
    if state.format != FORMAT {
        return Err("it was written by another version".to_owned());
    }
    if state.environment != fits.environment {
        return Err(format!(
            "it was made with {}, this is {}",
            state.environment, fits.environment
        ));
    }
    if state.step > fits.steps {
        let (step, steps) = (state.step, fits.steps);
        return Err(format!("it says step {step}, and the run has {steps}"));
    }
    let found = digests(directory).map_err(|failure| failure.message)?;
    if found != state.files {
        return Err("its files are damaged".to_owned());
    }
    let model = Model::load(directory).map_err(|error| error.to_string())?;
    if model.config != fits.model.config {
        return Err("its model has another shape".to_owned());
    }
    let optimizer = AdamW::load(&directory.join(OPTIMIZER), &model.layout, options)
        .map_err(|error| error.to_string())?;
    let metrics = text(METRICS)?;
    if u64::try_from(metrics.lines().count()) != Ok(state.step) {
        return Err("its metrics are not those of its step".to_owned());
    }
    Ok(Checkpoint {
        step: state.step,
        optimizer,
        metrics,
        model,
    })
}

/// Whole checkpoints, the newest first.
fn found(partial: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(partial) else {
        return Vec::new();
    };
    let mut steps: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    steps.sort_by(|a, b| b.cmp(a));
    steps.into_iter().map(|(_, path)| path).collect()
}

/// The digest of every file but the state itself.
fn digests(directory: &Path) -> Result<BTreeMap<String, Digest>, Failure> {
    let mut digests = BTreeMap::new();
    for entry in std::fs::read_dir(directory).at(directory)? {
        let entry = entry.at(directory)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == STATE {
            continue;
        }
        let path = entry.path();
        digests.insert(name, hash_file(&path)?.digest);
    }
    Ok(digests)
}

fn flush(directory: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(directory).at(directory)? {
        let path = entry.at(directory)?.path();
        File::open(&path)
            .and_then(|file| file.sync_all())
            .at(&path)?;
    }
    File::open(directory)
        .and_then(|file| file.sync_all())
        .at(directory)
}

fn remove_others(partial: &Path, kept: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(partial).at(partial)? {
        let path = entry.at(partial)?.path();
        let is_ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("step-"));
        if is_ours && path != kept {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io(directory, &error))
        }
        _ => Ok(()),
    }
}
