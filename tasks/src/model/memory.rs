//! What models will hold in memory, from shape and batch, before anything is there.
//!
//! Widths of buffers are those that the stack reserves by (`stack/shape.rs`); what a backend keeps beside them is added
//! here. Counted are models and what goes through them: not the program, or the driver of a card.

use super::config::Config;
use super::core::Numerics;
use super::cpu::Cpu;
use super::cuda::{Cuda, WORKSPACE};
use super::decode::{PREFILL, SLOTS};
use super::layout::Layout;
use super::ops::{Matrix, Ops};
use super::stack::ROWS;
use super::stack::shape::{Keep, LayerMatrices, Shape, matrix};

/// Bytes of f32.
const FLOAT: u64 = 4;
/// Outputs of a packed matrix are filled up to a multiple of this, or of less, whatever the instruction set.
const PANEL: usize = 32;

/// Bytes that the threads of a small processor work in: strips of products, scores of attention.
const SCRATCH: u64 = 1 << 20;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Cpu,
    /// Counted is the memory of the card.
    Gpu(Numerics),
}

/// What is done with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Forward, backward and update.
    Train {
        /// Whether backward runs layers forward again instead of finding what they left.
        recompute: bool,
    },
    /// Forward, and what the head says.
    Read,
    /// Forward alone.
    Observe,
}

impl Work {
    fn keep(self) -> Keep {
        match self {
            Self::Train { recompute: true } => Keep::Streams,
            Self::Train { recompute: false } => Keep::Everything,
            Self::Read | Self::Observe => Keep::Hidden,
        }
    }
}

/// Bytes at the worst moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// There from the first step to the last.
    pub lasting: u64,
    /// There for a moment.
    pub passing: u64,
}

impl Held {
    /// Both in one process, where one works at a time.
    pub fn beside(self, other: Self) -> Self {
        Self {
            lasting: self.lasting.saturating_add(other.lasting),
            passing: self.passing.max(other.passing),
        }
    }

    pub fn peak(self) -> u64 {
        self.lasting.saturating_add(self.passing)
    }
}

/// One model, with at most `rows` tokens going through it at once.
pub fn held(config: &Config, work: Work, rows: usize, backend: Backend) -> Held {
    // Rows are numbered in u32.
    let rows = rows.min(u32::MAX as usize);
    let (shape, matrices) = (Shape::of(config), Matrices::of(config));
    let chunk = backend.head_rows().min(rows);
    let parameters = FLOAT * config.parameter_count();
    let trains = work.keep().for_backward();
    // Gradients and both moments.
    let state = if trains { 3 } else { 0 };
    let activations = activations(&shape, matrices.head.outputs, work, rows, chunk);
    let beside = match backend {
        Backend::Cpu if trains => {
            let packed = matrices
                .packed()
                .saturating_add(matrices.spare(rows, chunk));
            FLOAT.saturating_mul(packed).saturating_add(SCRATCH)
        }
        Backend::Cpu => SCRATCH + FLOAT * matrices.packed(),
        Backend::Gpu(numerics) => WORKSPACE as u64 + copy_in(numerics, config.parameter_count()),
    };
    Held {
        lasting: ((1 + state) * parameters)
            .saturating_add(beside)
            .saturating_add(activations.bytes(backend)),
        passing: 0,
    }
}

/// A chunk of a teacher's logits while a student learns from it.
pub fn kept_logits(config: &Config, rows: usize, backend: Backend) -> Held {
    let chunk = backend.head_rows().min(rows);
    Held {
        lasting: 0,
        passing: backend.bytes() * (chunk * config.vocab_size) as u64,
    }
}

/// A model that samples, on a processor on one thread: `sequences` at least, each of `positions` tokens at least.
pub fn decoding(config: &Config, sequences: usize, positions: usize, backend: Backend) -> Held {
    let positions = positions.min(config.max_position_embeddings);
    let slots = sequences.min(SLOTS);
    let shape = Shape::of(config);
    let cache = [shape.layers, slots, shape.heads.kept(), positions];
    // Far above what any machine has, and room is left for what is added to it.
    let cache = product(&cache).min(1 << 58) as usize;
    let lasting = match backend {
        Backend::Cpu => FLOAT * decoding_on_cpu(config, &shape, slots, cache),
        Backend::Gpu(numerics) => {
            let parameters = config.parameter_count();
            let step = decoding_on_gpu(config, &shape, cache).bytes(backend);
            WORKSPACE as u64 + FLOAT * parameters + copy_in(numerics, parameters) + step
        }
    };
    Held {
        lasting,
        passing: 0,
    }
}

/// Values that a processor holds to sample.
fn decoding_on_cpu(config: &Config, shape: &Shape, slots: usize, cache: usize) -> u64 {
    let angles = config.max_position_embeddings * config.head_dim;
    let row = 2 * shape.d + shape.heads.width() + shape.heads.queries() + 3 * shape.f;
    let step = (slots + PREFILL) * row + slots * config.vocab_size;
    let values = config.parameter_count() + Matrices::of(config).packed();
    values + (cache + angles + step) as u64
}

/// What a card holds to sample, beside weights: a step is as large for one sequence as for many.
fn decoding_on_gpu(config: &Config, shape: &Shape, cache: usize) -> Activations {
    let widths = shape.kept_rows().into_iter().chain(shape.step_rows());
    let step = ROWS * widths.sum::<usize>() + SLOTS * 2 * shape.d;
    Activations {
        values: (cache + step) as u64,
        // Scales of norms; logits, and what is drawn from.
        numbers: (2 * ROWS + SLOTS * (1 + 2 * config.vocab_size)) as u64,
    }
}

impl Backend {
    /// Rows of logits that are there at the same time.
    fn head_rows(self) -> usize {
        match self {
            Self::Cpu => Cpu::HEAD_ROWS,
            Self::Gpu(_) => Cuda::HEAD_ROWS,
        }
    }

    /// Bytes of a value that travels between operations.
    fn bytes(self) -> u64 {
        match self {
            Self::Gpu(Numerics::Bf16) => 2,
            _ => FLOAT,
        }
    }
}

/// Bytes of the copy of all weights that products read on a card.
fn copy_in(numerics: Numerics, parameters: u64) -> u64 {
    match numerics {
        Numerics::F32 => 0,
        Numerics::Bf16 => 2 * parameters,
    }
}

/// The product, or the largest number where it does not fit.
fn product(factors: &[usize]) -> u64 {
    let multiply = |all: u64, one: &usize| all.saturating_mul(*one as u64);
    factors.iter().fold(1, multiply)
}

/// Values of a pass, or of a step of generation: in the format of the backend, and in f32.
struct Activations {
    values: u64,
    numbers: u64,
}

impl Activations {
    fn bytes(&self, backend: Backend) -> u64 {
        let values = backend.bytes().saturating_mul(self.values);
        values.saturating_add(FLOAT.saturating_mul(self.numbers))
    }
}

fn activations(
    shape: &Shape,
    outputs: usize,
    work: Work,
    rows: usize,
    chunk: usize,
) -> Activations {
    let keep = work.keep();
    let sum = |widths: &[usize]| widths.iter().sum::<usize>();
    let layers = shape.layers_held(keep);
    let mut row = layers * sum(&shape.kept_rows())
        + shape.streams_held(keep) * shape.d
        + sum(&shape.pass_rows(keep));
    if keep.for_backward() {
        row += sum(&shape.gradient_rows());
    }
    let head = match work {
        Work::Observe => 0,
        _ => chunk * sum(&shape.head_rows(outputs, keep.for_backward())),
    };
    // The last norm has a number a row, too.
    let numbers = layers * sum(&shape.kept_numbers()) + 1;
    Activations {
        values: product(&[rows, row]).saturating_add(head as u64),
        numbers: product(&[rows, numbers]),
    }
}

/// What is multiplied: all layers are alike.
struct Matrices {
    layers: usize,
    layer: LayerMatrices,
    head: Matrix,
}

impl Matrices {
    fn of(config: &Config) -> Self {
        let one = Config {
            num_hidden_layers: 1,
            ..config.clone()
        };
        let (layout, shape) = (Layout::new(&one), Shape::of(&one));
        Self {
            layers: config.num_hidden_layers,
            layer: LayerMatrices::of(layout.layer(0), &shape),
            head: matrix(&layout.head(), shape.d),
        }
    }

    /// Values of the packed form of all matrices.
    fn packed(&self) -> u64 {
        let of = |matrix: &Matrix| matrix.outputs.next_multiple_of(PANEL) * matrix.inputs;
        let layer: usize = self.layer.all().into_iter().map(of).sum();
        (self.layers * layer + of(&self.head)) as u64
    }

    /// Values of the largest factor that a backward pass packs for one product: a matrix, or the rows that it met.
    fn spare(&self, rows: usize, chunk: usize) -> u64 {
        let largest = |matrix: &Matrix, rows: usize| {
            matrix.outputs.max(rows) * matrix.inputs.next_multiple_of(PANEL)
        };
        let layer = self.layer.all().into_iter();
        let layer = layer.map(|matrix| largest(matrix, rows)).max();
        layer.unwrap_or(0).max(largest(&self.head, chunk)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Config, Head};

    const KEEPING: Work = Work::Train { recompute: false };

    fn eight_billion() -> Config {
        let config = Config::from_json(
            r#"{"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}"#,
        );
        config.unwrap()
    }

    #[test]
    fn bf16_takes_the_copy_of_weights_and_half_of_the_activations() {
        let config = eight_billion();
        let bytes = |numerics| {
            let held = held(&config, KEEPING, 8192, Backend::Gpu(numerics));
            held.lasting as f64 / config.parameter_count() as f64
        };
        let (f32, bf16) = (bytes(Numerics::F32), bytes(Numerics::Bf16));
        assert!(f32 > 16.0 && bf16 > 18.0, "{f32} {bf16}");
        assert!(f32 - 16.0 > 1.9 * (bf16 - 18.0), "{f32} {bf16}");
    }

    #[test]
    fn reading_holds_one_layer_and_a_reward_model_no_logits() {
        let config = eight_billion();
        let of = |config: &Config, work| held(config, work, 4096, Backend::Cpu).peak();
        let (train, read) = (of(&config, KEEPING), of(&config, Work::Read));
        assert!(train > 2 * read, "{train} {read}");
        assert!(of(&config, Work::Observe) < read);
        let reward = config.with_score_head();
        assert_eq!(reward.head, Head::Score);
        let logits = FLOAT * (Cpu::HEAD_ROWS * config.vocab_size) as u64;
        assert!(of(&reward, Work::Read) + logits < read);
    }

    #[test]
    fn recomputing_leaves_a_stream_and_a_share_of_one_layer_of_every_layer() {
        let (config, rows) = (eight_billion(), 8192);
        let activations = |recompute| {
            let work = Work::Train { recompute };
            let of = |rows| held(&config, work, rows, Backend::Gpu(Numerics::Bf16)).peak();
            (of(2 * rows) - of(rows)) as f64
        };
        let shape = Shape::of(&config);
        let layer: usize = shape.kept_rows().iter().sum();
        let saved = (rows * 2 * (shape.layers - 1) * layer) as f64;
        let found = activations(false) - activations(true);
        // Beside them go the numbers of a row, in f32.
        assert!((1.0..1.01).contains(&(found / saved)), "{found} {saved}");
        assert!(activations(true) < 0.25 * activations(false));
    }

    #[test]
    fn models_side_by_side_pass_one_after_the_other() {
        let held = |lasting, passing| Held { lasting, passing };
        let both = held(10, 3).beside(held(5, 7));
        assert_eq!((both, both.peak()), (held(15, 7), 22));
    }
}
