//! Repetitions of one arm under several seeds: means with intervals, and paired differences between arms.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::gates::number_at;
use super::statistics::{Estimate, estimate, paired_difference};

/// Two groups whose members share seeds, in the same order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Comparison {
    /// What the comparison asks, for people.
    pub name: String,
    /// The group whose numbers come first in the difference `a − b`.
    pub a: String,
    pub b: String,
    /// Which measures to compare; all of them where none is named.
    pub measures: Vec<String>,
}

/// What the members of a group measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// In the order of the group's members.
    pub values: Vec<f64>,
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// By group, then by measure. A measure that a member does not have is left out of its group.
pub type Groups = BTreeMap<String, BTreeMap<String, Summary>>;

/// Reads every measure (a pointer below each member's label) of every group.
pub fn summarise(
    root: &Value,
    groups: &BTreeMap<String, Vec<String>>,
    measures: &BTreeMap<String, String>,
) -> Groups {
    let of_group = |members: &Vec<String>| {
        measures
            .iter()
            .filter_map(|(name, pointer)| {
                let values = members
                    .iter()
                    .map(|label| number_below(root, label, pointer));
                let values: Vec<f64> = values.collect::<Option<_>>()?;
                let estimate = estimate(&values)?;
                Some((name.clone(), Summary { values, estimate }))
            })
            .collect()
    };
    groups
        .iter()
        .map(|(name, members)| (name.clone(), of_group(members)))
        .collect()
}

fn number_below(root: &Value, label: &str, pointer: &str) -> Option<f64> {
    let label = label.replace('~', "~0").replace('/', "~1");
    number_at(root, &format!("/{label}{pointer}")).ok()
}

/// Paired differences `a − b` by comparison, then by measure.
pub fn compare(
    groups: &Groups,
    comparisons: &[Comparison],
) -> BTreeMap<String, BTreeMap<String, Estimate>> {
    let differences = |comparison: &Comparison| {
        let (Some(a), Some(b)) = (groups.get(&comparison.a), groups.get(&comparison.b)) else {
            return BTreeMap::new();
        };
        a.iter()
            .filter(|(name, _)| {
                comparison.measures.is_empty() || comparison.measures.contains(name)
            })
            .filter_map(|(name, first)| {
                let second = b.get(name)?;
                let difference = paired_difference(&first.values, &second.values)?;
                Some((name.clone(), difference))
            })
            .collect()
    };
    comparisons
        .iter()
        .map(|comparison| (comparison.name.clone(), differences(comparison)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_become_means_and_paired_differences() {
        let root = json!({
            "a/1": {"bpb": 2.0}, "a/2": {"bpb": 3.0}, "b1": {"bpb": 1.9}, "b2": {"bpb": 2.9}, "c": {}
        });
        let names = |labels: &[&str]| labels.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        let groups = BTreeMap::from([
            ("a".to_owned(), names(&["a/1", "a/2"])),
            ("b".to_owned(), names(&["b1", "b2"])),
            ("c".to_owned(), names(&["b1", "c"])),
        ]);
        let measures = BTreeMap::from([("bpb".to_owned(), "/bpb".to_owned())]);
        let summary = summarise(&root, &groups, &measures);
        assert_eq!(summary["a"]["bpb"].estimate.mean, 2.5);
        assert!(summary["c"].is_empty(), "a member without the measure");
        let comparison = Comparison {
            name: "a against b".to_owned(),
            a: "a".to_owned(),
            b: "b".to_owned(),
            measures: Vec::new(),
        };
        let difference = &compare(&summary, &[comparison])["a against b"]["bpb"];
        assert!((difference.mean - 0.1).abs() < 1e-12 && difference.n == 2);
    }
}
