//! A graph of tasks as DOT, Mermaid or SVG.
//!
//! Knows names, kinds and edges; nothing of keys or of what is built.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kbuild_engine::graph::{Graph, TaskId};

use super::{dag, escape};

/// Boxes and arrows; every edge goes from an earlier to a later node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawing {
    pub nodes: Vec<dag::Node>,
    pub edges: Vec<(usize, usize)>,
}

impl Drawing {
    /// The given tasks (in topological order) and the edges between them. `detail` is the line below a name.
    pub fn of(graph: &Graph, tasks: &[TaskId], detail: impl Fn(TaskId) -> String) -> Self {
        let number: BTreeMap<TaskId, usize> =
            tasks.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let edges = tasks.iter().flat_map(|id| {
            let before = graph
                .dependencies(*id)
                .iter()
                .filter_map(|before| number.get(before));
            before
                .map(|before| (*before, number[id]))
                .collect::<Vec<_>>()
        });
        let node = |id: &TaskId| {
            let task = graph.task(*id);
            let format = task.outputs.first().map_or("", |port| port.format.as_str());
            dag::Node {
                name: task.name.clone(),
                detail: detail(*id),
                stage: dag::stage(format),
                mark: "",
            }
        };
        Self {
            nodes: tasks.iter().map(node).collect(),
            edges: edges.collect(),
        }
    }

    /// The same with a status at each node.
    pub fn marked(&self, marks: impl IntoIterator<Item = &'static str>) -> Self {
        let mut marked = self.clone();
        for (node, mark) in marked.nodes.iter_mut().zip(marks) {
            node.mark = mark;
        }
        marked
    }

    /// The same without the edges that a path of others says already.
    pub fn reduced(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            edges: reduced(self.nodes.len(), &self.edges),
        }
    }

    /// The drawing with each composite and each matrix as one box; `detail` is given the tasks of a box, by number.
    pub fn collapsed(&self, detail: impl Fn(&[usize]) -> String) -> Self {
        self.grouped(detail).0
    }

    /// The same, with the tasks of each box.
    pub fn grouped(&self, detail: impl Fn(&[usize]) -> String) -> (Self, Vec<Vec<usize>>) {
        let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            members.entry(group(&node.name)).or_default().push(at);
        }
        let names: Vec<&str> = members.keys().copied().collect();
        let of_name: BTreeMap<&str, usize> = names
            .iter()
            .enumerate()
            .map(|(at, name)| (*name, at))
            .collect();
        let of = |node: usize| of_name[group(&self.nodes[node].name)];
        let mut edges: Vec<(usize, usize)> = self
            .edges
            .iter()
            .map(|(from, to)| (of(*from), of(*to)))
            .filter(|(from, to)| from != to)
            .collect();
        edges.sort_unstable();
        edges.dedup();
        let Some(order) = topological(names.len(), &edges) else {
            let alone = (0..self.nodes.len()).map(|at| vec![at]);
            return (self.clone(), alone.collect());
        };
        let mut place = vec![0; names.len()];
        order
            .iter()
            .enumerate()
            .for_each(|(at, group)| place[*group] = at);
        let node = |at: &usize| {
            let tasks = &members[names[*at]];
            let last = tasks[tasks.len() - 1];
            dag::Node {
                name: names[*at].to_owned(),
                detail: detail(tasks),
                stage: self.nodes[last].stage,
                mark: self.worst(tasks),
            }
        };
        let drawing = Self {
            nodes: order.iter().map(node).collect(),
            edges: reduced(names.len(), &edges)
                .iter()
                .map(|(from, to)| (place[*from], place[*to]))
                .collect(),
        };
        let inside = order.iter().map(|at| members[names[*at]].clone());
        (drawing, inside.collect())
    }

    /// The status of a box: that of the task inside that is furthest from being there.
    fn worst(&self, tasks: &[usize]) -> &'static str {
        const ORDER: [&str; 4] = ["blocked", "miss", "unknown", "hit"];
        let has = |mark: &&&str| tasks.iter().any(|at| self.nodes[*at].mark == **mark);
        ORDER.iter().find(has).copied().unwrap_or_default()
    }

    pub fn dot(&self) -> String {
        let mut out =
            String::from("digraph kbuild {\n  node [shape=box, fontname=\"sans-serif\"];\n");
        for (at, node) in self.nodes.iter().enumerate() {
            let _ = writeln!(
                out,
                "  t{at} [label=\"{}\\n{}\"];",
                quoted(&node.name),
                quoted(&node.detail)
            );
        }
        for (from, to) in &self.edges {
            let _ = writeln!(out, "  t{from} -> t{to};");
        }
        out + "}\n"
    }

    pub fn mermaid(&self) -> String {
        let mut out = String::from("graph TD\n");
        for (at, node) in self.nodes.iter().enumerate() {
            let _ = writeln!(
                out,
                "  t{at}[\"{}<br/>{}\"]",
                escape(&node.name),
                escape(&node.detail)
            );
        }
        for (from, to) in &self.edges {
            let _ = writeln!(out, "  t{from} --> t{to}");
        }
        out
    }

    /// A picture that stands alone, with its style.
    pub fn svg(&self) -> String {
        let style = format!("<style>{}</style>", super::GRAPH_STYLE);
        let drawn = dag::svg(&self.nodes, &self.edges);
        drawn.replacen('\n', &format!("\n{style}\n"), 1)
    }
}

/// The name of the composite or matrix that a task belongs to, or its own.
fn group(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or(name)
}

/// The numbers in an order in which every edge goes forward, the smallest first; none where there is a cycle.
fn topological(n: usize, edges: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut waiting = vec![0; n];
    edges.iter().for_each(|(_, to)| waiting[*to] += 1);
    let mut ready: std::collections::BTreeSet<usize> =
        (0..n).filter(|at| waiting[*at] == 0).collect();
    let mut order = Vec::with_capacity(n);
    while let Some(next) = ready.pop_first() {
        order.push(next);
        for (_, to) in edges.iter().filter(|(from, _)| *from == next) {
            waiting[*to] -= 1;
            if waiting[*to] == 0 {
                ready.insert(*to);
            }
        }
    }
    (order.len() == n).then_some(order)
}

/// The edges that say something that no path of others says: without `a → c` where there is `a → b → c`. A report that
/// reads everything would otherwise be all that can be seen.
fn reduced(n: usize, edges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut below = vec![Vec::new(); n];
    edges.iter().for_each(|(from, to)| below[*from].push(*to));
    let has_detour = |from: usize, to: usize| {
        let mut stack: Vec<usize> = below[from]
            .iter()
            .filter(|next| **next != to)
            .copied()
            .collect();
        let mut seen = vec![false; n];
        while let Some(at) = stack.pop() {
            if at == to {
                return true;
            }
            if !std::mem::replace(&mut seen[at], true) {
                stack.extend(&below[at]);
            }
        }
        false
    };
    edges
        .iter()
        .filter(|(from, to)| !has_detour(*from, *to))
        .copied()
        .collect()
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(names: &[&str], edges: &[(usize, usize)]) -> Drawing {
        let node = |name: &&str| dag::Node {
            name: (*name).to_owned(),
            detail: "kind".to_owned(),
            stage: "data",
            mark: "",
        };
        Drawing {
            nodes: names.iter().map(node).collect(),
            edges: edges.to_vec(),
        }
    }

    #[test]
    fn composites_and_matrices_become_one_box() {
        let names = ["z", "align/1", "x", "align/2", "anneal@lr=1", "anneal@lr=2"];
        let drawn = drawing(&names, &[(0, 1), (2, 3), (1, 3), (3, 4), (3, 5)]);
        let small = drawn.collapsed(|tasks| format!("{} inside", tasks.len()));
        let names: Vec<&str> = small.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["x", "z", "align", "anneal"]);
        assert_eq!(small.edges, [(2, 3), (0, 2), (1, 2)]);
        assert_eq!(small.nodes[2].detail, "2 inside");
    }

    #[test]
    fn a_box_that_would_make_a_cycle_is_not_made() {
        let drawn = drawing(&["a/1", "b", "a/2"], &[(0, 1), (1, 2)]);
        assert_eq!(drawn.collapsed(|_| String::new()), drawn);
    }

    #[test]
    fn an_edge_that_a_path_says_already_is_left_out() {
        assert_eq!(
            reduced(4, &[(0, 1), (1, 2), (0, 2), (3, 2)]),
            [(0, 1), (1, 2), (3, 2)]
        );
    }

    #[test]
    fn text_forms_name_every_task_and_edge() {
        let drawn = drawing(&["a\"b", "c"], &[(0, 1)]);
        assert!(
            drawn.dot().contains("label=\"a\\\"b\\nkind\"") && drawn.dot().contains("t0 -> t1;")
        );
        assert!(drawn.mermaid().contains("t0 --> t1") && drawn.mermaid().contains("a&quot;b"));
        assert!(drawn.svg().contains("<style>"));
    }
}
