//! No bytes make a reader panic, hang or eat the memory: every format that kbuild reads, fed with mutated inputs.
//!
//! `KBUILD_FUZZ_SECONDS` (default 2) is the time for each target, `KBUILD_FUZZ_SEED` chooses the mutations.
//! See README.md beside this file.

mod binary;
mod engine;
mod harness;
mod mutate;
#[path = "../common/random.rs"]
mod random;
mod tasks;

/// One test for each target: its name, what reads the bytes, and words that its format knows.
macro_rules! targets {
    ($($test:ident: $name:literal, $run:path, $words:expr;)*) => {
        $(
            #[test]
            fn $test() {
                harness::fuzz(&harness::Target {
                    test: stringify!($test),
                    name: $name,
                    words: $words,
                    run: $run,
                });
            }
        )*
    };
}

targets! {
    fuzz_kananafile: "kananafile", engine::kananafile, engine::KANANAFILE_WORDS;
    fuzz_receipts: "receipts", engine::receipts, &["\"schema\"", "\"shards\"", "\"directory\"", "\"file\"", "\"accepted\""];
    fuzz_events: "events", engine::events, &["\"event\"", "\"progress\"", "\"fact\"", "\"failed\"", "\"part\"", "\n"];
    fuzz_memos: "memos", binary::memos, &["kbmemo2\n", "kbmemo1\n"];
    fuzz_seals: "seals", binary::seals, &["kbseal2\n", "\0", "/"];
    fuzz_books: "books", binary::books, &[];
    fuzz_documents: "documents", tasks::documents, &["\"id\"", "\"text\"", "\"meta\"", "\"messages\"", "\n", "\u{feff}"];
    fuzz_html: "html", tasks::html, tasks::HTML_WORDS;
    fuzz_templates: "templates", tasks::templates, tasks::TEMPLATE_WORDS;
    fuzz_configs: "configs", tasks::configs, tasks::CONFIG_WORDS;
    fuzz_safetensors: "safetensors", tasks::safetensors, &["\"dtype\"", "\"F32\"", "\"BF16\"", "\"shape\"", "\"data_offsets\"", "\"__metadata__\""];
    fuzz_tokenizers: "tokenizers", tasks::tokenizers, tasks::TOKENIZER_WORDS;
    fuzz_tokenizer_configs: "tokenizer-configs", tasks::tokenizer_configs, &["\"bos_token\"", "\"eos_token\"", "\"content\"", "\"chat_template\""];
    fuzz_classifiers: "classifiers", tasks::classifiers, &["__label__hq", "</s>"];
}
