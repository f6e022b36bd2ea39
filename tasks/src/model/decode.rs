//! Generation: prompts in, tokens and their log-probabilities out.
//!
//! A sample is a function of (weights, prompt, its number, seed, options) alone: not of the other prompts, their order,
//! or the number of threads. A long job can therefore be cut into calls of any size. It knows no text.
//!
//! Requests take turns in slots; what a step does there, and how a token is chosen, is up to the device ([`Steps`]).

use rayon::prelude::*;

use super::batch::Row;
use super::config::{Config, Head};
use super::core::Device;
use super::error::ModelError;
use super::rng::Rng;
use super::sampler::{Choice, Sampling};
use super::weights::Model;

/// Sequences that are decoded at the same time by one thread, or by a card, at most.
pub(super) const SLOTS: usize = 32;
/// Tokens of prompts that a step takes in, at most, beside one token of every other sequence.
pub(super) const PREFILL: usize = 96;

/// How to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    pub max_new_tokens: usize,
    /// Responses per prompt, `K`.
    pub samples: usize,
    pub sampling: Sampling,
    /// Tokens that end a response; the token itself is kept.
    pub stop: Vec<u32>,
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            samples: 1,
            sampling: Sampling::default(),
            stop: Vec::new(),
            seed: 0,
        }
    }
}

/// Why a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// A stop token.
    Stop,
    /// `max_new_tokens`, or the end of the context.
    Length,
}

/// One response.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// New tokens, with the stop token if there was one.
    pub tokens: Vec<u32>,
    /// `ln p` of each new token under the model itself (temperature 1, nothing cut). For training take those of
    /// [`Core`](super::Core): the last bits differ.
    pub log_probs: Vec<f32>,
    pub finish: Finish,
}

/// Weights where a device decodes with them.
pub(super) trait Weights: Send + Sync {
    /// Room for `count` sequences of at most `capacity` tokens each; `count` is [`SLOTS`] at most.
    fn slots(&self, count: usize, capacity: usize) -> Box<dyn Steps + '_>;
}

/// Sequences in slots, and what they grow by. A row of a result depends on its own sequence alone.
pub(super) trait Steps {
    /// Feeds rows, at most [`PREFILL`] more than there are slots; those of one slot in the order of their positions.
    fn step(&mut self, rows: &[Row]);
    /// Chooses the tokens after some rows of the last step, one of a slot at most, each with its number of `uniform`.
    ///
    /// # Errors
    /// What went wrong on the device, in this step or in one before.
    fn choose(
        &mut self,
        rows: &[usize],
        sampling: &Sampling,
        uniform: &[f64],
    ) -> Result<Vec<Choice>, ModelError>;
}

/// A model made ready for generation on a device.
pub struct Decoder<'a> {
    pub(super) config: &'a Config,
    pub(super) device: Device,
    pub(super) weights: Box<dyn Weights + 'a>,
}

/// Generates `samples` responses for every prompt: those of the first prompt, then those of the second, and so on.
///
/// # Errors
/// A prompt that is empty, longer than the context, or holds a token outside the vocabulary; a reward model; a device
/// that fails.
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    device: &Device,
) -> Result<Vec<Generated>, ModelError> {
    Decoder::new(model, device)?.generate(prompts, options)
}

impl<'a> Decoder<'a> {
    pub fn new(model: &'a Model, device: &Device) -> Result<Self, ModelError> {
        if model.config.head == Head::Score {
            return Err(ModelError::invalid(
                "a reward model cannot generate",
                "give the model that it was made from",
            ));
        }
        Ok(Self {
            config: &model.config,
            device: device.clone(),
            weights: device.decoding(model)?,
        })
    }

    /// See [`generate`].
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, ModelError> {
        let requests = self.requests(prompts, options)?;
        let run = |requests: &[Request]| self.run(requests, options, &mut |_| true);
        if self.device.is_gpu() {
            return run(&requests);
        }
        let pool = self.device.pool();
        let per_task = requests
            .len()
            .div_ceil(pool.current_num_threads())
            .clamp(1, 4 * SLOTS);
        let runs: Result<Vec<_>, _> =
            pool.install(|| requests.par_chunks(per_task).map(run).collect());
        let runs = runs?;
        Ok(runs.into_iter().flatten().collect())
    }

    /// Generates one response and shows each token as it comes; `on_token` returns false to end it.
    pub fn stream(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Generated, ModelError> {
        let prompts = [prompt.to_vec()];
        let options = GenerateOptions {
            samples: 1,
            ..options.clone()
        };
        let requests = self.requests(&prompts, &options)?;
        let mut all = self.run(&requests, &options, on_token)?;
        Ok(all.remove(0))
    }

    fn requests<'p>(
        &self,
        prompts: &'p [Vec<u32>],
        options: &GenerateOptions,
    ) -> Result<Vec<Request<'p>>, ModelError> {
        let mut requests = Vec::with_capacity(prompts.len() * options.samples);
        for (at, prompt) in prompts.iter().enumerate() {
            self.check(at, prompt)?;
            let bytes: Vec<u8> = prompt
                .iter()
                .flat_map(|token| token.to_le_bytes())
                .collect();
            let rng = Rng::from_bytes(options.seed, &bytes);
            let room = self.config.max_position_embeddings - prompt.len();
            requests.extend((0..options.samples as u64).map(|sample| Request {
                prompt,
                rng,
                sample,
                limit: options.max_new_tokens.min(room),
            }));
        }
        Ok(requests)
    }

    fn check(&self, at: usize, prompt: &[u32]) -> Result<(), ModelError> {
        let context = self.config.max_position_embeddings;
        let outside = |token: &&u32| **token as usize >= self.config.vocab_size;
        if prompt.is_empty() {
            return Err(ModelError::invalid(
                format!("prompt {at} is empty"),
                "begin a prompt with the `bos` token",
            ));
        }
        if prompt.len() > context {
            return Err(ModelError::invalid(
                format!(
                    "prompt {at} has {} tokens, the context is {context}",
                    prompt.len()
                ),
                "shorten the prompt",
            ));
        }
        match prompt.iter().find(outside) {
            Some(token) => Err(ModelError::invalid(
                format!(
                    "prompt {at} holds token {token}, the vocabulary has {}",
                    self.config.vocab_size
                ),
                "tokenize with the tokenizer of this model",
            )),
            None => Ok(()),
        }
    }

    /// Works through requests, some at a time; a slot that is done takes the next.
    fn run(
        &self,
        requests: &[Request],
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Vec<Generated>, ModelError> {
        let mut results: Vec<Generated> = requests.iter().map(|_| Generated::new()).collect();
        let longest = requests.iter().map(Request::capacity).max().unwrap_or(0);
        let count = requests.len().min(SLOTS);
        let mut slots = self.weights.slots(count, longest);
        let mut waiting = (0..requests.len()).filter(|at| requests[*at].limit > 0);
        let mut active: Vec<Option<Active>> = (0..count)
            .map(|_| waiting.next().map(Active::new))
            .collect();
        while active.iter().any(Option::is_some) {
            let step = take_in(&mut active, requests, &results);
            slots.step(&step.rows);
            if step.speaking.is_empty() {
                continue;
            }
            let uniform: Vec<f64> = (step.speakers.iter())
                .map(|(_, request)| requests[*request].uniform(&results[*request]))
                .collect();
            let chosen = slots.choose(&step.speaking, &options.sampling, &uniform)?;
            for ((slot, request), choice) in step.speakers.into_iter().zip(chosen) {
                let (asked, result) = (&requests[request], &mut results[request]);
                result.push(choice);
                let goes_on = on_token(choice.token);
                if result.is_done(asked, choice.token, options) || !goes_on {
                    active[slot] = waiting.next().map(Active::new);
                }
            }
        }
        Ok(results)
    }
}

/// One response to make.
struct Request<'a> {
    prompt: &'a [u32],
    rng: Rng,
    sample: u64,
    /// New tokens at most.
    limit: usize,
}

impl Request<'_> {
    fn capacity(&self) -> usize {
        self.prompt.len() + self.limit
    }

    /// The number in [0, 1) that picks the next token.
    fn uniform(&self, so_far: &Generated) -> f64 {
        self.rng.uniform(self.sample, so_far.tokens.len() as u64)
    }
}

/// A request in a slot.
struct Active {
    request: usize,
    /// Tokens that the slot has taken in.
    position: usize,
}

impl Active {
    fn new(request: usize) -> Self {
        Self {
            request,
            position: 0,
        }
    }

    /// The token at a position, if it is known.
    fn token(&self, requests: &[Request], results: &[Generated]) -> Option<u32> {
        let prompt = requests[self.request].prompt;
        let response = &results[self.request].tokens;
        let after = || response.get(self.position - prompt.len());
        prompt.get(self.position).or_else(after).copied()
    }
}

/// What goes in next.
struct Step {
    rows: Vec<Row>,
    /// Rows that a token follows.
    speaking: Vec<usize>,
    /// Slot and request of each.
    speakers: Vec<(usize, usize)>,
}

/// The next step: one row of every sequence that speaks, and as much of the prompts as fits.
fn take_in(active: &mut [Option<Active>], requests: &[Request], results: &[Generated]) -> Step {
    let (mut rows, mut room) = (Vec::new(), PREFILL);
    let (mut speaking, mut speakers) = (Vec::new(), Vec::new());
    for (slot, active) in active.iter_mut().enumerate() {
        let Some(active) = active else { continue };
        let prompt = requests[active.request].prompt.len();
        let some = 1 + room.min(prompt.saturating_sub(active.position + 1));
        room -= some - 1;
        for _ in 0..some {
            let Some(token) = active.token(requests, results) else {
                break;
            };
            rows.push(Row {
                slot,
                token,
                position: active.position,
            });
            active.position += 1;
        }
        if active.position >= prompt {
            speaking.push(rows.len() - 1);
            speakers.push((slot, active.request));
        }
    }
    Step {
        rows,
        speaking,
        speakers,
    }
}

impl Generated {
    fn new() -> Self {
        Self {
            tokens: Vec::new(),
            log_probs: Vec::new(),
            finish: Finish::Length,
        }
    }

    fn push(&mut self, choice: Choice) {
        self.tokens.push(choice.token);
        self.log_probs.push(choice.log_prob);
    }

    fn is_done(&mut self, request: &Request, token: u32, options: &GenerateOptions) -> bool {
        if options.stop.contains(&token) {
            self.finish = Finish::Stop;
            return true;
        }
        self.tokens.len() >= request.limit
    }
}
