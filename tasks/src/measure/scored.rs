//! Score files as tables: prompt by prompt, response by response.

use std::collections::BTreeMap;
use std::path::Path;

use kbuild_engine::runner::Failure;

use crate::train::records::{self, Score, differ};

/// Scores by prompt; the responses of a prompt in order.
pub type ByPrompt = BTreeMap<usize, Vec<Score>>;

/// Reads a `scores` artifact.
pub fn load(path: &Path) -> Result<ByPrompt, Failure> {
    let mut by_prompt = ByPrompt::new();
    for score in records::read::<Score>(path)? {
        by_prompt.entry(score.prompt).or_default().push(score);
    }
    for scores in by_prompt.values_mut() {
        scores.sort_by_key(|score| score.response);
    }
    if by_prompt.is_empty() {
        return Err(Failure::input(format!(
            "`{}` holds no score",
            path.display()
        )));
    }
    Ok(by_prompt)
}

/// Checks that two tables have the same prompts.
pub fn same_prompts(a: &ByPrompt, b: &ByPrompt) -> Result<(), Failure> {
    if a.keys().eq(b.keys()) {
        let other = a.iter().zip(b.values()).find(|((_, a), b)| {
            let (a, b) = (a[0].prompt_digest.as_ref(), b[0].prompt_digest.as_ref());
            differ(a, b)
        });
        return match other {
            None => Ok(()),
            Some(((prompt, _), _)) => Err(Failure::input(format!(
                "the scores are of other prompts: prompt {prompt} is not the same on both sides"
            ))
            .help("sample and score both sides on the same prompts")),
        };
    }
    let missing = a.keys().find(|prompt| !b.contains_key(prompt));
    let missing = missing.or_else(|| b.keys().find(|prompt| !a.contains_key(prompt)));
    Err(Failure::input(format!(
        "the scores are of other prompts: prompt {} is on one side only ({} and {} prompts)",
        missing.copied().unwrap_or_default(),
        a.len(),
        b.len()
    ))
    .help("sample and score both sides on the same prompts"))
}

/// Checks that two tables score the same responses to the same prompts.
pub fn same_samples(a: &ByPrompt, b: &ByPrompt) -> Result<(), Failure> {
    same_prompts(a, b)?;
    let other = a.iter().zip(b.values()).find(|((_, a), b)| {
        let digests = a.iter().zip(b.iter());
        let mut digests =
            digests.map(|(a, b)| (a.response_digest.as_ref(), b.response_digest.as_ref()));
        digests.any(|(a, b)| differ(a, b))
    });
    match other {
        None => Ok(()),
        Some(((prompt, _), _)) => Err(Failure::input(format!(
            "the scores are of other responses: those to prompt {prompt} are not the same on both sides"
        ))
        .help("score the same samples twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(prompt: Option<&str>, response: Option<&str>) -> ByPrompt {
        let score = Score {
            prompt: 3,
            response: 0,
            score: 1.0,
            length: 2,
            stopped: true,
            prompt_digest: prompt.map(str::to_owned),
            response_digest: response.map(str::to_owned),
        };
        ByPrompt::from([(3, vec![score])])
    }

    #[test]
    fn equal_positions_are_not_equal_prompts() {
        let own = table(Some("p"), Some("r"));
        assert!(same_samples(&own, &own).is_ok());
        assert!(
            same_samples(&own, &table(None, None)).is_ok(),
            "nobody says"
        );
        let answered = table(Some("p"), Some("s"));
        assert!(same_prompts(&own, &answered).is_ok());
        let failure = same_samples(&own, &answered).unwrap_err();
        assert!(failure.message.contains("other responses"), "{failure}");
        let failure = same_prompts(&own, &table(Some("q"), Some("r"))).unwrap_err();
        assert!(failure.message.contains("prompt 3"), "{failure}");
    }
}
