//! Order: circles among tasks are refused, and everything else is put into one topological order that follows the
//! file as closely as it can.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::composite::follow;
use super::draft::{Draft, Target};
use super::problem::Report;

/// Reports every circle among the tasks as written; true if there is one.
pub fn has_circles(drafts: &[Draft<'_>], report: &Report) -> bool {
    let mut in_order = drafts.iter().enumerate();
    if in_order.all(|(index, draft)| upstream(draft).iter().all(|before| *before < index)) {
        return false;
    }
    let mut graph = DiGraph::<(), ()>::with_capacity(drafts.len(), drafts.len());
    let nodes: Vec<NodeIndex> = drafts.iter().map(|_| graph.add_node(())).collect();
    for (index, draft) in drafts.iter().enumerate() {
        for before in upstream(draft) {
            graph.add_edge(nodes[before], nodes[index], ());
        }
    }
    let mut found = false;
    for component in tarjan_scc(&graph) {
        let members: BTreeSet<NodeIndex> = component.into_iter().collect();
        let Some(first) = members.first().copied() else {
            continue;
        };
        if members.len() > 1 || graph.contains_edge(first, first) {
            let names: Vec<&str> = circle(&graph, &members, first)
                .iter()
                .map(|node| drafts[node.index()].name.as_str())
                .collect();
            let message = format!("tasks in a circle: {}", shortened(&names));
            let help = "each of them reads what the one before it makes";
            report.error(drafts[first.index()].span, message, help);
            found = true;
        }
    }
    found
}

/// The way round, without its middle where it is long.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    match names.len().checked_sub(2 * SHOWN) {
        Some(hidden @ 2..) => {
            let (first, last) = (&names[..SHOWN], &names[names.len() - SHOWN..]);
            let (first, last) = (first.join(" → "), last.join(" → "));
            format!("{first} → … {hidden} more … → {last}")
        }
        _ => names.join(" → "),
    }
}

fn upstream(draft: &Draft<'_>) -> Vec<usize> {
    let bindings = draft.inputs.iter().flat_map(|port| &port.bindings);
    each_once(bindings.filter_map(|binding| match binding.target {
        Target::Output((draft, _)) => Some(draft),
        Target::Source(_) | Target::Broken => None,
    }))
}

fn each_once(indices: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut indices: Vec<usize> = indices.collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

/// A shortest way from `first` back to itself inside a strongly connected component.
fn circle(
    graph: &DiGraph<(), ()>,
    members: &BTreeSet<NodeIndex>,
    first: NodeIndex,
) -> Vec<NodeIndex> {
    let mut came_from = vec![None; graph.node_count()];
    let mut queue = VecDeque::from([first]);
    while let Some(node) = queue.pop_front() {
        let next: BTreeSet<NodeIndex> = graph.neighbors(node).collect();
        for next in next.into_iter().filter(|next| members.contains(next)) {
            if came_from[next.index()].is_none() {
                came_from[next.index()] = Some(node);
                queue.push_back(next);
            }
        }
    }
    let mut path = vec![first];
    let mut node = first;
    while let Some(before) = came_from[node.index()] {
        path.push(before);
        node = before;
        if node == first {
            break;
        }
    }
    path.reverse();
    path
}

/// Every task (composites are left out), each after what it reads. Tasks in a circle are missing.
pub fn order(drafts: &[Draft<'_>]) -> Vec<usize> {
    let mut open = vec![0_usize; drafts.len()];
    let mut dependents = vec![Vec::new(); drafts.len()];
    for (index, draft) in drafts.iter().enumerate() {
        for before in providers(drafts, draft) {
            open[index] += 1;
            dependents[before].push(index);
        }
    }
    let key = |index: usize| Reverse((drafts[index].position, index));
    let is_task = |index: &usize| !drafts[*index].is_composite();
    let mut ready: BinaryHeap<_> = (0..drafts.len())
        .filter(is_task)
        .filter(|index| open[*index] == 0)
        .map(key)
        .collect();
    let mut ordered = Vec::with_capacity(drafts.len());
    while let Some(Reverse((_, index))) = ready.pop() {
        ordered.push(index);
        for next in &dependents[index] {
            open[*next] -= 1;
            if open[*next] == 0 && is_task(next) {
                ready.push(key(*next));
            }
        }
    }
    ordered
}

/// The tasks that a draft reads from, with composites seen through.
fn providers(drafts: &[Draft<'_>], draft: &Draft<'_>) -> Vec<usize> {
    let bindings = draft.inputs.iter().flat_map(|port| &port.bindings);
    each_once(bindings.filter_map(|binding| match binding.target {
        Target::Output(output) => follow(drafts, output).map(|(draft, _)| draft),
        Target::Source(_) | Target::Broken => None,
    }))
}
