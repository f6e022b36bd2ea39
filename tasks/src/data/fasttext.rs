//! fastText as a quality classifier: two labels, a `.bin` that every fastText reads, the probability of the better one.
//!
//! Bojanowski et al. 2017; the crate `fasttext` does the work. Its own `predict` leaves out the end-of-line word
//! `</s>`, which is in vocabulary, bag and n-grams of the original, and answers nothing where every word is unknown:
//! here a text is read as the original reads a line. One thread, so that training gives the same bytes every time.

use std::fs::File;
use std::path::Path;

use fasttext::FastText;
use fasttext::args::Args;
use kbuild_engine::runner::{AtPath, Failure, FailureClass};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fasttext_file;

/// Label of what should be kept.
const HIGH: &str = "__label__hq";
const LOW: &str = "__label__lq";
const LABEL_PREFIX: &str = "__label__";

/// How a classifier is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Size of the word vectors.
    pub dim: u32,
    /// Rows for hashed n-grams; the file has about (words + buckets) · dim · 4 bytes.
    pub buckets: u32,
    /// Longest word n-gram.
    pub word_ngrams: u32,
    /// Shortest and longest character n-gram of a word; 0 and 0 for none.
    pub char_ngrams: [u32; 2],
    /// Passes over all examples.
    pub epochs: u32,
    /// At the beginning; it falls to 0 in a straight line.
    pub learning_rate: f64,
    /// Words that occur less often are left out.
    pub min_count: u32,
    /// Decides the first vectors and the order of draws.
    pub seed: u32,
}

/// What fastText counts in 31 bits, with room for the words.
const MOST_DIM: u32 = 1 << 16;
const MOST_BUCKETS: u32 = 1 << 30;
const LONGEST_NGRAM: u32 = 64;

impl Default for Settings {
    fn default() -> Self {
        Self {
            dim: 32,
            buckets: 50_000,
            word_ngrams: 2,
            char_ngrams: [0, 0],
            epochs: 5,
            learning_rate: 0.1,
            min_count: 1,
            seed: 0,
        }
    }
}

impl Settings {
    /// Settings that train nothing, `(name, message, help)`.
    pub fn problems(&self) -> Vec<(&'static str, String, &'static str)> {
        let zeros = [
            ("dim", self.dim, "32 is the default"),
            ("epochs", self.epochs, "5 is the default"),
            ("word_ngrams", self.word_ngrams, "1 reads single words"),
        ];
        let mut problems: Vec<_> = zeros
            .into_iter()
            .filter(|(_, value, _)| *value == 0)
            .map(|(name, _, help)| (name, format!("`{name}` is 0"), help))
            .collect();
        let sizes = [
            ("dim", self.dim, MOST_DIM),
            ("buckets", self.buckets, MOST_BUCKETS),
            ("word_ngrams", self.word_ngrams, LONGEST_NGRAM),
            ("char_ngrams", self.char_ngrams[1], LONGEST_NGRAM),
            ("epochs", self.epochs, i32::MAX as u32),
            ("min_count", self.min_count, i32::MAX as u32),
        ];
        problems.extend(
            sizes
                .into_iter()
                .filter(|(_, value, most)| value > most)
                .map(|(name, value, most)| {
                    let message = format!("`{name}` is {value}, expected {most} at most");
                    (name, message, "classifiers are small: see the defaults")
                }),
        );
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            let message = format!(
                "`learning_rate` is {}, expected more than 0",
                self.learning_rate
            );
            problems.push(("learning_rate", message, "0.1 is the default"));
        }
        let [shortest, longest] = self.char_ngrams;
        if shortest > longest || (shortest == 0) != (longest == 0) {
            let message = format!("character n-grams from {shortest} to {longest} letters");
            problems.push(("char_ngrams", message, "`[3, 6]`, or `[0, 0]` for none"));
        }
        problems
    }

    fn args(&self, input: &Path) -> Args {
        let mut args = Args {
            word_ngrams: self.word_ngrams as i32,
            ..Args::default()
        };
        args.apply_supervised_defaults();
        let has_ngrams = self.word_ngrams > 1 || self.char_ngrams[1] > 0;
        Args {
            input: input.to_owned(),
            dim: self.dim as i32,
            bucket: if has_ngrams { self.buckets as i32 } else { 0 },
            minn: self.char_ngrams[0] as i32,
            maxn: self.char_ngrams[1] as i32,
            epoch: self.epochs as i32,
            lr: self.learning_rate,
            min_count: self.min_count as i32,
            seed: self.seed as i32,
            thread: 1,
            verbose: 0,
            ..args
        }
    }
}

/// A text with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub text: String,
    pub high: bool,
}

/// A trained classifier.
pub struct Classifier {
    model: FastText,
}

impl Classifier {
    /// Trains on examples in an order that their texts and the seed decide. `scratch` is a file to be written.
    pub fn train(
        examples: &[Example],
        settings: &Settings,
        scratch: &Path,
    ) -> Result<Self, Failure> {
        for (wanted, name) in [(true, "positive"), (false, "negative")] {
            if !examples.iter().any(|example| example.high == wanted) {
                return Err(Failure::input(format!("there is no {name} example to train on"))
                    .help("the labels need pages on both sides of `positive_score` in the split `train`"));
            }
        }
        std::fs::write(scratch, lines(examples, settings.seed)).at(scratch)?;
        let trained = FastText::train(settings.args(scratch));
        std::fs::remove_file(scratch).at(scratch)?;
        let model = trained.map_err(|error| {
            Failure::new(
                FailureClass::Input,
                format!("fastText did not train: {error}"),
            )
        })?;
        Ok(Self { model })
    }

    pub fn open(path: &Path) -> Result<Self, Failure> {
        let refused = |cause: String| {
            Failure::input(format!("`{}` is no sound classifier: {cause}", path.display()))
                .help("expected a supervised fastText model (.bin); copy it again, or train it with `train-classifier`")
        };
        File::open(path).at(path)?;
        fasttext_file::check(path).map_err(refused)?;
        let model = crate::guard::quietly(|| FastText::load_model(path))
            .and_then(|loaded| loaded.map_err(|error| error.to_string()))
            .map_err(refused)?;
        let labels = model.get_labels().0;
        if !labels.iter().any(|label| label == HIGH) {
            return Err(Failure::input(format!(
                "`{}` has no label `{HIGH}`, found `{}`",
                path.display(),
                labels.join("`, `")
            ))
            .help("train it with `train-classifier`"));
        }
        Ok(Self { model })
    }

    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        self.model
            .save_model(path)
            .map_err(|error| Failure::input(format!("`{}`: {error}", path.display())))
    }

    /// Probability that a text should be kept, as the original reports it (up to 1e-5 above 1).
    pub fn probability(&self, text: &str) -> f32 {
        let line = flatten(text) + "\n";
        let (mut words, mut labels) = (Vec::new(), Vec::new());
        let dictionary = self.model.dict();
        dictionary.get_line(&mut line.as_bytes(), &mut words, &mut labels, &mut false);
        let predictions = self.model.predict_on_words(&words, 2, 0.0);
        predictions
            .iter()
            .find(|prediction| prediction.label == HIGH)
            .map_or(0.0, |prediction| prediction.prob)
    }
}

/// fastText learns in the order of its file: examples are shuffled by a hash of seed, text and repetition.
fn lines(examples: &[Example], seed: u32) -> String {
    let mut seen = std::collections::HashMap::new();
    let mut lines: Vec<([u8; 32], String)> = examples
        .iter()
        .map(|example| {
            let label = if example.high { HIGH } else { LOW };
            let line = format!("{label} {}\n", flatten(&example.text));
            let nth = seen.entry(line.clone()).or_insert(0u64);
            *nth += 1;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes());
            hasher.update(&nth.to_le_bytes());
            hasher.update(line.as_bytes());
            (*hasher.finalize().as_bytes(), line)
        })
        .collect();
    lines.sort_unstable();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// One line of words. A word of the text is never taken for a label.
fn flatten(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace(LABEL_PREFIX, "__label ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        let text = |n: usize, words: &str| format!("{words} {} {}", n % 7, words.len());
        (0..60)
            .flat_map(|n| {
                [
                    Example {
                        text: text(n, "광합성은 식물이 빛을 이용하는 과정이다"),
                        high: true,
                    },
                    Example {
                        text: text(n, "지금 바로 구매하세요 할인 쿠폰"),
                        high: false,
                    },
                ]
            })
            .collect()
    }

    #[test]
    fn training_is_the_same_every_time_and_in_every_order() {
        let root = tempfile::tempdir().unwrap();
        let bytes = |examples: &[Example], name: &str| {
            let path = root.path().join(name);
            let settings = Settings {
                buckets: 1000,
                ..Settings::default()
            };
            let scratch = root.path().join("scratch");
            Classifier::train(examples, &settings, &scratch)
                .unwrap()
                .save(&path)
                .unwrap();
            std::fs::read(path).unwrap()
        };
        let mut examples = examples();
        let first = bytes(&examples, "a");
        examples.reverse();
        assert_eq!(first, bytes(&examples, "b"));
    }

    #[test]
    fn what_is_saved_predicts_the_same_and_answers_for_unknown_words() {
        let root = tempfile::tempdir().unwrap();
        let settings = Settings {
            buckets: 1000,
            learning_rate: 0.5,
            ..Settings::default()
        };
        let trained =
            Classifier::train(&examples(), &settings, &root.path().join("scratch")).unwrap();
        let path = root.path().join("a.bin");
        trained.save(&path).unwrap();
        let opened = Classifier::open(&path).unwrap();
        for text in [
            "식물이 빛을 이용하는\n과정",
            "할인 쿠폰 __label__hq",
            "zzz qqq",
            "",
        ] {
            assert_eq!(trained.probability(text), opened.probability(text));
        }
        assert!(opened.probability("광합성은 식물이 빛을 이용하는 과정이다") > 0.8);
        assert!(opened.probability("지금 바로 구매하세요 할인 쿠폰") < 0.2);
        let unknown = opened.probability("zzz qqq");
        assert!(unknown > 0.0 && unknown < 1.0, "{unknown}");
    }

    #[test]
    fn one_class_alone_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let examples: Vec<Example> = examples().into_iter().filter(|e| e.high).collect();
        let failure = Classifier::train(&examples, &Settings::default(), &root.path().join("s"));
        assert!(
            failure
                .err()
                .unwrap()
                .message
                .contains("no negative example")
        );
        std::fs::write(root.path().join("x"), "no model").unwrap();
        assert!(Classifier::open(&root.path().join("x")).is_err());
    }
}
