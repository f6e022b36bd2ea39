//! Pair building: which two of K scored responses become a preference (recipe 10.4).
//!
//! Equal rewards are dropped: a label that the order of two equal numbers decides is noise.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Rng;

/// Which responses of a prompt are paired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The best and the worst (Online-RLHF).
    MaxMin,
    /// The best and a random other.
    MaxRandom,
    /// The best and the second best.
    MaxSecond,
}

/// One response of a prompt, as pair building sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub reward: f64,
    /// Tokens of the response.
    pub length: usize,
}

/// Why a prompt gave no pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoPair {
    /// Fewer than two different responses.
    Single,
    /// Best and other have the same reward.
    Tie,
    /// The difference is below the asked-for margin.
    Margin,
}

/// Two responses that make a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    pub chosen: usize,
    pub rejected: usize,
    /// Difference of the rewards that decided: those less the length penalty. Above 0.
    pub margin: f64,
}

/// The pair of one prompt. The lowest index wins ties; `length_penalty` is subtracted per token first, but
/// makes no pair of two rewards that are equal without it; `random` decides for [`Select::MaxRandom`] alone.
pub fn choose_pair(
    select: Select,
    responses: &[Scored],
    length_penalty: f64,
    min_margin: f64,
    random: u64,
) -> Result<Choice, NoPair> {
    if responses.len() < 2 {
        return Err(NoPair::Single);
    }
    let rewards: Vec<f64> = responses
        .iter()
        .map(|response| response.reward - length_penalty * response.length as f64)
        .collect();
    let chosen = best(&rewards, None);
    let rejected = match select {
        Select::MaxMin => worst(&rewards),
        Select::MaxSecond => best(&rewards, Some(chosen)),
        Select::MaxRandom => {
            let others: Vec<usize> = (0..rewards.len()).filter(|&i| i != chosen).collect();
            others[(random % others.len() as u64) as usize]
        }
    };
    let margin = rewards[chosen] - rewards[rejected];
    let same = responses[chosen].reward == responses[rejected].reward;
    if same || margin <= 0.0 {
        return Err(NoPair::Tie);
    }
    if margin < min_margin {
        return Err(NoPair::Margin);
    }
    Ok(Choice {
        chosen,
        rejected,
        margin,
    })
}

/// The random word of a prompt: a function of the seed and the prompt's tokens, whatever other prompts there are.
pub fn prompt_word(seed: u64, prompt: &[u32]) -> u64 {
    let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
    Rng::from_bytes(seed, &bytes).bits(0, 0)
}

fn best(rewards: &[f64], except: Option<usize>) -> usize {
    let candidates = (0..rewards.len()).filter(|&i| Some(i) != except);
    candidates
        .reduce(|best, i| if rewards[i] > rewards[best] { i } else { best })
        .expect("there are two responses or more")
}

fn worst(rewards: &[f64]) -> usize {
    (0..rewards.len())
        .reduce(|worst, i| {
            if rewards[i] < rewards[worst] {
                i
            } else {
                worst
            }
        })
        .expect("there are two responses or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(rewards: &[f64]) -> Vec<Scored> {
        let response = |&reward: &f64| Scored { reward, length: 4 };
        rewards.iter().map(response).collect()
    }

    #[test]
    fn a_random_rejected_is_never_the_chosen_one() {
        let responses = scored(&[0.0, 3.0, 1.0]);
        let rejected: std::collections::BTreeSet<usize> = (0..20)
            .map(|word| choose_pair(Select::MaxRandom, &responses, 0.0, 0.0, word).unwrap())
            .map(|choice| {
                assert_eq!(choice.chosen, 1);
                choice.rejected
            })
            .collect();
        assert_eq!(rejected.into_iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn ties_and_small_margins_give_no_pair() {
        let choose =
            |rewards: &[f64], margin| choose_pair(Select::MaxMin, &scored(rewards), 0.0, margin, 0);
        assert_eq!(choose(&[1.0, 1.0], 0.0), Err(NoPair::Tie));
        assert_eq!(choose(&[1.0, 1.2], 0.5), Err(NoPair::Margin));
        assert_eq!(choose(&[1.0], 0.0), Err(NoPair::Single));
        let choice = choose(&[1.0, 1.75], 0.5).unwrap();
        assert_eq!(
            (choice.chosen, choice.rejected, choice.margin),
            (1, 0, 0.75)
        );
    }

    #[test]
    fn the_margin_is_of_the_rewards_that_decided() {
        let long = Scored {
            reward: 1.0,
            length: 30,
        };
        let short = Scored {
            reward: 0.875,
            length: 6,
        };
        let choice = choose_pair(Select::MaxMin, &[long, short], 0.0625, 0.0, 0).unwrap();
        assert_eq!((choice.chosen, choice.margin), (1, 1.375));
    }

    #[test]
    fn the_word_of_a_prompt_is_its_own() {
        assert_eq!(prompt_word(1, &[4, 5]), prompt_word(1, &[4, 5]));
        assert_ne!(prompt_word(1, &[4, 5]), prompt_word(1, &[4, 6]));
        assert_ne!(prompt_word(1, &[4, 5]), prompt_word(2, &[4, 5]));
    }
}
