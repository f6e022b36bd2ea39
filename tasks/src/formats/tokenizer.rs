//! A tokenizer directory in Hugging Face form: `tokenizer.json`, `tokenizer_config.json`, a chat template.
//!
//! Text to ids and back, the special tokens by role, the bytes behind each id (for bits per byte), and chat messages
//! to text. Knows nothing of masks or of training.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kbuild_engine::digest::Digest;
use kbuild_engine::runner::{AtPath, Failure};
use serde_json::Value;

use super::chat::Message;
use super::template::Template;
use crate::guard;

/// Files that belong to a tokenizer, in a tokenizer directory or beside a model.
pub const FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// How deep a `tokenizer.json` may be nested. Those in use go as deep as 8.
const DEEPEST: usize = 32;
/// Ids of a vocabulary at most: tables are made of them.
const LARGEST_VOCABULARY: usize = 1 << 24;

/// A tokenizer with its special tokens and chat template.
pub struct Tokenizer {
    directory: PathBuf,
    digest: Digest,
    inner: tokenizers::Tokenizer,
    /// The same, reading special tokens in a text as ordinary characters; made when first used.
    literal: OnceLock<tokenizers::Tokenizer>,
    vocab_size: usize,
    special: Vec<bool>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    template: Option<Template>,
}

impl Tokenizer {
    /// Reads a directory that holds at least `tokenizer.json` (a tokenizer, or a model with its tokenizer).
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join("tokenizer.json");
        let bytes = std::fs::read(&path).at(&path)?;
        let inner = parse(&bytes).map_err(|error| {
            Failure::input(format!("`{}`: {error}", path.display()))
                .help("expected a tokenizer.json of Hugging Face tokenizers")
        })?;
        let config = read_config(&directory.join("tokenizer_config.json"))?;
        let role = |name: &str| token_of(&config, name).and_then(|token| inner.token_to_id(&token));
        let template = read_template(directory, &config)?;
        let added = inner.get_added_tokens_decoder();
        let vocab = inner.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |id| *id as usize + 1);
        if vocab_size > LARGEST_VOCABULARY {
            return Err(Failure::input(format!(
                "`{}`: the largest id is {}, at most {LARGEST_VOCABULARY} ids are possible",
                path.display(),
                vocab_size - 1
            ))
            .help("number the tokens from 0 without gaps"));
        }
        let special = (0..vocab_size as u32)
            .map(|id| added.get(&id).is_some_and(|token| token.special))
            .collect();
        Ok(Self {
            directory: directory.to_owned(),
            digest: Digest::of(&bytes),
            bos: role("bos_token"),
            eos: role("eos_token"),
            pad: role("pad_token"),
            literal: OnceLock::new(),
            vocab_size,
            special,
            template,
            inner,
        })
    }

    /// Identity of the vocabulary: the digest of `tokenizer.json`, and the value of the fact `vocab`.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Identity of the chat template, where there is one: the value of the fact `template`.
    pub fn template_digest(&self) -> Option<Digest> {
        let template = self.template.as_ref()?;
        Some(Digest::of(template.source().as_bytes()))
    }

    /// One more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The end-of-text token, for what cannot do without.
    pub fn require_eos(&self) -> Result<u32, Failure> {
        self.eos.ok_or_else(|| {
            Failure::input(format!(
                "the tokenizer `{}` names no `eos_token`",
                self.directory.display()
            ))
            .help("set `eos_token` in tokenizer_config.json to a token of the vocabulary")
        })
    }

    /// The id of a token as it is written in the vocabulary (`<|end|>`).
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id as it is written in the vocabulary.
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// Ids of a text in which special tokens stand for themselves (a rendered chat). Adds none of its own.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        encode(&self.inner, text)
    }

    /// Ids of a text of unknown origin: `<eos>` in it is five characters, never the special token.
    pub fn encode_literal(&self, text: &str) -> Result<Vec<u32>, Failure> {
        encode(self.literal(), text)
    }

    fn literal(&self) -> &tokenizers::Tokenizer {
        self.literal.get_or_init(|| {
            let mut literal = self.inner.clone();
            literal.set_encode_special_tokens(true);
            literal
        })
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Failure> {
        guard::quietly(|| {
            let decoded = self.inner.decode(ids, skip_special);
            decoded.map_err(|error| error.to_string())
        })
        .flatten()
        .map_err(|error| Failure::input(format!("the tokenizer cannot decode ids: {error}")))
    }

    /// Bytes of text behind each id; 0 for special tokens. Length: the vocabulary.
    pub fn byte_lengths(&self) -> Vec<u32> {
        (0..self.vocab_size as u32)
            .map(|id| self.bytes_of(id).len() as u32)
            .collect()
    }

    /// The bytes of text behind an id; none for a special token or an id that is not in use.
    pub fn bytes_of(&self, id: u32) -> Vec<u8> {
        if self.is_special(id) {
            return Vec::new();
        }
        match self.inner.id_to_token(id) {
            Some(token) => bytes_of_token(&token, self.is_byte_level()),
            None => Vec::new(),
        }
    }

    fn is_byte_level(&self) -> bool {
        use tokenizers::DecoderWrapper;
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }

    /// The text of a conversation under the chat template; with `generation_prompt`, up to where the answer begins.
    pub fn render(&self, messages: &[Message], generation_prompt: bool) -> Result<String, Failure> {
        let template = self.template.as_ref().ok_or_else(|| {
            Failure::input(format!(
                "the tokenizer `{}` has no chat template",
                self.directory.display()
            ))
            .help("add chat_template.jinja, or `chat_template` in tokenizer_config.json")
        })?;
        let token = |id: Option<u32>| id.and_then(|id| self.token_of(id)).unwrap_or_default();
        template.render(
            messages,
            generation_prompt,
            &token(self.bos),
            &token(self.eos),
        )
    }

    /// Copies the tokenizer's files beside a model.
    pub fn copy_to(&self, directory: &Path) -> Result<(), Failure> {
        for name in FILES {
            let from = self.directory.join(name);
            if from.exists() {
                let bytes = std::fs::read(&from).at(&from)?;
                let to = directory.join(name);
                std::fs::write(&to, bytes).at(&to)?;
            }
        }
        Ok(())
    }
}

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, Failure> {
    guard::quietly(|| {
        let encoding = tokenizer.encode_fast(text, false);
        encoding
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| error.to_string())
    })
    .flatten()
    .map_err(|error| Failure::input(format!("the tokenizer cannot encode a text: {error}")))
}

/// Padding and truncation are dropped, as transformers drops them: whoever asks for ids asks for those of the text.
fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let depth = guard::json_depth(bytes);
    if depth > DEEPEST {
        return Err(format!(
            "it is nested {depth} deep, at most {DEEPEST} are read"
        ));
    }
    let parsed = guard::deeply(|| {
        let mut parsed =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
        parsed.with_padding(None);
        parsed
            .with_truncation(None)
            .map_err(|error| error.to_string())?;
        Ok(parsed)
    });
    parsed.flatten()
}

/// The config, or an empty one where the file is missing.
fn read_config(path: &Path) -> Result<Value, Failure> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read_to_string(path).at(path)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))
}

/// A special token is a string, or an object with `content`.
fn token_of(config: &Value, role: &str) -> Option<String> {
    let token = &config[role];
    token
        .as_str()
        .or_else(|| token["content"].as_str())
        .map(str::to_owned)
}

fn read_template(directory: &Path, config: &Value) -> Result<Option<Template>, Failure> {
    let path = directory.join("chat_template.jinja");
    let source = if path.exists() {
        Some(std::fs::read_to_string(&path).at(&path)?)
    } else {
        config["chat_template"].as_str().map(str::to_owned)
    };
    source
        .map(|source| Template::parse(&source, &path))
        .transpose()
}

fn bytes_of_token(token: &str, byte_level: bool) -> Vec<u8> {
    if byte_level {
        return token
            .chars()
            .flat_map(|c| match byte_of_char(c) {
                Some(byte) => vec![byte],
                None => c.to_string().into_bytes(),
            })
            .collect();
    }
    let byte = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .and_then(|digits| u8::from_str_radix(digits, 16).ok());
    match byte {
        Some(byte) => vec![byte],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}

/// GPT-2's table the other way round: printable bytes stand for themselves, the other 68 for U+0100 and up in order.
fn byte_of_char(c: char) -> Option<u8> {
    let code = c as u32;
    let prints = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if prints(code) {
        return Some(code as u8);
    }
    let nth = code.checked_sub(0x100)? as usize;
    (0..=255u32)
        .filter(|byte| !prints(*byte))
        .nth(nth)
        .map(|byte| byte as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> Tokenizer {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tokenizer");
        Tokenizer::open(&root).unwrap()
    }

    #[test]
    fn special_tokens_are_found_by_role() {
        let tokenizer = vectors();
        assert_eq!(tokenizer.vocab_size(), 272);
        let roles = (tokenizer.pad(), tokenizer.bos(), tokenizer.eos());
        assert_eq!(roles, (Some(0), Some(1), Some(2)));
        assert_eq!(tokenizer.id_of("<|end|>"), Some(5));
        assert!(tokenizer.is_special(5) && !tokenizer.is_special(6));
    }

    #[test]
    fn special_tokens_in_a_document_are_text() {
        let tokenizer = vectors();
        assert_eq!(tokenizer.encode("<eos>").unwrap(), vec![2]);
        let literal = tokenizer.encode_literal("<eos>").unwrap();
        assert!(!literal.contains(&2));
        assert_eq!(tokenizer.decode(&literal, false).unwrap(), "<eos>");
    }

    #[test]
    fn bytes_of_ids_are_the_bytes_of_the_text() {
        let tokenizer = vectors();
        let lengths = tokenizer.byte_lengths();
        assert_eq!(lengths[..6], [0; 6]);
        for text in ["안녕하세요, the world\n\t é", "{\u{0}\u{7f}}", " 안"] {
            let ids = tokenizer.encode(text).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.bytes_of(*id)).collect();
            assert_eq!(bytes, text.as_bytes());
            let total: u32 = ids.iter().map(|id| lengths[*id as usize]).sum();
            assert_eq!(total as usize, text.len());
        }
    }

    #[test]
    fn every_byte_has_one_character() {
        let of = |code: u32| char::from_u32(code).and_then(byte_of_char);
        let mut bytes: Vec<u8> = (0..0x200).filter_map(of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn a_chat_without_a_template_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tokenizer");
        std::fs::copy(
            from.join("tokenizer.json"),
            directory.path().join("tokenizer.json"),
        )
        .unwrap();
        let tokenizer = Tokenizer::open(directory.path()).unwrap();
        let failure = tokenizer.render(&[], false).unwrap_err();
        assert!(failure.message.contains("no chat template"));
        assert!(tokenizer.require_eos().is_err());
    }
}
