//! Facts: what is known of an artifact without opening it, and the cost of a task before it runs.
//!
//! The engine carries facts and compares them; only the kinds know what they mean (`hidden_size`, `vocab`, …).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing known of an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fact {
    /// Exactly this.
    Known(Value),
    /// A number between two bounds, both included.
    Bounded { min: u64, max: u64 },
    /// Whatever the named port turns out to hold: two symbols are the same thing exactly when they are equal.
    /// (Two vocabularies of the same size are not the same vocabulary.)
    Symbol(String),
}

/// Facts by name. A name that is absent is unknown, never guessed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Facts(pub BTreeMap<String, Fact>);

impl Facts {
    pub fn get(&self, name: &str) -> Option<&Fact> {
        self.0.get(name)
    }

    pub fn known(&self, name: &str) -> Option<&Value> {
        match self.get(name)? {
            Fact::Known(value) => Some(value),
            _ => None,
        }
    }

    pub fn u64(&self, name: &str) -> Option<u64> {
        self.known(name)?.as_u64()
    }

    pub fn f64(&self, name: &str) -> Option<f64> {
        self.known(name)?.as_f64()
    }

    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(name.to_owned(), Fact::Known(value.into()));
        self
    }

    pub fn set_fact(&mut self, name: &str, fact: Fact) -> &mut Self {
        self.0.insert(name.to_owned(), fact);
        self
    }

    /// The measured value of every fact that contradicts what was predicted: `(name, predicted, measured)`.
    pub fn contradictions<'a>(
        &'a self,
        measured: &'a BTreeMap<String, Value>,
    ) -> Vec<(&'a str, &'a Fact, &'a Value)> {
        measured
            .iter()
            .filter_map(|(name, value)| {
                let fact = self.get(name)?;
                (!fact.allows(value)).then_some((name.as_str(), fact, value))
            })
            .collect()
    }
}

impl fmt::Display for Fact {
    /// What is known, without the word for how: `402`, `from 1 to 9`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(value) => write!(f, "{value}"),
            Self::Bounded { min, max } => write!(f, "from {min} to {max}"),
            Self::Symbol(name) => write!(f, "that of `{name}`"),
        }
    }
}

impl Fact {
    fn allows(&self, measured: &Value) -> bool {
        match self {
            Self::Known(value) => {
                value == measured
                    || (value.as_f64().is_some() && value.as_f64() == measured.as_f64())
            }
            Self::Bounded { min, max } => {
                measured.as_u64().is_none_or(|n| (*min..=*max).contains(&n))
            }
            Self::Symbol(_) => true,
        }
    }
}

/// What a task will take. Absent = not knowable yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Parameters of the model that is trained.
    pub parameters: Option<u64>,
    /// Floating-point operations of training; 0 where nothing is trained.
    pub flops: Option<f64>,
    /// The same with the size that the model goes by, as papers count: 8.03 billion parameters are 8.0 billion.
    pub nominal_flops: Option<f64>,
    /// Operations spent beside it: forward passes of teachers and references, and of models that are measured.
    pub extra_flops: Option<f64>,
    /// Tokens consumed; 0 where there are none.
    pub tokens: Option<u64>,
    /// Bytes that the outputs will take at least.
    pub disk_bytes: Option<u64>,
    /// Bytes that models, and what goes through them, take at the peak: of the GPU's memory where the task runs on one,
    /// else of the machine's.
    pub memory_bytes: Option<u64>,
}

/// What a kind says of a task without running it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Facts by output port.
    pub outputs: BTreeMap<String, Facts>,
    pub cost: Cost,
}

impl Prediction {
    pub fn output(mut self, port: &str, facts: Facts) -> Self {
        self.outputs.insert(port.to_owned(), facts);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_told_as_what_is_known() {
        assert_eq!(Fact::Known(402.into()).to_string(), "402");
        let bounded = Fact::Bounded { min: 1, max: 9 };
        assert_eq!(bounded.to_string(), "from 1 to 9");
        assert_eq!(
            Fact::Symbol("ours".to_owned()).to_string(),
            "that of `ours`"
        );
    }
}
