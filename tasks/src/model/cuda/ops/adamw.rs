//! AdamW over the arena of weights.

use std::ops::Range;

use super::{Buffer, Cuda, Weights};
use crate::model::cuda::driver::Argument;
use crate::model::cuda::kernels;
use crate::model::ops::{AdamWStep, Ops};

impl Cuda {
    /// Updates all weights; `decayed` ranges are those that shrink, in order.
    pub(super) fn update_all(
        &self,
        weights: &Weights,
        m: &Buffer,
        v: &Buffer,
        g: &Buffer,
        step: AdamWStep,
        decayed: &[Range<usize>],
    ) {
        let plain = AdamWStep { keep: 1.0, ..step };
        let mut start = 0;
        for range in joined(decayed) {
            self.update(weights, m, v, g, start..range.start, plain);
            self.update(weights, m, v, g, range.clone(), step);
            start = range.end;
        }
        self.update(weights, m, v, g, start..weights.values.len, plain);
    }

    fn update(
        &self,
        weights: &Weights,
        m: &Buffer,
        v: &Buffer,
        g: &Buffer,
        range: Range<usize>,
        step: AdamWStep,
    ) {
        let at = |buffer: &Buffer| Argument::from(Cuda::view(buffer, range.clone()).address);
        let copy = weights
            .copy
            .as_ref()
            .map_or(0, |copy| copy.address + 2 * range.start as u64);
        let constants = [
            step.clip, step.keep, step.beta1, step.rest1, step.beta2, step.rest2, step.rate,
            step.root, step.eps,
        ];
        let arguments = [
            at(&weights.values),
            at(m),
            at(v),
            copy.into(),
            at(g),
            (range.len() as u64).into(),
            Argument::members(constants.map(f32::to_bits)),
        ];
        self.by_elements(&kernels::ADAMW, range.len(), &arguments);
    }
}

/// Neighbouring ranges made one, so that fewer kernels start.
fn joined(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_updated_together() {
        assert_eq!(joined(&[0..3, 3..9, 10..12]), [0..9, 10..12]);
        assert!(joined(&[]).is_empty());
    }
}
