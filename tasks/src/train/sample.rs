//! `sample`: K responses of a model to each prompt (recipe 10.3).
//!
//! A response is a function of (model, prompt, its number, seed) alone, so more prompts change none that was there.

use std::io::Write;
use std::path::PathBuf;

use kbuild_engine::facts::Prediction;
use kbuild_engine::kind::{Arity, Complaint, Known, Ports, TaskKind};
use kbuild_engine::runner::{AtPath, Context, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dialogue::tokenize_prompt;
use super::model_files;
use super::records::{self, FinishReason, Response, SampledPrompt};
use super::steps;
use crate::facts;
use crate::formats::chat::Conversation;
use crate::formats::tokenizer::Tokenizer;
use crate::model::decode::Decoder;
use crate::model::memory::decoding;
use crate::model::sampler::Sampling;
use crate::model::{Finish, GenerateOptions, Generated, Head, Numerics};

pub struct Sample;

/// How responses are drawn.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Responses to each prompt.
    pub k: usize,
    /// 0 takes the most likely token.
    pub temperature: f64,
    /// Keep the smallest set of most likely tokens whose probability reaches this.
    pub top_p: f64,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep tokens at least this likely relative to the most likely one.
    pub min_p: f64,
    /// Longest response in tokens. Required.
    pub max_new_tokens: Option<usize>,
    /// Decides the draws.
    pub seed: u64,
    /// The prompts to skip at the beginning.
    pub first: usize,
    /// How many prompts to take from there; all when absent.
    pub count: Option<usize>,
    /// Number format of the arithmetic.
    pub numerics: Numerics,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            k: 8,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_new_tokens: None,
            seed: 0,
            first: 0,
            count: None,
            numerics: Numerics::F32,
        }
    }
}

impl TaskKind for Sample {
    const NAME: &'static str = "sample";
    const VERSION: u32 = 3;
    const SUMMARY: &'static str = "samples responses of a model to prompts";
    type Params = Params;

    fn ports() -> Ports {
        Ports::new()
            .input("model", "model", Arity::One, "the policy")
            .input("prompts", "prompts", Arity::Many, "prompts, read in order")
            .output(
                "samples",
                "samples",
                "token ids, log-probabilities and text of every response",
            )
    }

    fn predict(params: &Params, known: &Known<'_>) -> Result<Prediction, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let mut refuse = |wrong: bool, at: &str, message: String, help: &str| {
            if wrong {
                complaints.push(Complaint::new(&format!("params.{at}"), message, help));
            }
        };
        refuse(
            params.max_new_tokens.is_none_or(|n| n == 0),
            "max_new_tokens",
            "`max_new_tokens` is required and is 1 or more".to_owned(),
            "a response that reaches it counts as truncated",
        );
        refuse(
            params.k == 0,
            "k",
            "`k` is 0".to_owned(),
            "use 1 or more; pairs need 2",
        );
        refuse(
            !(params.temperature.is_finite() && params.temperature >= 0.0),
            "temperature",
            format!("`temperature` is {}", params.temperature),
            "1 is the model's own distribution, 0 the most likely token",
        );
        refuse(
            !(params.top_p > 0.0 && params.top_p <= 1.0),
            "top_p",
            format!("`top_p` is {}, expected a share above 0", params.top_p),
            "1 keeps every token",
        );
        refuse(
            !(0.0..=1.0).contains(&params.min_p),
            "min_p",
            format!("`min_p` is {}, expected a share", params.min_p),
            "0 keeps every token",
        );
        let model = known.one("model");
        complaints.extend(facts::length_complaint(
            known,
            "model",
            "max_new_tokens",
            params.max_new_tokens.unwrap_or(0),
        ));
        let held = facts::sum(known, "prompts", "prompts");
        let last = params.count.map(|count| (params.first + count) as u64);
        if let Some((held, last)) = held.zip(last).filter(|(held, last)| last > held) {
            complaints.push(Complaint::new(
                "params.count",
                format!("prompts up to number {last} are asked for, there are {held}"),
                "lower `first` or `count`, or bind more prompts",
            ));
        }
        facts::answer(complaints, || {
            let mut samples = facts::carried(model, &["vocab"]);
            let all = held.map(|held| held.saturating_sub(params.first as u64));
            let prompts = params.count.map(|count| count as u64).or(all);
            if let Some(prompts) = prompts {
                samples.set("prompts", prompts);
                samples.set("responses", prompts * params.k as u64);
            }
            // Responses are as long as the model makes them, and threads as many as the machine gives: the least is told.
            let config = model.and_then(|model| facts::to_config(model, Head::Language));
            let sequences = params.k.saturating_mul(prompts.unwrap_or(1) as usize);
            let positions = params.max_new_tokens.unwrap_or(0);
            let backend = facts::backend(known, params.numerics);
            let memory = config.map(|config| decoding(&config, sequences, positions, backend));
            let cost = facts::forward(model, None, memory);
            facts::prediction(cost, [("samples", samples)])
        })
    }

    fn run(params: Params, context: &mut Context) -> Result<(), Failure> {
        let artifact = context.one("model");
        let model = model_files::load(artifact)?;
        let tokenizer = model_files::tokenizer(&artifact.path, &model.config)?;
        let options = options(&params, &model.config.eos_token_id)?;
        let prompts = prompts(&params, context, &tokenizer)?;
        let device = steps::device(context, params.numerics)?;
        let decoder = Decoder::new(&model, &device)?;
        let mut journal = Journal::open(context)?;
        let mut done = journal.read(&prompts);
        while done.len() < prompts.len() {
            let total = (prompts.len() * params.k) as u64;
            context.progress((done.len() * params.k) as u64, total, "responses");
            if context.should_stop() {
                return Err(Failure::interrupted());
            }
            let group = &prompts[done.len()..prompts.len().min(done.len() + GROUP)];
            let ids: Vec<Vec<u32>> = group.iter().map(|(_, ids)| ids.clone()).collect();
            let generated = decoder.generate(&ids, &options)?;
            for ((record, ids), responses) in group.iter().zip(generated.chunks(params.k)) {
                let sampled = SampledPrompt {
                    prompt: params.first + done.len(),
                    record: record.clone(),
                    ids: ids.clone(),
                    responses: responses
                        .iter()
                        .map(|response| view(response, &tokenizer))
                        .collect::<Result<_, _>>()?,
                };
                journal.append(&sampled)?;
                done.push(sampled);
            }
        }
        records::write(context.output("samples"), &done)?;
        journal.remove()?;
        context.fact("samples", "prompts", done.len());
        context.fact("samples", "responses", done.len() * params.k);
        model_files::state_tokenizer(context, "samples", &tokenizer);
        Ok(())
    }
}

/// Prompts that are generated between two looks at the request to stop.
const GROUP: usize = 32;

fn options(params: &Params, stop: &[u32]) -> Result<GenerateOptions, Failure> {
    if stop.is_empty() {
        return Err(
            Failure::input("the model names no stop token: no response would ever end")
                .help("set `eos_token_id` in its config.json; `sft` does so"),
        );
    }
    Ok(GenerateOptions {
        max_new_tokens: params.max_new_tokens.unwrap_or(0),
        samples: params.k,
        sampling: Sampling {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
        },
        stop: stop.to_vec(),
        seed: params.seed,
    })
}

type Prompt = (Conversation, Vec<u32>);

fn prompts(
    params: &Params,
    context: &Context,
    tokenizer: &Tokenizer,
) -> Result<Vec<Prompt>, Failure> {
    let parts = context
        .many("prompts")
        .iter()
        .flat_map(|artifact| &artifact.parts);
    let all: Vec<Conversation> = records::read_shards(parts)?;
    let (held, wanted) = (
        all.len(),
        params
            .count
            .unwrap_or(all.len().saturating_sub(params.first)),
    );
    if wanted == 0 || params.first + wanted > held {
        return Err(Failure::input(format!(
            "prompts {} to {} are asked for, there are {held}",
            params.first,
            params.first + wanted
        ))
        .help("add prompts, or ask for fewer"));
    }
    all.into_iter()
        .skip(params.first)
        .take(wanted)
        .map(|record| {
            let ids = tokenize_prompt(tokenizer, &record.messages)?;
            Ok((record, ids))
        })
        .collect()
}

fn view(response: &Generated, tokenizer: &Tokenizer) -> Result<Response, Failure> {
    Ok(Response {
        ids: response.tokens.clone(),
        log_probabilities: response.log_probs.clone(),
        finish: match response.finish {
            Finish::Stop => FinishReason::Stop,
            Finish::Length => FinishReason::Length,
        },
        text: tokenizer.decode(&response.tokens, true)?,
    })
}

/// What was sampled before an interruption, one line a prompt; of this numeric environment alone.
struct Journal {
    path: PathBuf,
}

impl Journal {
    fn open(context: &Context) -> Result<Self, Failure> {
        let environment = steps::environment(context.device()).replace('/', "_");
        let partial = context.partial();
        std::fs::create_dir_all(partial).at(partial)?;
        let path = partial.join(format!("samples.{environment}.jsonl"));
        Ok(Self { path })
    }

    /// The prompts that are complete, and nothing behind the first line that is not.
    fn read(&mut self, prompts: &[Prompt]) -> Vec<SampledPrompt> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let mut whole = Vec::new();
        let mut length = 0;
        for (line, (_, ids)) in text.split_inclusive('\n').zip(prompts) {
            match serde_json::from_str::<SampledPrompt>(line) {
                Ok(sampled) if line.ends_with('\n') && sampled.ids == *ids => whole.push(sampled),
                _ => break,
            }
            length += line.len();
        }
        if length < text.len() {
            // What does not parse is written again.
            let _ = std::fs::write(&self.path, &text[..length]);
        }
        whole
    }

    fn append(&mut self, sampled: &SampledPrompt) -> Result<(), Failure> {
        let line = serde_json::to_string(sampled)
            .map_err(|error| Failure::input(format!("`{}`: {error}", self.path.display())))?;
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .at(&self.path)?;
        writeln!(file, "{line}").at(&self.path)
    }

    fn remove(self) -> Result<(), Failure> {
        std::fs::remove_file(&self.path).at(&self.path)
    }
}
