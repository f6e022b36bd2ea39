//! What travels between kinds, and to other tools.

pub mod chat;
pub mod compare;
pub mod documents;
pub mod template;
pub mod tokenizer;
pub mod tokens;

use kbuild_engine::artifact::Shape;
use kbuild_engine::kind::Format;

/// Every format that a port can name.
pub fn table() -> Vec<Format> {
    const fn format(
        name: &'static str,
        shape: Shape,
        extension: &'static str,
        doc: &'static str,
    ) -> Format {
        Format {
            name,
            shape,
            extension,
            doc,
        }
    }
    vec![
        format(
            "raw",
            Shape::Shards,
            "jsonl.zst",
            "raw records: JSONL with `html` or `text`, plain or compressed, before extraction",
        ),
        format(
            "documents",
            Shape::Shards,
            "jsonl.zst",
            "JSONL of `id`, `text`, `meta`, zstd",
        ),
        format(
            "labels",
            Shape::File,
            "jsonl",
            "JSONL of `id`, `text`, `source`, `score` (0-5), `split` (`train` or `held-out`)",
        ),
        format(
            "signatures",
            Shape::Shards,
            "sig",
            "MinHash signatures of documents",
        ),
        format(
            "drop-list",
            Shape::Shards,
            "json",
            "ids of documents to drop, one list per part",
        ),
        format(
            "ledger",
            Shape::Shards,
            "json",
            "what a cleaning step did, by rule: documents and bytes in, out and dropped",
        ),
        format("classifier", Shape::File, "bin", "fastText model"),
        format(
            "tokenizer",
            Shape::Directory,
            "",
            "tokenizer.json, tokenizer_config.json, chat_template.jinja",
        ),
        format(
            "tokens",
            Shape::Shards,
            "",
            "datatrove layout: each part a directory of tokens.ds (u16/u32 LE), tokens.ds.index, tokens.ds.metadata",
        ),
        format(
            "model",
            Shape::Directory,
            "",
            "Hugging Face LlamaForCausalLM directory: config.json, model.safetensors, tokenizer files",
        ),
        format(
            "reward-model",
            Shape::Directory,
            "",
            "Hugging Face LlamaForSequenceClassification directory with one label",
        ),
        format(
            "optimizer-state",
            Shape::File,
            "safetensors",
            "AdamW moments and step",
        ),
        format(
            "importance",
            Shape::File,
            "safetensors",
            "importance scores by axis",
        ),
        format(
            "chat",
            Shape::Shards,
            "jsonl.zst",
            "JSONL of `messages` (TRL, axolotl), optional `domain` and `gold`",
        ),
        format(
            "prompts",
            Shape::Shards,
            "jsonl.zst",
            "JSONL of `messages` ending in a user turn, optional `domain` and `gold`",
        ),
        format(
            "preferences",
            Shape::Shards,
            "jsonl.zst",
            "JSONL of `prompt`, `chosen`, `rejected` as message lists (TRL conversational)",
        ),
        format(
            "samples",
            Shape::File,
            "jsonl",
            "sampled responses: token ids, log-probabilities, finish reason",
        ),
        format(
            "scores",
            Shape::File,
            "jsonl",
            "one score per sampled response",
        ),
        format(
            "pairs",
            Shape::File,
            "jsonl",
            "token-level preference pairs: prompt, chosen and rejected ids",
        ),
        format(
            "log-probabilities",
            Shape::File,
            "safetensors",
            "summed log-probabilities of each pair's completions under a reference",
        ),
        format(
            "choice",
            Shape::File,
            "json",
            "winner, value, scores and reason of a choice",
        ),
        format(
            "metrics",
            Shape::File,
            "jsonl",
            "one JSON object per logged step",
        ),
        format("report", Shape::File, "json", "numbers of one measurement"),
        format(
            "page",
            Shape::File,
            "html",
            "a self-contained page for people",
        ),
    ]
}
