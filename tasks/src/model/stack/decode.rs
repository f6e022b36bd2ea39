//! Generation over the list of operations: steps of several sequences on a key/value cache of the device.
//!
//! The layers are those of the stack; in the place of attention within a batch stands attention to what a cache holds.
//! It knows no requests.

use std::sync::Arc;

use super::layer::{Activations, OnLayer};
use super::shape::{Matrices, Shape};
use super::{reserve, reserve_rows};
use crate::model::batch::Row;
use crate::model::decode::{PREFILL, SLOTS, Steps, Weights};
use crate::model::error::ModelError;
use crate::model::layout::Layout;
use crate::model::ops::Ops;
use crate::model::rope::RopeTable;
use crate::model::sampler::{Choice, Sampling};
use crate::model::weights::Model;

/// Rows that products of a step have, however many are fed; those of the head have [`SLOTS`].
///
/// A library chooses how it sums by the shape of a product. With one shape for every step a row has the same bits
/// whatever is beside it, and a sample does not depend on its company. What stands in the rest is read by nobody: no row
/// of a result depends on another. It costs little, as a card waits for weights while it multiplies so few rows.
pub const ROWS: usize = SLOTS + PREFILL;

/// The weights of a model on a device, for generation.
pub struct Decoding<O: Ops> {
    ops: O,
    layout: Layout,
    shape: Shape,
    matrices: Matrices,
    weights: O::Weights,
    rope: Arc<RopeTable>,
}

impl<O: Ops> Decoding<O> {
    pub fn new(ops: O, model: &Model) -> Self {
        let (layout, shape) = (model.layout.clone(), Shape::of(&model.config));
        let matrices = Matrices::of(&layout, &shape);
        let mut rope = RopeTable::new(&model.config);
        rope.extend_to(model.config.max_position_embeddings);
        Self {
            weights: ops.weights(&matrices.all(), model.weights.clone()),
            rope: Arc::new(rope),
            layout,
            shape,
            matrices,
            ops,
        }
    }
}

impl<O: Ops> Weights for Decoding<O> {
    fn slots(&self, count: usize, capacity: usize) -> Box<dyn Steps + '_> {
        // Rounded: what one run gave back often fits the next.
        Box::new(Slots::new(self, count, capacity.next_multiple_of(128)))
    }
}

/// Caches of some sequences, and the buffers of a step.
struct Slots<'a, O: Ops> {
    of: &'a Decoding<O>,
    /// Positions that a slot holds.
    capacity: usize,
    /// Of each layer `[slots · capacity, 2G hd]`.
    caches: Vec<O::Buffer>,
    /// What one layer works on.
    layer: Activations<O>,
    /// `[ROWS, d]` before a layer and after it; they take turns.
    streams: [O::Buffer; 2],
    /// `[ROWS, f]`
    act: O::Buffer,
    /// `[SLOTS, d]`: the rows that speak, and the same after the final norm.
    spoken: O::Buffer,
    normed: O::Buffer,
    scale: O::Buffer,
    /// `[SLOTS, V]` in f32, whatever the number format of the device.
    logits: O::Buffer,
}

impl<'a, O: Ops> Slots<'a, O> {
    fn new(of: &'a Decoding<O>, count: usize, capacity: usize) -> Self {
        let (ops, shape) = (&of.ops, of.shape);
        let cache = count * capacity * shape.heads.kept();
        let mut layer = Activations::new(ops);
        for (buffer, width) in layer.rows_mut().into_iter().zip(shape.kept_rows()) {
            reserve_rows(ops, buffer, ROWS * width);
        }
        for scale in [&mut layer.normed_scale, &mut layer.post_scale] {
            reserve(ops, scale, ROWS);
        }
        let [input, output, act] = shape.step_rows();
        Self {
            capacity,
            caches: (0..shape.layers).map(|_| ops.activations(cache)).collect(),
            layer,
            streams: [input, output].map(|width| ops.activations(ROWS * width)),
            act: ops.activations(ROWS * act),
            spoken: ops.activations(SLOTS * shape.d),
            normed: ops.activations(SLOTS * shape.d),
            scale: ops.zeros(SLOTS),
            logits: ops.zeros(SLOTS * of.matrices.head.outputs),
            of,
        }
    }

    fn forward(&mut self, rows: &[Row]) {
        let Decoding { ops, shape, .. } = self.of;
        let (n, d, heads) = (rows.len(), shape.d, shape.heads);
        let places = ops.places_in_cache(rows, self.capacity, &self.of.rope);
        let table = O::view(O::values(&self.of.weights), self.of.layout.embedding());
        ops.embed(O::view_mut(&mut self.streams[0], 0..n * d), table, &places);
        for (layer, cache) in self.caches.iter_mut().enumerate() {
            let on = OnLayer {
                ops,
                shape: *shape,
                n: ROWS,
                weights: &self.of.weights,
                ranges: self.of.layout.layer(layer),
                matrices: &self.of.matrices.layers[layer],
                places: &places,
            };
            let [input, output] = &mut self.streams;
            let kept = &mut self.layer;
            on.project(kept, input);
            let qkv = 0..n * heads.width();
            ops.rope(O::view_mut(&mut kept.qkv, qkv.clone()), heads, &places);
            let all = 0..O::len(cache);
            ops.append(
                O::view_mut(cache, all.clone()),
                O::view(&kept.qkv, qkv.clone()),
                heads,
                &places,
            );
            ops.attention_in_cache(
                O::view_mut(&mut kept.attended, 0..n * heads.queries()),
                O::view(&kept.qkv, qkv),
                O::view(cache, all),
                heads,
                &places,
            );
            on.finish(kept, output, &mut self.act, input);
            self.streams.swap(0, 1);
        }
    }

    /// Logits of some rows of the last step.
    fn speak(&mut self, rows: &[usize]) {
        let Decoding { ops, shape, .. } = self.of;
        let (d, head) = (shape.d, &self.of.matrices.head);
        let mut indices: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        indices.resize(SLOTS, 0);
        let hidden = O::view(&self.streams[0], 0..ROWS * d);
        let spoken = O::view_mut(&mut self.spoken, 0..SLOTS * d);
        ops.gather(spoken, hidden, &ops.indices(&indices));
        ops.rms_norm(
            O::view_mut(&mut self.normed, 0..SLOTS * d),
            O::view_mut(&mut self.scale, 0..SLOTS),
            O::view(&self.spoken, 0..SLOTS * d),
            O::view(O::values(&self.of.weights), self.of.layout.norm()),
            shape.eps,
        );
        ops.linear(
            O::view_mut(&mut self.logits, 0..SLOTS * head.outputs),
            None,
            O::view(&self.normed, 0..SLOTS * d),
            &self.of.weights,
            head,
        );
    }
}

impl<O: Ops> Steps for Slots<'_, O> {
    fn step(&mut self, rows: &[Row]) {
        let ops = &self.of.ops;
        ops.enter(|| self.forward(rows));
    }

    fn choose(
        &mut self,
        rows: &[usize],
        sampling: &Sampling,
        uniform: &[f64],
    ) -> Result<Vec<Choice>, ModelError> {
        let ops = &self.of.ops;
        ops.enter(|| self.speak(rows));
        let len = rows.len() * self.of.matrices.head.outputs;
        let chosen = ops.sample(O::view(&self.logits, 0..len), sampling, uniform);
        ops.sync()?;
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;
    use crate::model::cuda::WORKSPACE;
    use crate::model::memory::{Backend, decoding};
    use crate::model::ops::plain::Plain;
    use crate::model::{Model, Numerics};

    #[test]
    fn a_card_holds_what_is_predicted() {
        let json = r#"{"vocab_size": 37, "hidden_size": 20, "intermediate_size": 27, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6}"#;
        let config = Config::from_json(json).unwrap();
        let model = Model::init(&config, 1).unwrap();
        let of = Decoding::new(Plain, &model);
        let (count, capacity) = (5, 19);
        let mut slots = Slots::new(&of, count, capacity);
        let layer = slots.layer.rows_mut().map(|buffer| buffer.len());
        let numbers = slots.layer.numbers_mut().map(|buffer| buffer.len());
        let caches = slots.caches.iter().map(Vec::len);
        let others = [
            &slots.streams[0],
            &slots.streams[1],
            &slots.act,
            &slots.spoken,
            &slots.normed,
            &slots.scale,
            &slots.logits,
        ];
        let step = layer.into_iter().chain(numbers).chain(caches);
        let step = step.chain(others.map(Vec::len)).sum::<usize>();
        // What is drawn from lies beside the logits.
        let drawn = SLOTS * config.vocab_size;
        let expected = WORKSPACE + 4 * (model.weights.len() + step + drawn);
        let backend = Backend::Gpu(Numerics::F32);
        let predicted = decoding(&config, count, capacity, backend);
        assert_eq!(predicted.peak(), expected as u64);
    }
}
