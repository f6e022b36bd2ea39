//! How well a classifier does on pages that it has not seen: by threshold, by source, and beside a baseline that knows
//! nothing but the length of a page.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A rated page with what the classifier says of it.
#[derive(Debug, Clone)]
pub struct Judged {
    pub source: String,
    pub positive: bool,
    pub score: f64,
    /// Length of the text in characters.
    pub length: u64,
}

/// Precision, recall and F1 of the positive class; 0 where nothing was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub pages: u64,
    pub positives: u64,
    pub predicted: u64,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub accuracy: f64,
}

impl Metrics {
    /// Of `(truth, prediction)` pairs.
    pub fn of(pairs: impl Iterator<Item = (bool, bool)>) -> Self {
        let (mut pages, mut positives, mut predicted, mut hits, mut right) = (0, 0, 0, 0, 0);
        for (truth, prediction) in pairs {
            pages += 1;
            positives += u64::from(truth);
            predicted += u64::from(prediction);
            hits += u64::from(truth && prediction);
            right += u64::from(truth == prediction);
        }
        let share = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                part as f64 / whole as f64
            }
        };
        let (precision, recall) = (share(hits, predicted), share(hits, positives));
        Self {
            pages,
            positives,
            predicted,
            precision,
            recall,
            f1: share(2 * hits, predicted + positives),
            accuracy: share(right, pages),
        }
    }
}

/// The score that the top `share` of `scores` reach; more of them do where scores are equal.
pub fn threshold_of_top(scores: &[f64], share: f64) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let n = ((share * sorted.len() as f64).round() as usize).min(sorted.len());
    match n {
        0 => f64::INFINITY,
        n => sorted[n - 1],
    }
}

/// A rule that looks at the length alone: at least, or at most, so many characters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthBaseline {
    pub characters: u64,
    /// Positive from this length on, or up to it.
    pub longer_is_positive: bool,
    pub held_out: Metrics,
}

/// The length that separates the training pages best (by F1), on the held-out pages.
pub fn length_baseline(train: &[(u64, bool)], held_out: &[Judged]) -> LengthBaseline {
    let predicts = |length: u64, characters: u64, longer: bool| {
        if longer {
            length >= characters
        } else {
            length <= characters
        }
    };
    let f1 = |characters: u64, longer: bool| {
        let pairs = train
            .iter()
            .map(|(length, positive)| (*positive, predicts(*length, characters, longer)));
        Metrics::of(pairs).f1
    };
    let mut lengths: Vec<u64> = train.iter().map(|(length, _)| *length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let (mut best, mut rule) = (-1.0, (0, true));
    for longer in [true, false] {
        for characters in &lengths {
            let found = f1(*characters, longer);
            if found > best {
                (best, rule) = (found, (*characters, longer));
            }
        }
    }
    let pairs = held_out
        .iter()
        .map(|page| (page.positive, predicts(page.length, rule.0, rule.1)));
    LengthBaseline {
        characters: rule.0,
        longer_is_positive: rule.1,
        held_out: Metrics::of(pairs),
    }
}

/// Probability that a positive page scores above a negative one (ties count half); none without both.
pub fn ranking(pages: &[Judged]) -> Option<f64> {
    let scores = |positive: bool| pages.iter().filter(move |page| page.positive == positive);
    let (mut wins, mut n) = (0.0, 0u64);
    for high in scores(true) {
        for low in scores(false) {
            n += 1;
            wins += match high.score.total_cmp(&low.score) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    (n > 0).then(|| wins / n as f64)
}

/// What one round of training came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Rated pages of the split `train`, and those of them that are positive.
    pub train_pages: u64,
    pub train_positives: u64,
    /// Positive documents that were mined, and how often each positive is repeated.
    pub mined_positives: u64,
    pub repeat_positives: u64,
    /// The score that the share of positives of the training pages reaches on the held-out pages.
    pub threshold: f64,
    pub held_out: Metrics,
    /// The same with 0.5 as threshold: far off where one class is rare.
    pub held_out_at_half: Metrics,
    pub per_source: BTreeMap<String, Metrics>,
    /// Probability that a positive page scores above a negative one.
    pub ranking: Option<f64>,
    pub length_baseline: LengthBaseline,
    /// Score that the top so many percent of the held-out pages reach.
    pub thresholds: BTreeMap<String, f64>,
}

/// Judges held-out pages. The threshold is a percentile of their scores; no label of theirs goes into it.
pub fn judge(train: &[(u64, bool)], held_out: &[Judged], mined: u64, repeat: u64) -> Round {
    let train_positives = train.iter().filter(|(_, positive)| *positive).count() as u64;
    let scores: Vec<f64> = held_out.iter().map(|page| page.score).collect();
    let share = train_positives as f64 / (train.len() as f64).max(1.0);
    let threshold = threshold_of_top(&scores, share);
    let at = |threshold: f64, pages: &mut dyn Iterator<Item = &Judged>| {
        Metrics::of(pages.map(|page| (page.positive, page.score >= threshold)))
    };
    let mut sources: BTreeMap<String, Vec<&Judged>> = BTreeMap::new();
    for page in held_out {
        sources.entry(page.source.clone()).or_default().push(page);
    }
    let per_source = sources
        .into_iter()
        .map(|(source, pages)| (source, at(threshold, &mut pages.into_iter())))
        .collect();
    let thresholds = [5, 10, 20, 30, 40, 50]
        .into_iter()
        .filter(|_| !held_out.is_empty())
        .map(|percent| {
            let found = threshold_of_top(&scores, f64::from(percent) / 100.0);
            (format!("top_{percent:02}_percent"), found)
        })
        .filter(|(_, threshold)| threshold.is_finite())
        .collect();
    Round {
        train_pages: train.len() as u64,
        train_positives,
        mined_positives: mined,
        repeat_positives: repeat,
        threshold: if threshold.is_finite() {
            threshold
        } else {
            1.0
        },
        held_out: at(threshold, &mut held_out.iter()),
        held_out_at_half: at(0.5, &mut held_out.iter()),
        per_source,
        ranking: ranking(held_out),
        length_baseline: length_baseline(train, held_out),
        thresholds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(source: &str, positive: bool, score: f64, length: u64) -> Judged {
        Judged {
            source: source.to_owned(),
            positive,
            score,
            length,
        }
    }

    #[test]
    fn metrics_are_those_of_the_positive_class() {
        let pairs = [
            (true, true),
            (true, false),
            (false, true),
            (false, false),
            (true, true),
        ];
        let metrics = Metrics::of(pairs.into_iter());
        assert_eq!(
            (metrics.pages, metrics.positives, metrics.predicted),
            (5, 3, 3)
        );
        assert!((metrics.f1 - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.accuracy - 0.6).abs() < 1e-12);
        assert_eq!(Metrics::of(std::iter::empty()), Metrics::default());
    }

    #[test]
    fn thresholds_are_percentiles() {
        let scores = [0.1, 0.9, 0.5, 0.7];
        assert_eq!(threshold_of_top(&scores, 0.5), 0.7);
        assert_eq!(threshold_of_top(&scores, 1.0), 0.1);
        assert_eq!(threshold_of_top(&scores, 0.0), f64::INFINITY);
        assert_eq!(threshold_of_top(&[], 0.5), f64::INFINITY);
    }

    #[test]
    fn pages_are_judged_by_source_and_beside_length() {
        let train = [(10, false), (20, false), (30, true), (40, true)];
        let held_out = [
            page("a", true, 0.4, 50),
            page("a", false, 0.1, 5),
            page("b", true, 0.3, 12),
            page("b", false, 0.2, 45),
        ];
        let round = judge(&train, &held_out, 7, 3);
        assert_eq!(round.threshold, 0.3);
        assert_eq!(round.held_out.f1, 1.0);
        assert_eq!(round.held_out_at_half.f1, 0.0);
        assert_eq!(round.per_source["b"].pages, 2);
        assert_eq!(round.ranking, Some(1.0));
        assert_eq!(round.length_baseline.characters, 30);
        assert!(round.length_baseline.longer_is_positive);
        assert_eq!(round.length_baseline.held_out.f1, 0.5);
        assert_eq!((round.mined_positives, round.repeat_positives), (7, 3));
    }
}
