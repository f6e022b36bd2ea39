//! Which channels, neurons, heads and layers stay: the best k of a list of scores.
//!
//! Kept indices are ascending, so that keeping everything is a bit-exact no-op (modelopt leaves them in score order:
//! same function, permuted tensors). Ties go to the lower index. Knows no weights.

/// The `k` largest scores (all of them if there are fewer), as ascending indices.
pub fn keep_largest(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    order
}

/// The `per_group` best query heads inside each of the `groups` kept, so that every key/value head keeps the same
/// number of its own queries (modelopt `NumAttentionHeadsHp`; Kanana figure 9). `heads_per_group` is that of the
/// parent; the result is group-major and ascending.
pub fn keep_aligned(
    scores: &[f64],
    groups: &[usize],
    heads_per_group: usize,
    per_group: usize,
) -> Vec<usize> {
    groups
        .iter()
        .flat_map(|group| {
            let first = group * heads_per_group;
            let own = &scores[first..first + heads_per_group];
            keep_largest(own, per_group)
                .into_iter()
                .map(move |head| first + head)
        })
        .collect()
}

/// The sum of each index over all lists: one ranking for the whole network.
pub fn sum(lists: &[Vec<f64>]) -> Vec<f64> {
    let length = lists.first().map_or(0, Vec::len);
    (0..length)
        .map(|index| lists.iter().map(|list| list[index]).sum())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_index_and_the_result_ascends() {
        assert_eq!(keep_largest(&[1.0, 3.0, 3.0, 3.0, 2.0], 2), [1, 2]);
        assert_eq!(keep_largest(&[5.0, 1.0, 9.0], 3), [0, 1, 2]);
        assert_eq!(keep_largest(&[5.0, 1.0, 9.0], 0), [0; 0]);
    }

    #[test]
    fn every_group_keeps_as_many_heads() {
        // All of the best heads are in group 0; alignment still takes one from each.
        let scores = [9.0, 8.0, 7.0, 1.0, 2.0, 3.0];
        assert_eq!(keep_aligned(&scores, &[0, 1], 3, 1), [0, 5]);
        assert_eq!(keep_aligned(&scores, &[1], 3, 2), [4, 5]);
        assert_eq!(keep_aligned(&scores, &[0, 1], 3, 3), [0, 1, 2, 3, 4, 5]);
    }
}
