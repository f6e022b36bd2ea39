//! Conversations to token ids, and which of them are targets (recipe 3.1).
//!
//! What the assistant says is found by rendering: the text up to a turn with the generation prompt, and the text with
//! the turn, must be prefixes of one another, as text and as tokens. `{% generation %}` marks are not needed. A span
//! ends with its stop token; white space that a template prints behind it is nobody's target.

use kbuild_engine::runner::Failure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::formats::chat::{Message, Preference};
use crate::formats::tokenizer::Tokenizer;

/// Which tokens of a conversation are targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossMask {
    /// Every assistant turn with its stop token.
    AssistantOnly,
    /// The last turn with its stop token.
    CompletionOnly,
    /// Every token.
    All,
}

/// What to do where the tokens of a prompt are not the first tokens of prompt and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Fail: the model would be asked to continue what it never saw.
    Error,
    /// The answer begins where the two differ (TRL).
    CommonPrefix,
}

/// A conversation in tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizedChat {
    pub ids: Vec<u32>,
    /// For each token, whether it is a target; the first never is, whatever this says.
    pub targets: Vec<bool>,
    /// Stop token of the last assistant turn.
    pub stop: Option<u32>,
}

impl TokenizedChat {
    /// Tokens that a loss counts.
    pub fn n_targets(&self) -> usize {
        self.targets
            .iter()
            .skip(1)
            .filter(|target| **target)
            .count()
    }
}

/// A prompt as the policy sees it: rendered up to where the answer begins.
pub fn tokenize_prompt(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, Failure> {
    tokenizer.encode(&tokenizer.render(messages, true)?)
}

/// A conversation with its targets.
pub fn tokenize_chat(
    tokenizer: &Tokenizer,
    messages: &[Message],
    mask: LossMask,
    boundary: Boundary,
) -> Result<TokenizedChat, Failure> {
    let text = tokenizer.render(messages, false)?;
    let ids = tokenizer.encode(&text)?;
    let mut targets = vec![mask == LossMask::All; ids.len()];
    let mut stop = None;
    for turn in assistant_turns(messages) {
        let span = span_of(tokenizer, messages, turn, &text, &ids, boundary)?;
        stop = Some(ids[span.end - 1]);
        let counts = match mask {
            LossMask::AssistantOnly => true,
            LossMask::CompletionOnly => turn + 1 == messages.len(),
            LossMask::All => false,
        };
        if counts {
            targets[span].fill(true);
        }
    }
    Ok(TokenizedChat { ids, targets, stop })
}

/// A preference in tokens: prompt, chosen, rejected. Both completions end in their stop token.
pub fn tokenize_preference(
    tokenizer: &Tokenizer,
    preference: &Preference,
    boundary: Boundary,
) -> Result<[Vec<u32>; 3], Failure> {
    let (prompt, chosen) = split(tokenizer, &preference.prompt, &preference.chosen, boundary)?;
    let (other, rejected) = split(
        tokenizer,
        &preference.prompt,
        &preference.rejected,
        boundary,
    )?;
    if prompt != other {
        return Err(Failure::input(
            "the prompt's tokens depend on the answer: chosen and rejected begin at different places",
        )
        .help("use a template that ends the prompt with a special token"));
    }
    Ok([prompt, chosen, rejected])
}

fn split(
    tokenizer: &Tokenizer,
    prompt: &[Message],
    answer: &[Message],
    boundary: Boundary,
) -> Result<(Vec<u32>, Vec<u32>), Failure> {
    let last_is_assistant = answer.last().is_some_and(is_assistant);
    if !last_is_assistant {
        return Err(
            Failure::input("an answer of a preference must end in an assistant turn").help(
                "give `chosen` and `rejected` as lists of messages with `role` = \"assistant\"",
            ),
        );
    }
    let messages = [prompt, answer].concat();
    let text = tokenizer.render(&messages, false)?;
    let ids = tokenizer.encode(&text)?;
    let last = span_of(
        tokenizer,
        &messages,
        messages.len() - 1,
        &text,
        &ids,
        boundary,
    )?;
    let start = if answer.len() == 1 {
        last.start
    } else {
        let before = prefix_ids(tokenizer, prompt, &text)?;
        common_length(&before, &ids, boundary)?
    };
    Ok((ids[..start].to_vec(), ids[start..last.end].to_vec()))
}

fn is_assistant(message: &Message) -> bool {
    message.role == "assistant"
}

fn assistant_turns(messages: &[Message]) -> impl Iterator<Item = usize> + '_ {
    (0..messages.len()).filter(|&turn| is_assistant(&messages[turn]))
}

/// The tokens of turn `turn` up to its stop token.
fn span_of(
    tokenizer: &Tokenizer,
    messages: &[Message],
    turn: usize,
    text: &str,
    ids: &[u32],
    boundary: Boundary,
) -> Result<std::ops::Range<usize>, Failure> {
    let before = prefix_ids(tokenizer, &messages[..turn], text)?;
    let start = common_length(&before, ids, boundary)?;
    let end = if turn + 1 == messages.len() {
        ids.len()
    } else {
        let through = tokenizer.render(&messages[..=turn], false)?;
        check_prefix(&through, text)?;
        common_length(&tokenizer.encode(&through)?, ids, boundary)?
    };
    let span = start..end.max(start);
    let stop = ids[span.clone()]
        .iter()
        .rposition(|&id| tokenizer.is_special(id));
    match stop {
        Some(stop) => Ok(start..start + stop + 1),
        None => Err(Failure::input(format!(
            "the assistant's turn {turn} ends in no special token: a model trained on it never learns to stop"
        ))
        .help("let the chat template end each assistant turn with a special token of the tokenizer")),
    }
}

fn prefix_ids(tokenizer: &Tokenizer, before: &[Message], text: &str) -> Result<Vec<u32>, Failure> {
    let prompt = tokenizer.render(before, true)?;
    check_prefix(&prompt, text)?;
    tokenizer.encode(&prompt)
}

fn check_prefix(prefix: &str, text: &str) -> Result<(), Failure> {
    if text.starts_with(prefix) {
        return Ok(());
    }
    let same = prefix
        .bytes()
        .zip(text.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    Err(Failure::input(format!(
        "the chat template renders a conversation differently once it goes on (from byte {same}): what the assistant says cannot be found"
    ))
    .help("use a template whose generation prompt is the beginning of the assistant's turn"))
}

fn common_length(prefix: &[u32], ids: &[u32], boundary: Boundary) -> Result<usize, Failure> {
    let common = prefix.iter().zip(ids).take_while(|(a, b)| a == b).count();
    if common == prefix.len() || boundary == Boundary::CommonPrefix {
        return Ok(common);
    }
    Err(Failure::input(format!(
        "the tokens of a prompt are not the first tokens of prompt and answer: {} of {} agree",
        common,
        prefix.len()
    ))
    .help("end the prompt with a special token, or set `boundary = \"common_prefix\"`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tokenizer(template: Option<&str>) -> Tokenizer {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tokenizer");
        let Some(template) = template else {
            return Tokenizer::open(&from).unwrap();
        };
        let directory = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(from.join(name), directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("chat_template.jinja"), template).unwrap();
        Tokenizer::open(directory.path()).unwrap()
    }

    fn chat() -> Vec<Message> {
        vec![
            Message::new("user", "the cat"),
            Message::new("assistant", "sat"),
            Message::new("user", "why"),
            Message::new("assistant", "a mat"),
        ]
    }

    #[test]
    fn masks_are_nested() {
        let tokenizer = tokenizer(None);
        let of = |mask| tokenize_chat(&tokenizer, &chat(), mask, Boundary::Error).unwrap();
        let (all, assistant) = (of(LossMask::All), of(LossMask::AssistantOnly));
        let completion = of(LossMask::CompletionOnly);
        assert_eq!(all.n_targets(), all.ids.len() - 1);
        for at in 0..all.ids.len() {
            assert!(!completion.targets[at] || assistant.targets[at]);
            assert!(!assistant.targets[at] || all.targets[at]);
        }
        assert!(completion.n_targets() < assistant.n_targets());
        assert_eq!(completion.stop, tokenizer.id_of("<|end|>"));
        assert_eq!(
            completion.targets.last(),
            Some(&true),
            "the stop token is a target"
        );
    }

    #[test]
    fn what_stands_behind_the_stop_token_is_no_target() {
        let tokenizer = tokenizer(Some(
            "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|assistant|>' }}{{ m.content }}<|end|>{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ));
        let chat = tokenize_chat(
            &tokenizer,
            &chat(),
            LossMask::AssistantOnly,
            Boundary::Error,
        );
        let chat = chat.unwrap();
        assert_eq!(chat.targets.last(), Some(&false));
        assert_eq!(chat.stop, tokenizer.id_of("<|end|>"));
    }

    #[test]
    fn templates_that_cannot_be_trained_on_are_refused() {
        let refuse = |template: &str| {
            let tokenizer = tokenizer(Some(template));
            tokenize_chat(
                &tokenizer,
                &chat(),
                LossMask::AssistantOnly,
                Boundary::Error,
            )
            .unwrap_err()
            .message
        };
        let no_stop = "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|assistant|>' }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
        assert!(refuse(no_stop).contains("never learns to stop"));
        let moving = "{{ messages | length }}{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}";
        assert!(refuse(moving).contains("differently once it goes on"));
    }

    #[test]
    fn a_prompt_that_flows_into_its_answer_is_an_error_unless_accepted() {
        // Without a special token between them, "the c" + "at" is encoded as other tokens than "the c".
        let tokenizer = tokenizer(Some(
            "{% for m in messages %}{{ m.content }}{% endfor %}{% if not add_generation_prompt %}<|end|>{% endif %}",
        ));
        let preference = Preference {
            prompt: vec![Message::new("user", "좋은 데이")],
            chosen: vec![Message::new("assistant", "터가 좋다")],
            rejected: vec![Message::new("assistant", "터")],
            domain: None,
        };
        let with = |boundary| tokenize_preference(&tokenizer, &preference, boundary);
        let whole = tokenizer.encode("좋은 데이터").unwrap();
        let part = tokenizer.encode("좋은 데이").unwrap();
        if !whole.starts_with(&part) {
            assert!(with(Boundary::Error).is_err());
        }
        let [prompt, chosen, _] = with(Boundary::CommonPrefix).unwrap();
        let text = tokenizer.decode(&[prompt, chosen].concat(), true).unwrap();
        assert_eq!(text, "좋은 데이터가 좋다");
    }

    #[test]
    fn preferences_are_prompt_chosen_rejected() {
        let tokenizer = tokenizer(None);
        let preference = Preference {
            prompt: chat()[..3].to_vec(),
            chosen: chat()[3..].to_vec(),
            rejected: vec![Message::new("assistant", "no")],
            domain: None,
        };
        let [prompt, chosen, rejected] =
            tokenize_preference(&tokenizer, &preference, Boundary::Error).unwrap();
        assert_eq!(prompt, tokenize_prompt(&tokenizer, &chat()[..3]).unwrap());
        assert_eq!(tokenizer.decode(&chosen, false).unwrap(), "a mat<|end|>");
        assert_eq!(tokenizer.decode(&rejected, false).unwrap(), "no<|end|>");
    }
}
