//! Places the nodes of a DAG in layers, from top to bottom, and routes its edges (Sugiyama's method).
//!
//! Our own because the crate that does it (`rust-sugiyama`) iterates over randomly seeded hash maps and drops the
//! bends of long edges; here the same graph always gives the same picture. Knows only numbers: no names, no colours.

/// Distance between the centres of two neighbours in a layer.
pub const COLUMN: f64 = 184.0;
/// Distance between two layers.
pub const ROW: f64 = 76.0;
/// What a long edge takes of a layer that it passes.
const LANE: f64 = 28.0;
const SWEEPS: usize = 12;

/// A point of the drawing, x to the right and y down.
pub type Point = (f64, f64);

/// Where everything is.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Centre of each node.
    pub nodes: Vec<Point>,
    /// For each edge, the points it passes, from the centre of its first node to the centre of its second.
    pub routes: Vec<Vec<Point>>,
    pub width: f64,
    pub height: f64,
}

/// Lays out `n` nodes. Every edge goes from an earlier to a later number (topological order).
pub fn layout(n: usize, edges: &[(usize, usize)]) -> Layout {
    let ranks = ranks(n, edges);
    let mut net = Net::new(n, edges, &ranks);
    net.order();
    let x = net.place();
    let left = x
        .iter()
        .copied()
        .fold(f64::INFINITY, f64::min)
        .min(f64::MAX);
    let at = |v: usize| {
        (
            x[v] - left + COLUMN / 2.0,
            net.rank[v] as f64 * ROW + ROW / 2.0,
        )
    };
    let right = (0..net.rank.len()).map(|v| at(v).0).fold(0.0, f64::max);
    Layout {
        nodes: (0..n).map(at).collect(),
        routes: net
            .chains
            .iter()
            .map(|chain| chain.iter().map(|v| at(*v)).collect())
            .collect(),
        width: right + COLUMN / 2.0,
        height: net.layers.len() as f64 * ROW,
    }
}

/// The layer of each node: below all that it needs; what needs nothing stands just above its first user.
fn ranks(n: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut rank = vec![0; n];
    let mut sorted = edges.to_vec();
    sorted.sort_unstable();
    for (from, to) in sorted {
        rank[to] = rank[to].max(rank[from] + 1);
    }
    for node in (0..n).rev() {
        let has_parent = edges.iter().any(|edge| edge.1 == node);
        let first_user = edges
            .iter()
            .filter(|edge| edge.0 == node)
            .map(|edge| rank[edge.1])
            .min();
        if let (false, Some(user)) = (has_parent, first_user) {
            rank[node] = user - 1;
        }
    }
    rank
}

/// Nodes and the bends of long edges, layer by layer: every link joins neighbouring layers.
struct Net {
    n: usize,
    rank: Vec<usize>,
    layers: Vec<Vec<usize>>,
    above: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    /// For each edge, its vertices from top to bottom.
    chains: Vec<Vec<usize>>,
}

impl Net {
    fn new(n: usize, edges: &[(usize, usize)], ranks: &[usize]) -> Self {
        let mut rank = ranks.to_vec();
        let mut chains = Vec::new();
        for (from, to) in edges {
            let mut chain = vec![*from];
            for between in ranks[*from] + 1..ranks[*to] {
                chain.push(rank.len());
                rank.push(between);
            }
            chain.push(*to);
            chains.push(chain);
        }
        let mut layers = vec![Vec::new(); rank.iter().max().map_or(0, |last| last + 1)];
        rank.iter()
            .enumerate()
            .for_each(|(v, at)| layers[*at].push(v));
        let (mut above, mut below) = (vec![Vec::new(); rank.len()], vec![Vec::new(); rank.len()]);
        for link in chains.iter().flat_map(|chain| chain.windows(2)) {
            below[link[0]].push(link[1]);
            above[link[1]].push(link[0]);
        }
        Self {
            n,
            rank,
            layers,
            above,
            below,
            chains,
        }
    }

    /// Orders every layer by the mean position of its neighbours, down and up, and keeps the order that crosses least.
    fn order(&mut self) {
        let mut best = (self.crossings(), self.layers.clone());
        for sweep in 0..SWEEPS {
            let down = sweep % 2 == 0;
            let mut at: Vec<usize> = (0..self.layers.len()).collect();
            if !down {
                at.reverse();
            }
            for layer in at {
                self.sort_layer(layer, down);
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.layers.clone());
            }
        }
        self.layers = best.1;
    }

    fn sort_layer(&mut self, layer: usize, down: bool) {
        let position = self.positions();
        let mean = |v: usize| {
            let neighbours = if down { &self.above[v] } else { &self.below[v] };
            match neighbours.len() {
                0 => position[v] as f64,
                n => neighbours.iter().map(|u| position[*u] as f64).sum::<f64>() / n as f64,
            }
        };
        let mut order: Vec<(f64, usize)> =
            self.layers[layer].iter().map(|v| (mean(*v), *v)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.layers[layer] = order.into_iter().map(|(_, v)| v).collect();
    }

    fn positions(&self) -> Vec<usize> {
        let mut position = vec![0; self.rank.len()];
        for layer in &self.layers {
            layer
                .iter()
                .enumerate()
                .for_each(|(at, v)| position[*v] = at);
        }
        position
    }

    fn crossings(&self) -> usize {
        let position = self.positions();
        let between = |layer: &Vec<usize>| {
            let links: Vec<(usize, usize)> = layer
                .iter()
                .flat_map(|v| self.below[*v].iter().map(|w| (position[*v], position[*w])))
                .collect();
            let crosses = |a: &(usize, usize), b: &(usize, usize)| {
                (a.0 < b.0 && a.1 > b.1) || (a.0 > b.0 && a.1 < b.1)
            };
            links
                .iter()
                .enumerate()
                .map(|(i, a)| links[i + 1..].iter().filter(|b| crosses(a, b)).count())
                .sum::<usize>()
        };
        self.layers.iter().map(between).sum()
    }

    /// The x of every vertex: as near to the mean of its neighbours as the order within its layer allows.
    fn place(&self) -> Vec<f64> {
        let mut x = vec![0.0; self.rank.len()];
        for layer in &self.layers {
            let mut at = 0.0;
            for (i, v) in layer.iter().enumerate() {
                at += if i == 0 {
                    0.0
                } else {
                    self.gap(layer[i - 1], *v)
                };
                x[*v] = at;
            }
        }
        for sweep in 0..4 * SWEEPS {
            let down = sweep % 2 == 0;
            for i in 0..self.layers.len() {
                let layer = &self.layers[if down { i } else { self.layers.len() - 1 - i }];
                self.settle(layer, &mut x);
            }
        }
        x
    }

    /// Least squares under the minimum gaps: isotonic regression of (wish − sum of gaps), by pooling neighbours that
    /// want to overlap.
    fn settle(&self, layer: &[usize], x: &mut [f64]) {
        let mut offset = 0.0;
        let mut pools: Vec<(f64, f64, usize)> = Vec::new();
        let mut offsets = Vec::new();
        for (i, v) in layer.iter().enumerate() {
            offset += if i == 0 {
                0.0
            } else {
                self.gap(layer[i - 1], *v)
            };
            offsets.push(offset);
            // Bends hold their line harder than nodes do, so that long edges stay straight.
            let weight = if *v < self.n { 1.0 } else { 4.0 };
            let mut pool = (self.wish(*v, x) - offset, weight, 1);
            while let Some(last) = pools.last().copied().filter(|last| last.0 > pool.0) {
                pools.pop();
                let weight = last.1 + pool.1;
                pool = (
                    (last.0 * last.1 + pool.0 * pool.1) / weight,
                    weight,
                    last.2 + pool.2,
                );
            }
            pools.push(pool);
        }
        let values = pools
            .iter()
            .flat_map(|pool| std::iter::repeat_n(pool.0, pool.2));
        for ((v, offset), value) in layer.iter().zip(offsets).zip(values) {
            x[*v] = value + offset;
        }
    }

    fn wish(&self, v: usize, x: &[f64]) -> f64 {
        let neighbours = || self.above[v].iter().chain(&self.below[v]);
        match neighbours().count() {
            0 => x[v],
            n => neighbours().map(|u| x[*u]).sum::<f64>() / n as f64,
        }
    }

    fn gap(&self, left: usize, right: usize) -> f64 {
        let half = |v: usize| if v < self.n { COLUMN / 2.0 } else { LANE / 2.0 };
        half(left) + half(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_goes_down_and_nodes_do_not_overlap() {
        let edges = [
            (0, 2),
            (1, 2),
            (0, 5),
            (2, 3),
            (2, 4),
            (3, 5),
            (4, 5),
            (6, 5),
        ];
        let drawn = layout(7, &edges);
        for ((from, to), route) in edges.iter().zip(&drawn.routes) {
            assert!(drawn.nodes[*from].1 < drawn.nodes[*to].1);
            assert_eq!(
                (route[0], route[route.len() - 1]),
                (drawn.nodes[*from], drawn.nodes[*to])
            );
        }
        for (i, a) in drawn.nodes.iter().enumerate() {
            for b in &drawn.nodes[i + 1..] {
                assert!(
                    a.1 != b.1 || (a.0 - b.0).abs() > COLUMN - 1e-6,
                    "{a:?} {b:?}"
                );
            }
        }
        // Node 6 needs nothing: it stands beside 3 and 4, just above its user.
        assert_eq!(drawn.nodes[6].1, drawn.nodes[3].1);
        assert_eq!(drawn, layout(7, &edges));
    }

    #[test]
    fn crossings_that_can_be_avoided_are() {
        let mut net = Net::new(4, &[(0, 3), (1, 2)], &[0, 0, 1, 1]);
        assert_eq!(net.crossings(), 1);
        net.order();
        assert_eq!(net.crossings(), 0);
    }

    #[test]
    fn no_node_is_no_drawing() {
        assert_eq!(layout(0, &[]).nodes, []);
        assert_eq!(layout(1, &[]).nodes.len(), 1);
    }
}
