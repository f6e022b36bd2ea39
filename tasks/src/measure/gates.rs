//! Gates: numbers of a report that must lie on the right side of a bound.
//!
//! A bound is a number, or a pointer to another number of the same report. What a failed gate means is the caller's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What must hold of one number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// What the gate says, for people.
    pub name: String,
    /// JSON pointer that begins with a label of the report: `/evaluate-stage2/mean/bits_per_byte`.
    pub value: String,
    /// The value must be smaller than this: a number, or a pointer.
    pub below: Option<Bound>,
    /// The value must be larger than this: a number, or a pointer.
    pub above: Option<Bound>,
    /// How far beyond the bounds the value must at least lie.
    pub margin: f64,
}

/// A number, or where to find one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Bound {
    Number(f64),
    Pointer(String),
}

/// How a gate turned out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub name: String,
    pub value: Option<f64>,
    pub below: Option<f64>,
    pub above: Option<f64>,
    pub margin: f64,
    pub pass: bool,
    /// What was compared, or what was missing.
    pub reason: String,
}

impl Gate {
    /// Pointers that are written wrongly, or bounds that are missing.
    pub fn problem(&self) -> Option<String> {
        let bounds = [&self.below, &self.above];
        if bounds.iter().all(|bound| bound.is_none()) {
            return Some("a gate needs `below` or `above`".to_owned());
        }
        let pointers = bounds
            .into_iter()
            .flatten()
            .filter_map(|bound| match bound {
                Bound::Pointer(pointer) => Some(pointer),
                Bound::Number(_) => None,
            });
        std::iter::once(&self.value)
            .chain(pointers)
            .find(|pointer| !pointer.starts_with('/'))
            .map(|pointer| format!("`{pointer}` is not a JSON pointer: it must begin with `/`"))
    }

    /// Holds the gate against the report whose sections are `root`.
    pub fn judge(&self, root: &Value) -> Verdict {
        let value = number_at(root, &self.value);
        let resolve = |bound: &Option<Bound>| bound.as_ref().map(|bound| bound.resolve(root));
        let (below, above) = (resolve(&self.below), resolve(&self.above));
        let outcome = compare(value.clone(), below.clone(), above.clone(), self.margin);
        let (pass, reason) = match outcome {
            Ok((pass, reason)) => (pass, reason),
            Err(missing) => (false, missing),
        };
        Verdict {
            name: self.name.clone(),
            value: value.ok(),
            below: below.and_then(Result::ok),
            above: above.and_then(Result::ok),
            margin: self.margin,
            pass,
            reason,
        }
    }
}

impl Bound {
    /// The number, read from the report where it is a pointer.
    pub fn resolve(&self, root: &Value) -> Result<f64, String> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Pointer(pointer) => number_at(root, pointer),
        }
    }
}

type Found = Result<f64, String>;

fn compare(
    value: Found,
    below: Option<Found>,
    above: Option<Found>,
    margin: f64,
) -> Result<(bool, String), String> {
    let value = value?;
    let (below, above) = (below.transpose()?, above.transpose()?);
    let under = below.is_none_or(|bound| value < bound - margin);
    let over = above.is_none_or(|bound| value > bound + margin);
    let mut said = Vec::new();
    let by = if margin > 0.0 {
        format!(" by {margin}")
    } else {
        String::new()
    };
    if let Some(bound) = below {
        said.push(format!(
            "{} below {bound:.6}{by}",
            if under { "is" } else { "is not" }
        ));
    }
    if let Some(bound) = above {
        said.push(format!(
            "{} above {bound:.6}{by}",
            if over { "is" } else { "is not" }
        ));
    }
    Ok((under && over, format!("{value:.6} {}", said.join(" and "))))
}

/// The number at a pointer, or what is wrong.
pub fn number_at(root: &Value, pointer: &str) -> Result<f64, String> {
    match root.pointer(pointer) {
        Some(value) => value
            .as_f64()
            .ok_or_else(|| format!("`{pointer}` is not a number")),
        None => Err(format!("the report has nothing at `{pointer}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gate(value: &str, below: Option<Bound>, above: Option<Bound>, margin: f64) -> Gate {
        Gate {
            name: "g".to_owned(),
            value: value.to_owned(),
            below,
            above,
            margin,
        }
    }

    #[test]
    fn numbers_and_pointers_bound_a_value() {
        let root = json!({"a": {"x": 1.0}, "b": {"x": 2.0}});
        let pointer = |text: &str| Some(Bound::Pointer(text.to_owned()));
        assert!(gate("/a/x", pointer("/b/x"), None, 0.0).judge(&root).pass);
        assert!(!gate("/b/x", pointer("/a/x"), None, 0.0).judge(&root).pass);
        assert!(
            gate(
                "/a/x",
                Some(Bound::Number(1.5)),
                Some(Bound::Number(0.5)),
                0.0
            )
            .judge(&root)
            .pass
        );
        assert!(!gate("/a/x", pointer("/b/x"), None, 1.0).judge(&root).pass);
        assert!(
            !gate("/a/x", Some(Bound::Number(1.0)), None, 0.0)
                .judge(&root)
                .pass,
            "strictly"
        );
    }

    #[test]
    fn what_is_missing_fails_and_says_so() {
        let root = json!({"a": {"x": "text"}});
        let above = Some(Bound::Number(0.0));
        for (pointer, part) in [("/a/y", "nothing at `/a/y`"), ("/a/x", "not a number")] {
            let verdict = gate(pointer, None, above.clone(), 0.0).judge(&root);
            assert!(
                !verdict.pass && verdict.reason.contains(part),
                "{}",
                verdict.reason
            );
        }
    }

    #[test]
    fn gates_are_written_as_numbers_or_pointers() {
        let gate: Gate =
            serde_json::from_value(json!({"name": "n", "value": "/a", "below": "/b", "above": 1}))
                .unwrap();
        assert_eq!(gate.below, Some(Bound::Pointer("/b".to_owned())));
        assert_eq!(gate.above, Some(Bound::Number(1.0)));
        assert_eq!(gate.problem(), None);
        assert!(
            Gate {
                value: "a".to_owned(),
                ..gate.clone()
            }
            .problem()
            .is_some()
        );
        assert!(
            Gate {
                below: None,
                above: None,
                ..gate
            }
            .problem()
            .is_some()
        );
    }
}
