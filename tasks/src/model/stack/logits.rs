//! Logits where a backend holds them.

use std::any::Any;
use std::borrow::Cow;

use crate::model::core::{Kept, Logits};
use crate::model::loss::{Distillation, Sums};
use crate::model::ops::Ops;

/// A chunk of logits `[n, V]` in the memory of a backend.
pub struct OnDevice<'a, O: Ops> {
    pub ops: &'a O,
    pub logits: &'a mut O::Buffer,
    pub len: usize,
}

impl<O: Ops> OnDevice<'_, O> {
    fn all(&mut self) -> O::ViewMut<'_> {
        O::view_mut(self.logits, 0..self.len)
    }
}

impl<O: Ops> Logits for OnDevice<'_, O> {
    fn cross_entropy(&mut self, targets: &[u32], weight: f64, z_loss: f64, gradient: bool) -> Sums {
        let ops = self.ops;
        ops.cross_entropy(self.all(), targets, weight, z_loss, gradient)
    }

    fn distillation(
        &mut self,
        teacher: &Kept,
        targets: &[u32],
        options: Distillation,
        weight: f64,
        gradient: bool,
    ) -> Sums {
        let (ops, len) = (self.ops, self.len);
        let teacher: &O::Buffer = teacher
            .0
            .downcast_ref()
            .expect("a teacher on the same device");
        assert_eq!(O::len(teacher), len, "two vocabularies");
        let teacher = O::view(teacher, 0..len);
        ops.distillation(self.all(), teacher, targets, options, weight, gradient)
    }

    fn log_probabilities(&self, targets: &[u32]) -> Vec<f64> {
        self.ops
            .log_probabilities(O::view(self.logits, 0..self.len), targets)
    }

    fn log_probability_gradient(&mut self, targets: &[u32], coefficients: &[f64]) {
        let ops = self.ops;
        ops.log_probability_gradient(self.all(), targets, coefficients);
    }

    fn keep(&self) -> Kept {
        let mut kept = self.ops.activations(self.len);
        let from = O::view(self.logits, 0..self.len);
        self.ops.copy(O::view_mut(&mut kept, 0..self.len), from);
        Kept(Box::new(kept) as Box<dyn Any + Send>)
    }

    fn read(&self) -> Cow<'_, [f32]> {
        self.ops.read(O::view(self.logits, 0..self.len))
    }

    fn write(&mut self, values: &[f32]) {
        let ops = self.ops;
        ops.write(self.all(), values);
    }
}
