//! Talking to a model: a conversation in, an answer token by token.
//!
//! Knows directories in Hugging Face form; nothing of goals, stores or terminals.

use std::path::Path;

use kbuild_engine::runner::Failure;

use crate::formats::chat::Message;
use crate::formats::tokenizer::Tokenizer;
use crate::model::{Decoder, Device, Finish, GenerateOptions, Model, Sampling};

/// How answers are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// 0 always takes the likeliest token.
    pub temperature: f64,
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    pub seed: u64,
    /// `cpu` or `gpu`.
    pub device: String,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Ids of everything that the model was given.
    pub prompt: Vec<u32>,
    /// New ids, with the stop token if there was one.
    pub tokens: Vec<u32>,
    pub text: String,
    /// False where the answer was cut off by its length.
    pub is_finished: bool,
}

/// A model with its tokenizer, and the conversation so far.
pub struct Session {
    model: Model,
    tokenizer: Tokenizer,
    device: Device,
    options: Options,
    messages: Vec<Message>,
}

impl Session {
    /// Opens a directory with `config.json`, weights and `tokenizer.json`.
    ///
    /// # Errors
    /// A directory that is no model, a model without a tokenizer, or a device that cannot be opened.
    pub fn open(directory: &Path, system: Option<&str>, options: Options) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::open(directory)?;
        let model = Model::load(directory)?;
        let device = Device::open(&options.device, 1)?;
        let messages = system
            .map(|text| Message::new("system", text))
            .into_iter()
            .collect();
        Ok(Self {
            model,
            tokenizer,
            device,
            options,
            messages,
        })
    }

    /// Answers `text` and remembers both. `show` is given each piece of text as it comes.
    ///
    /// Turns at the front of a conversation that is longer than the model's context are left out.
    ///
    /// # Errors
    /// A turn that alone is longer than the context.
    pub fn answer(&mut self, text: &str, show: &mut dyn FnMut(&str)) -> Result<Answer, Failure> {
        self.messages.push(Message::new("user", text));
        let prompt = self.prompt()?;
        let options = self.generate_options();
        let mut printer = Printer {
            tokenizer: &self.tokenizer,
            bytes: Vec::new(),
            show,
        };
        let decoder = Decoder::new(&self.model, &self.device)?;
        let generated = decoder.stream(&prompt, &options, &mut |token| {
            printer.push(token);
            true
        })?;
        let text = printer.finish();
        self.messages.push(Message::new("assistant", text.trim()));
        Ok(Answer {
            prompt,
            tokens: generated.tokens,
            text,
            is_finished: generated.finish == Finish::Stop,
        })
    }

    /// Forgets everything but the system message.
    pub fn reset(&mut self) {
        self.messages.retain(|message| message.role == "system");
    }

    /// Ids of the conversation up to where the answer begins, leaving room for one.
    fn prompt(&mut self) -> Result<Vec<u32>, Failure> {
        let context = self.model.config.max_position_embeddings;
        loop {
            let rendered = self.tokenizer.render(&self.messages, true)?;
            let ids = self.tokenizer.encode(&rendered)?;
            if ids.len() < context {
                return Ok(ids);
            }
            let oldest = self
                .messages
                .iter()
                .position(|message| message.role != "system");
            match oldest.filter(|at| at + 1 < self.messages.len()) {
                Some(at) => {
                    self.messages.remove(at);
                    // An answer without its question says nothing.
                    while self.messages[at].role == "assistant" && at + 1 < self.messages.len() {
                        self.messages.remove(at);
                    }
                }
                None => {
                    self.messages.pop();
                    let message = format!(
                        "{} tokens do not fit into the model's context of {context}",
                        ids.len()
                    );
                    return Err(Failure::input(message).help("write less"));
                }
            }
        }
    }

    fn generate_options(&self) -> GenerateOptions {
        let Options {
            temperature,
            top_p,
            max_tokens,
            seed,
            ..
        } = self.options;
        GenerateOptions {
            max_new_tokens: max_tokens,
            samples: 1,
            sampling: Sampling {
                temperature,
                top_p,
                ..Sampling::default()
            },
            stop: self
                .tokenizer
                .eos()
                .into_iter()
                .chain(self.model.config.eos_token_id.iter().copied())
                .collect(),
            seed,
        }
    }
}

/// Turns tokens into text as they come. A character may be spread over several tokens.
struct Printer<'a> {
    tokenizer: &'a Tokenizer,
    bytes: Vec<u8>,
    show: &'a mut dyn FnMut(&str),
}

impl Printer<'_> {
    fn push(&mut self, token: u32) {
        let shown = complete(&self.bytes);
        self.bytes.extend(self.tokenizer.bytes_of(token));
        let ready = complete(&self.bytes);
        (self.show)(&String::from_utf8_lossy(&self.bytes[shown..ready]));
    }

    fn finish(self) -> String {
        let shown = complete(&self.bytes);
        if shown < self.bytes.len() {
            (self.show)(&String::from_utf8_lossy(&self.bytes[shown..]));
        }
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Length of the front that ends with a whole character. Bytes that never become one count as whole.
fn complete(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Err(error) = std::str::from_utf8(&bytes[at..]) {
        match error.error_len() {
            Some(length) => at += error.valid_up_to() + length,
            None => return at + error.valid_up_to(),
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_shown_once_it_is_whole() {
        let text = "한글".as_bytes();
        assert_eq!(complete(&text[..2]), 0);
        assert_eq!(complete(&text[..3]), 3);
        assert_eq!(complete(&text[..5]), 3);
        assert_eq!(complete(text), 6);
        assert_eq!(complete(&[b'a', 0xff, b'b', 0xed]), 3);
    }
}
