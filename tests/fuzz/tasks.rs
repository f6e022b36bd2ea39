//! What the kinds read: documents, pages, templates, models, tokenizers, classifiers.

use std::fs;
use std::path::Path;

use kbuild_tasks::data::fasttext::Classifier;
use kbuild_tasks::data::html::{Selectors, extract};
use kbuild_tasks::formats::chat::{Conversation, Message, Preference};
use kbuild_tasks::formats::documents::{self, Document, Records, Writer};
use kbuild_tasks::formats::template::Template;
use kbuild_tasks::formats::tokenizer::Tokenizer;
use kbuild_tasks::model::{Config, Model};

pub const HTML_WORDS: &[&str] = &[
    "<p>",
    "</p>",
    "<table><tr><td>",
    "<li>",
    "<ul>",
    "<pre>",
    "<code>",
    "<h1>",
    "<script>",
    "</script>",
    "<style>",
    "<!--",
    "-->",
    "<![CDATA[",
    "<template>",
    "<svg>",
    "<math>",
    "<select>",
    "<a href=x>",
    "<br>",
    "<title>",
    "<body>",
    "<html lang=ko>",
    " hidden",
    " class=\"menu\"",
    " role=\"main\"",
    " style=\"display:none\"",
    "&amp;",
    "&#x110000;",
    "&#0;",
    "<main>",
    "<article>",
    "한국어",
    "\u{200b}",
];
pub const TEMPLATE_WORDS: &[&str] = &[
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if ",
    "{% endif %}",
    "{% set x = ",
    "{% macro f() %}",
    "{% endmacro %}",
    "{{ f() }}",
    "{% include 'chat_template' %}",
    "{% extends 'chat_template' %}",
    "{% block a %}",
    "{% endblock %}",
    "{% generation %}",
    "{{ messages | tojson }}",
    "range(1000000000)",
    "'a' * 1000000000",
    "[1] * 1000000000",
    " ~ ",
    "|join",
    "|replace('', 'aaaaaaaa')",
    "namespace(a=1)",
    "loop(messages)",
    "recursive",
    "{%- ",
    " -%}",
    "{#",
    "#}",
    ".strip()",
    ".split()",
    "[::-1]",
    "raise_exception('a')",
    "|indent(1000000000)",
    "'%1000000000d' % 1",
    "|format(1)",
    "**",
    "%",
];
pub const CONFIG_WORDS: &[&str] = &[
    "\"vocab_size\"",
    "\"hidden_size\"",
    "\"num_hidden_layers\"",
    "\"head_dim\"",
    "\"rope_scaling\"",
    "\"rope_type\"",
    "\"llama3\"",
    "\"factor\"",
    "\"eos_token_id\"",
    "\"architectures\"",
];
pub const TOKENIZER_WORDS: &[&str] = &[
    "\"type\"",
    "\"BPE\"",
    "\"Unigram\"",
    "\"WordPiece\"",
    "\"WordLevel\"",
    "\"Sequence\"",
    "\"Split\"",
    "\"Regex\"",
    "\"ByteLevel\"",
    "\"Replace\"",
    "\"Precompiled\"",
    "\"Metaspace\"",
    "\"Strip\"",
    "\"Truncate\"",
    "\"content\"",
    "\"special\"",
    "\"unk_token\"",
    "\"(a*)*b\"",
    "\"\"",
];

const TEXT: &str = "Hello, world 123 안녕하세요 <s> aaaaaaaaaaaaaaaaaaaaaaaaaaaa\u{0}\u{200b}\n";

/// How far it came: an error, or what there is.
fn said<T, E: std::fmt::Display>(result: Result<T, E>, value: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(read) => value(read),
        Err(error) => error.to_string(),
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the folder is writable");
}

/// A shard: as it is and, where it is not zstd, also compressed.
pub fn documents(folder: &Path, bytes: &[u8]) -> String {
    let path = folder.join("shard.jsonl.zst");
    put(&path, bytes);
    let first = shard(&path);
    if let (Ok(text), false) = (std::str::from_utf8(bytes), bytes.is_empty()) {
        let mut writer = Writer::create(&path).expect("the folder is writable");
        let document = Document::new(text);
        writer.write(&document).expect("a document is JSON");
        writer.finish().expect("the folder is writable");
        let read = documents::read_all(&path).expect("what was written is read");
        assert_eq!(read, [document]);
    }
    first
}

fn shard(path: &Path) -> String {
    let count = |n: usize| n.min(3).to_string();
    let all = said(documents::read_all(path), |all| count(all.len()));
    let text = said(documents::read_text(path), |text| count(text.len()));
    let chats = said(Records::<Conversation>::open(path), |rows| {
        said(rows.collect::<Result<Vec<_>, _>>(), |rows| {
            count(rows.len())
        })
    });
    let pairs = said(Records::<Preference>::open(path), |rows| {
        said(rows.collect::<Result<Vec<_>, _>>(), |rows| {
            count(rows.len())
        })
    });
    [all, text, chats, pairs].join("\n")
}

pub fn html(_: &Path, bytes: &[u8]) -> String {
    let page = match extract(&String::from_utf8_lossy(bytes), &Selectors::default()) {
        Ok(page) => page,
        Err(refusal) => return format!("{refusal:?}"),
    };
    let levels: Vec<u8> = page.headings.iter().map(|(level, _)| *level).collect();
    let n_lines = page.text.lines().count().min(20);
    format!("{levels:?} {}", "l".repeat(n_lines))
}

pub fn templates(_: &Path, bytes: &[u8]) -> String {
    let source = String::from_utf8_lossy(bytes);
    said(Template::parse(&source, Path::new("t")), |template| {
        let messages = [
            Message::new("system", "be brief"),
            Message::new("user", "안녕?"),
            Message::new("assistant", " Hi <b> "),
        ];
        let rendered = template.render(&messages, true, "<s>", "</s>");
        said(rendered, |text| text.len().min(3).to_string())
    })
}

/// `config.json` of a model whose weights are those of the seed `tiny`.
pub fn configs(folder: &Path, bytes: &[u8]) -> String {
    put(&folder.join("config.json"), bytes);
    if !folder.join("model.safetensors").exists() {
        tiny(folder).save(folder).expect("the folder is writable");
        put(&folder.join("config.json"), bytes);
    }
    let config = Config::from_json(&String::from_utf8_lossy(bytes));
    if let Ok(config) = &config {
        let again = Config::from_json(&config.to_json());
        assert!(again.is_ok(), "{config:?} is written as none: {again:?}");
        config.generation_json();
    }
    said(Model::load(folder), |_| "a model".to_owned())
}

const TINY: &str = include_str!("corpus/configs/tiny");

fn tiny(_: &Path) -> Model {
    let config = Config::from_json(TINY).expect("a config");
    Model::init(&config, 0).expect("a model")
}

/// `model.safetensors` of the seed `tiny`; where the first line is JSON, its header, before whose length is written.
pub fn safetensors(folder: &Path, bytes: &[u8]) -> String {
    put(&folder.join("config.json"), TINY.as_bytes());
    let mut file = bytes.to_vec();
    if bytes.first() == Some(&b'{') {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (header, data) = bytes.split_at(end.unwrap_or(bytes.len()));
        let length = (header.len() as u64).to_le_bytes();
        file = [&length, header, data.get(1..).unwrap_or_default()].concat();
    }
    put(&folder.join("model.safetensors"), &file);
    said(Model::load(folder), |_| "a model".to_owned())
}

const TOKENIZER: &str = include_str!("corpus/tokenizers/tiny");

pub fn tokenizers(folder: &Path, bytes: &[u8]) -> String {
    put(&folder.join("tokenizer.json"), bytes);
    said(Tokenizer::open(folder), used)
}

pub fn tokenizer_configs(folder: &Path, bytes: &[u8]) -> String {
    put(&folder.join("tokenizer.json"), TOKENIZER.as_bytes());
    put(&folder.join("tokenizer_config.json"), bytes);
    said(Tokenizer::open(folder), used)
}

fn used(tokenizer: Tokenizer) -> String {
    let ids = tokenizer.encode(TEXT);
    let literal = said(tokenizer.encode_literal(TEXT), |ids| {
        ids.len().min(3).to_string()
    });
    let lengths = tokenizer.byte_lengths().len().min(3);
    let decoded = said(ids, |ids| {
        said(tokenizer.decode(&ids, true), |text| {
            text.len().min(3).to_string()
        })
    });
    let rendered = said(
        tokenizer.render(&[Message::new("user", TEXT)], true),
        |_| String::new(),
    );
    let roles = [tokenizer.bos(), tokenizer.eos(), tokenizer.pad()].map(|role| role.is_some());
    let _ = tokenizer.require_eos();
    format!("{literal} {lengths} {decoded} {rendered} {roles:?}")
}

pub fn classifiers(folder: &Path, bytes: &[u8]) -> String {
    let path = folder.join("model.bin");
    put(&path, bytes);
    said(Classifier::open(&path), |classifier| {
        let probability = classifier.probability(TEXT);
        format!("{:?}", probability.is_finite())
    })
}
