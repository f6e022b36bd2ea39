//! The list of operations on a card.
//!
//! Weights, gradients and moments are f32. Activations are f32 or, with `numerics = "bf16"`, bf16; products then read
//! bf16 and sum in f32, statistics, softmaxes and losses are f32 within a kernel, and weight gradients are summed in
//! f32. Grids and partial sums depend on shapes alone, never on the card.

mod adamw;
mod attention;
mod losses;
mod products;

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::blas::{Element, Product};
use super::driver::{Address, Argument, Gpu, Memory, Plain};
use super::kernels::{self, Kernel};
use super::places::{self, Grouped};
use crate::model::batch::{Batch, Row};
use crate::model::error::ModelError;
use crate::model::loss::{Distillation, Sums};
use crate::model::ops::{AdamWStep, Heads, Matrix, Ops};
use crate::model::rope::RopeTable;
use crate::model::sampler::{Choice, Sampling};
pub use attention::WIDEST_HEAD;
use attention::{Attention, FLASH_TILE, TILE, flash_kernels, shape};

/// Threads of a block of most kernels.
const THREADS: u32 = 256;
/// Rows whose share of a norm's weight gradient one block sums, and bytes of shared memory that it sums in, unless a
/// single row needs more.
const NORM_ROWS: usize = 64;
const NORM_SHARED: u32 = 48 << 10;
/// The widest residual stream: a row of it in f32 fits the shared memory of every card.
pub const WIDEST_STREAM: usize = 24 << 10;
/// Threads of a block of a loss: a row of logits is long.
const LOSS_THREADS: u32 = 512;
/// Elements whose squares one block sums.
const SQUARES: usize = 1 << 16;

/// Operations on one card in one numeric mode.
#[derive(Clone)]
pub struct Cuda {
    gpu: Gpu,
    activations: Element,
}

/// Numbers on the card.
pub struct Buffer {
    memory: Memory,
    len: usize,
    element: Element,
}

/// Some consecutive numbers of a buffer.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    address: Address,
    len: usize,
    element: Element,
    buffer: PhantomData<&'a Buffer>,
}

/// The arena of weights, and its copy in bf16 where products read it.
pub struct Weights {
    values: Buffer,
    copy: Option<Memory>,
}

/// Tables of rows.
pub struct Places {
    n: usize,
    tokens: Memory,
    /// Which of the angles each row is turned by, and how many that takes.
    turns: Memory,
    turned: usize,
    /// Angles in all, a half head each.
    angles: usize,
    cosines: Memory,
    sines: Memory,
    stand: Stand,
}

/// Where rows stand.
enum Stand {
    InBatch(Sequences),
    /// `[n, 2]`: in which row of the cache the slot of each row begins, and its position there.
    InCache(Memory),
}

/// Tables of the sequences of a batch.
struct Sequences {
    tiles: Tiles,
    flash_tiles: Tiles,
    /// On the host: which rows go to the same place is found out while the card is busy.
    tokens: Vec<u32>,
}

impl Places {
    fn sequences(&self) -> &Sequences {
        match &self.stand {
            Stand::InBatch(sequences) => sequences,
            Stand::InCache(_) => unreachable!("an operation on sequences, places of a cache"),
        }
    }

    fn in_cache(&self) -> Address {
        match &self.stand {
            Stand::InCache(rows) => rows.address,
            Stand::InBatch(_) => unreachable!("an operation on a cache, places of a batch"),
        }
    }
}

/// A table of three numbers a row.
struct Tiles {
    memory: Memory,
    count: usize,
}

/// Row numbers, and the same rows by where they come from.
pub struct Indices {
    rows: Memory,
    count: usize,
    order: Memory,
    groups: Tiles,
}

impl Cuda {
    pub fn new(gpu: Gpu, activations: Element) -> Self {
        for element in [Element::F32, Element::Bf16] {
            let kernel = kernels::RMSNORM_BACKWARD.of(element);
            gpu.allow_shared(kernel, 4 * WIDEST_STREAM as u32);
        }
        for flash in flash_kernels(&gpu) {
            gpu.allow_shared(flash.kernel, flash.shared);
        }
        Self { gpu, activations }
    }

    /// The same card in another number format.
    pub fn with(self, activations: Element) -> Self {
        Self {
            activations,
            ..self
        }
    }

    fn upload_table<T: Plain>(&self, values: &[T]) -> Memory {
        let memory = self.gpu.allocate(size_of_val(values));
        self.gpu.write(memory.address, values);
        memory
    }

    fn tiles(&self, rows: &[[u32; 3]]) -> Tiles {
        Tiles {
            memory: self.upload_table(rows.as_flattened()),
            count: rows.len(),
        }
    }

    fn buffer(&self, len: usize, element: Element) -> Buffer {
        let buffer = Buffer {
            memory: self.gpu.allocate(len * element.bytes()),
            len,
            element,
        };
        self.gpu.clear(buffer.memory.address, len * element.bytes());
        buffer
    }

    /// A block of threads for each row.
    fn by_rows(&self, kernel: &Kernel, rows: usize, arguments: &[Argument]) {
        self.gpu.launch(kernel, (rows, 1), THREADS, 0, arguments);
    }

    /// A warp for each row.
    fn by_warps(&self, kernel: &Kernel, rows: usize, arguments: &[Argument]) {
        let blocks = rows.div_ceil(THREADS as usize / 32);
        self.gpu.launch(kernel, (blocks, 1), THREADS, 0, arguments);
    }

    /// A thread for each element.
    fn by_elements(&self, kernel: &Kernel, len: usize, arguments: &[Argument]) {
        let blocks = len.div_ceil(THREADS as usize);
        self.gpu.launch(kernel, (blocks, 1), THREADS, 0, arguments);
    }

    /// Threads for the columns of rows `[N, f]`.
    fn by_columns(&self, kernel: &Kernel, rows: Span, f: usize, arguments: &[Argument]) {
        let blocks = f.div_ceil(wide(f, rows.element) * THREADS as usize);
        self.gpu
            .launch(kernel, (rows.len / f.max(1), blocks), THREADS, 0, arguments);
    }

    fn turn(&self, rows: Span, heads: Heads, places: &Places, direction: f32) {
        let (n, half) = (rows.len / heads.width(), heads.head_dim / 2);
        assert!(
            places.angles >= places.turned * half,
            "angles of every position"
        );
        let arguments = [
            rows.address.into(),
            places.turns.address.into(),
            places.cosines.address.into(),
            places.sines.address.into(),
            (n as u32).into(),
            (heads.width() as u32).into(),
            ((heads.heads + heads.groups) as u32).into(),
            (half as u32).into(),
            direction.into(),
        ];
        let pairs = n * (heads.heads + heads.groups) * half;
        let threads = pairs / wide(half, rows.element);
        self.by_elements(kernels::ROPE.of(rows.element), threads, &arguments);
    }
}

/// How many values of rows of `width` a thread takes at once: 16 bytes, if that divides them.
fn wide(width: usize, element: Element) -> usize {
    let wide = 16 / element.bytes();
    if width.is_multiple_of(wide) { wide } else { 1 }
}

/// Values of a row.
fn width(len: usize, rows: usize) -> u32 {
    assert!(rows == 0 || len.is_multiple_of(rows), "rows of equal width");
    (len / rows.max(1)) as u32
}

impl Ops for Cuda {
    type Buffer = Buffer;
    type View<'a> = Span<'a>;
    type ViewMut<'a> = Span<'a>;
    type Weights = Weights;
    type Places = Places;
    type Indices = Indices;

    const HEAD_ROWS: usize = 8192;

    fn zeros(&self, len: usize) -> Buffer {
        self.buffer(len, Element::F32)
    }

    fn activations(&self, len: usize) -> Buffer {
        self.buffer(len, self.activations)
    }

    fn upload(&self, values: Vec<f32>) -> Buffer {
        Buffer {
            memory: self.upload_table(&values),
            len: values.len(),
            element: Element::F32,
        }
    }

    fn len(buffer: &Buffer) -> usize {
        buffer.len
    }

    fn view(buffer: &Buffer, range: Range<usize>) -> Span<'_> {
        assert!(
            range.start <= range.end && range.end <= buffer.len,
            "a view beyond its buffer"
        );
        Span {
            address: buffer.memory.address + (range.start * buffer.element.bytes()) as u64,
            len: range.len(),
            element: buffer.element,
            buffer: PhantomData,
        }
    }

    fn view_mut(buffer: &mut Buffer, range: Range<usize>) -> Span<'_> {
        Self::view(buffer, range)
    }

    fn read<'a>(&self, view: Self::View<'a>) -> Cow<'a, [f32]> {
        let widened = |bits: u16| half::bf16::from_bits(bits).to_f32();
        Cow::Owned(match view.element {
            Element::F32 => self.gpu.read(view.address, view.len),
            Element::Bf16 => {
                let bits = self.gpu.read::<u16>(view.address, view.len);
                bits.into_iter().map(widened).collect()
            }
        })
    }

    fn write(&self, view: Span, values: &[f32]) {
        assert_eq!(view.len, values.len(), "as many values as the view has");
        match view.element {
            Element::F32 => self.gpu.write(view.address, values),
            Element::Bf16 => {
                let bits = values
                    .iter()
                    .map(|value| half::bf16::from_f32(*value).to_bits());
                self.gpu.write(view.address, &bits.collect::<Vec<u16>>());
            }
        }
    }

    fn clear(&self, y: Span) {
        self.gpu.clear(y.address, y.len * y.element.bytes());
    }

    fn copy(&self, y: Span, x: Span) {
        assert_eq!(y.len, x.len, "a copy of equal length");
        let convert = |kernel| {
            let arguments = [y.address.into(), x.address.into(), (y.len as u64).into()];
            self.by_elements(kernel, y.len, &arguments);
        };
        match (y.element, x.element) {
            (Element::F32, Element::Bf16) => convert(&kernels::FROM_BF16),
            (Element::Bf16, Element::F32) => convert(&kernels::TO_BF16),
            (element, _) => self.gpu.copy(y.address, x.address, y.len * element.bytes()),
        }
    }

    fn weights(&self, _: &[Matrix], values: Vec<f32>) -> Weights {
        let values = self.upload(values);
        let copy = (self.activations == Element::Bf16).then(|| {
            let copy = self.gpu.allocate(2 * values.len);
            let arguments = [
                copy.address.into(),
                values.memory.address.into(),
                (values.len as u64).into(),
            ];
            self.by_elements(&kernels::TO_BF16, values.len, &arguments);
            copy
        });
        Weights { values, copy }
    }

    fn values(weights: &Weights) -> &Buffer {
        &weights.values
    }

    fn indices(&self, values: &[u32]) -> Indices {
        let Grouped { order, groups } = places::grouped(values);
        Indices {
            rows: self.upload_table(values),
            count: values.len(),
            order: self.upload_table(&order),
            groups: self.tiles(&groups),
        }
    }

    fn places(&self, batch: &Batch, rope: &Arc<RopeTable>) -> Places {
        let (cosines, sines) = rope.tables(batch.longest());
        Places {
            n: batch.len(),
            tokens: self.upload_table(&batch.tokens),
            turns: self.upload_table(&places::positions(batch)),
            turned: batch.longest(),
            angles: cosines.len(),
            cosines: self.upload_table(cosines),
            sines: self.upload_table(sines),
            stand: Stand::InBatch(Sequences {
                tiles: self.tiles(&places::tiles(batch, TILE)),
                flash_tiles: self.tiles(&places::tiles(batch, FLASH_TILE)),
                tokens: batch.tokens.clone(),
            }),
        }
    }

    fn places_in_cache(&self, rows: &[Row], capacity: usize, rope: &Arc<RopeTable>) -> Places {
        let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
        let turns: Vec<u32> = (0..rows.len() as u32).collect();
        // The angles of these rows alone: a step is short, tables of all positions are not.
        let angles = rows.iter().map(|row| rope.at(row.position));
        let (cosines, sines): (Vec<&[f32]>, Vec<&[f32]>) = angles.unzip();
        let (cosines, sines) = (cosines.concat(), sines.concat());
        let stand = |row: &Row| [(row.slot * capacity) as u32, row.position as u32];
        let stand: Vec<[u32; 2]> = rows.iter().map(stand).collect();
        Places {
            n: rows.len(),
            tokens: self.upload_table(&tokens),
            turns: self.upload_table(&turns),
            turned: rows.len(),
            angles: cosines.len(),
            cosines: self.upload_table(&cosines),
            sines: self.upload_table(&sines),
            stand: Stand::InCache(self.upload_table(stand.as_flattened())),
        }
    }

    fn sync(&self) -> Result<(), ModelError> {
        self.gpu.sync()
    }

    fn embed(&self, x: Span, table: Span, places: &Places) {
        let rows = places.n;
        let arguments = [
            x.address.into(),
            table.address.into(),
            places.tokens.address.into(),
            width(x.len, rows).into(),
        ];
        self.by_rows(kernels::EMBED.of(x.element), rows, &arguments);
    }

    fn embed_backward(&self, d_table: Span, dx: Span, places: &Places) {
        let width = width(dx.len, places.n);
        let grouped = places::grouped(&places.sequences().tokens);
        let found = places::pieces(&grouped);
        let order = self.upload_table(&grouped.order);
        let [short, pieces, long] =
            [found.short, found.pieces, found.long].map(|rows| self.tiles(&rows));
        let arguments = |groups: &Tiles| {
            [
                d_table.address.into(),
                dx.address.into(),
                order.address.into(),
                groups.memory.address.into(),
                width.into(),
            ]
        };
        let kernel = kernels::EMBED_BACKWARD.of(dx.element);
        self.by_rows(kernel, short.count, &arguments(&short));
        let columns = (width as usize).div_ceil(THREADS as usize);
        let sums = self
            .gpu
            .scratch("embedding", pieces.count * width as usize * 4);
        let mut of_pieces = arguments(&pieces);
        of_pieces[0] = sums.into();
        let kernel = kernels::EMBEDDING_PIECES.of(dx.element);
        self.gpu
            .launch(kernel, (pieces.count, columns), THREADS, 0, &of_pieces);
        let arguments = [
            d_table.address.into(),
            sums.into(),
            long.memory.address.into(),
            width.into(),
        ];
        self.gpu.launch(
            &kernels::EMBEDDING_SUMS,
            (long.count, columns),
            THREADS,
            0,
            &arguments,
        );
    }

    fn gather(&self, y: Span, x: Span, rows: &Indices) {
        assert_eq!(y.element, x.element, "rows of one type");
        let arguments = [
            y.address.into(),
            x.address.into(),
            rows.rows.address.into(),
            width(y.len, rows.count).into(),
        ];
        self.by_rows(kernels::GATHER_ROWS.of(x.element), rows.count, &arguments);
    }

    fn gather_backward(&self, dx: Span, dy: Span, rows: &Indices) {
        assert_eq!(dx.element, dy.element, "rows of one type");
        let arguments = [
            dx.address.into(),
            dy.address.into(),
            rows.order.address.into(),
            rows.groups.memory.address.into(),
            width(dy.len, rows.count).into(),
        ];
        self.by_rows(
            kernels::SCATTER_ROWS.of(dx.element),
            rows.groups.count,
            &arguments,
        );
    }

    fn rms_norm(&self, y: Span, scale: Span, x: Span, w: Span, eps: f32) {
        let (rows, d) = (x.len / w.len, w.len);
        assert!(scale.len == rows && y.len == x.len, "a scale for each row");
        let arguments = [
            y.address.into(),
            scale.address.into(),
            x.address.into(),
            w.address.into(),
            (rows as u32).into(),
            (d as u32).into(),
            eps.into(),
        ];
        self.by_warps(kernels::RMSNORM_FORWARD.of(x.element), rows, &arguments);
    }

    fn rms_norm_backward(&self, dx: Span, dw: Span, dy: Span, x: Span, w: Span, scale: Span) {
        let (rows, d) = (x.len / w.len, w.len);
        assert!(
            dx.len == x.len && dy.len == x.len && dw.len == d && scale.len == rows,
            "shapes of a norm"
        );
        let count = rows.div_ceil(NORM_ROWS);
        let parts = self.gpu.scratch("norm", count * d * 4);
        let arguments = [
            dx.address.into(),
            parts.into(),
            dy.address.into(),
            x.address.into(),
            w.address.into(),
            scale.address.into(),
            (rows as u32).into(),
            (d as u32).into(),
            (NORM_ROWS as u32).into(),
        ];
        // A row of sums for each warp.
        let warps = (NORM_SHARED / (4 * d as u32)).clamp(1, THREADS / 32);
        self.gpu.launch(
            kernels::RMSNORM_BACKWARD.of(x.element),
            (count, 1),
            32 * warps,
            4 * d as u32 * warps,
            &arguments,
        );
        let arguments = [
            dw.address.into(),
            parts.into(),
            (count as u32).into(),
            (d as u32).into(),
        ];
        self.gpu.launch(
            &kernels::ADD_COLUMNS,
            (d.div_ceil(32), 1),
            32 * 32,
            0,
            &arguments,
        );
    }

    fn swiglu(&self, act: Span, gate_up: Span, f: usize) {
        let arguments = [
            act.address.into(),
            gate_up.address.into(),
            (f as u32).into(),
        ];
        self.by_columns(kernels::SWIGLU_FORWARD.of(act.element), act, f, &arguments);
    }

    fn swiglu_backward(&self, gate_up: Span, act: Span, d_act: Span, f: usize) {
        let arguments = [
            gate_up.address.into(),
            act.address.into(),
            d_act.address.into(),
            (f as u32).into(),
        ];
        self.by_columns(kernels::SWIGLU_BACKWARD.of(act.element), act, f, &arguments);
    }

    fn linear(&self, y: Span, base: Option<Span>, x: Span, weights: &Weights, matrix: &Matrix) {
        let product = Product {
            m: x.len / matrix.inputs,
            n: matrix.outputs,
            k: matrix.inputs,
            left_transposed: false,
            right_transposed: true,
            factors: x.element,
            result: y.element,
            add: base.is_some(),
        };
        if let Some(base) = base {
            assert!(
                base.len == y.len && base.element == y.element,
                "a base of the same shape"
            );
        }
        let base = base.map_or(y.address, |base| base.address);
        let matrix = self.matrix(weights, matrix, x.element);
        self.multiply(y, base, x.address, matrix, product);
    }

    fn linear_dx(&self, dx: Span, dy: Span, weights: &Weights, matrix: &Matrix) {
        let product = Product {
            m: dy.len / matrix.outputs,
            n: matrix.inputs,
            k: matrix.outputs,
            left_transposed: false,
            right_transposed: false,
            factors: dy.element,
            result: dx.element,
            add: false,
        };
        let matrix = self.matrix(weights, matrix, dy.element);
        self.multiply(dx, dx.address, dy.address, matrix, product);
    }

    fn linear_dw(&self, dw: Span, dy: Span, x: Span, inputs: usize) {
        assert_eq!(dy.element, x.element, "factors of one type");
        let product = Product {
            m: dw.len / inputs,
            n: inputs,
            k: x.len / inputs,
            left_transposed: true,
            right_transposed: false,
            factors: x.element,
            result: dw.element,
            add: true,
        };
        if product.k > 0 {
            self.multiply(dw, dw.address, dy.address, x.address, product);
        }
    }

    fn rope(&self, qkv: Span, heads: Heads, places: &Places) {
        self.turn(qkv, heads, places, 1.0);
    }

    fn rope_backward(&self, d_qkv: Span, heads: Heads, places: &Places) {
        self.turn(d_qkv, heads, places, -1.0);
    }

    fn attention(&self, out: Span, lse: Span, qkv: Span, heads: Heads, places: &Places) {
        let kernels = Attention::of(qkv.element, heads, places);
        let arguments = [
            out.address.into(),
            lse.address.into(),
            qkv.address.into(),
            kernels.tiles.memory.address.into(),
            shape(heads),
        ];
        kernels.launch(&self.gpu, kernels.forward, heads.heads, &arguments);
    }

    fn attention_backward(
        &self,
        d_qkv: Span,
        d_out: Span,
        out: Span,
        lse: Span,
        qkv: Span,
        heads: Heads,
        places: &Places,
    ) {
        let count = lse.len;
        let delta = self.gpu.scratch("delta", count * 4);
        let packs = heads.head_dim / wide(heads.head_dim, out.element);
        let lanes = packs.next_power_of_two().min(32);
        let arguments = [
            delta.into(),
            out.address.into(),
            d_out.address.into(),
            (count as u32).into(),
            (heads.head_dim as u32).into(),
            (lanes as u32).into(),
        ];
        let kernel = kernels::ATTENTION_DELTA.of(out.element);
        self.by_elements(kernel, count * lanes, &arguments);
        let kernels = Attention::of(qkv.element, heads, places);
        let arguments = [
            d_qkv.address.into(),
            d_out.address.into(),
            lse.address.into(),
            delta.into(),
            qkv.address.into(),
            kernels.tiles.memory.address.into(),
            shape(heads),
        ];
        kernels.launch(&self.gpu, kernels.queries, heads.heads, &arguments);
        kernels.launch(&self.gpu, kernels.keys, heads.groups, &arguments);
    }

    fn append(&self, cache: Span, qkv: Span, heads: Heads, places: &Places) {
        assert_eq!(cache.element, qkv.element, "rows of one type");
        assert_eq!(qkv.len, places.n * heads.width(), "a place for each row");
        let arguments = [
            cache.address.into(),
            qkv.address.into(),
            places.in_cache().into(),
            shape(heads),
        ];
        self.by_rows(kernels::APPEND.of(qkv.element), places.n, &arguments);
    }

    fn attention_in_cache(&self, out: Span, qkv: Span, cache: Span, heads: Heads, places: &Places) {
        assert_eq!(cache.element, qkv.element, "rows of one type");
        assert_eq!(qkv.len, places.n * heads.width(), "a place for each row");
        assert_eq!(out.len, places.n * heads.queries(), "a result for each row");
        let arguments = [
            out.address.into(),
            qkv.address.into(),
            cache.address.into(),
            places.in_cache().into(),
            shape(heads),
        ];
        let kernel = kernels::ATTENTION_IN_CACHE.of(qkv.element);
        let grid = (places.n, heads.heads);
        self.gpu.launch(kernel, grid, THREADS, 0, &arguments);
    }

    fn cross_entropy(
        &self,
        logits: Span,
        targets: &[u32],
        weight: f64,
        z_loss: f64,
        gradient: bool,
    ) -> Sums {
        let stats = self.cross_entropy_rows(logits, targets, 0, weight, z_loss, gradient);
        self.sums(stats, targets.len())
    }

    fn distillation(
        &self,
        logits: Span,
        teacher: Span,
        targets: &[u32],
        options: Distillation,
        weight: f64,
        gradient: bool,
    ) -> Sums {
        assert!(
            teacher.len == logits.len && teacher.element == logits.element,
            "two vocabularies"
        );
        let rows = targets.len();
        let temperature = options.temperature;
        // The gradient of a divergence at temperature T carries 1 / T.
        let squared = if options.scale_by_squared_temperature {
            temperature * temperature
        } else {
            1.0
        };
        let pulled = weight * options.kd_weight * squared / temperature;
        let taught = weight * (1.0 - options.kd_weight);
        let stats = self.gpu.scratch("stats", rows * 4 * size_of::<f32>());
        let targets = self.gpu.hand_over("targets", targets);
        let arguments = [
            logits.address.into(),
            teacher.address.into(),
            stats.into(),
            targets.into(),
            (temperature as f32).into(),
            (pulled as f32).into(),
            (taught as f32).into(),
            u32::from(gradient).into(),
            width(logits.len, rows).into(),
        ];
        let kernel = kernels::DISTILLATION.of(logits.element);
        self.gpu
            .launch(kernel, (rows, 1), LOSS_THREADS, 0, &arguments);
        self.sums(stats, rows)
    }

    fn log_probabilities(&self, logits: Span, targets: &[u32]) -> Vec<f64> {
        let stats = self.cross_entropy_rows(logits, targets, 0, 0.0, 0.0, false);
        let stats = self.gpu.read::<f32>(stats, 4 * targets.len());
        stats
            .chunks_exact(4)
            .map(|row| -f64::from(row[0]))
            .collect()
    }

    fn log_probability_gradient(&self, logits: Span, targets: &[u32], coefficients: &[f64]) {
        assert_eq!(
            targets.len(),
            coefficients.len(),
            "a coefficient for each row"
        );
        let weights: Vec<f32> = coefficients
            .iter()
            .map(|coefficient| -coefficient as f32)
            .collect();
        let weights = self.gpu.hand_over("coefficients", &weights);
        self.cross_entropy_rows(logits, targets, weights, 0.0, 0.0, true);
    }

    fn sample(&self, logits: Span, sampling: &Sampling, uniform: &[f64]) -> Vec<Choice> {
        self.choose(logits, sampling, uniform)
    }

    fn sum_of_squares(&self, x: Span) -> f64 {
        let count = x.len.div_ceil(SQUARES);
        let parts = self.gpu.scratch("squares", (count + 1) * size_of::<f64>());
        let total = parts + (count * size_of::<f64>()) as u64;
        let arguments = [
            parts.into(),
            x.address.into(),
            (x.len as u64).into(),
            (SQUARES as u32).into(),
        ];
        self.gpu
            .launch(&kernels::SQUARES, (count, 1), THREADS, 0, &arguments);
        let arguments = [total.into(), parts.into(), (count as u32).into()];
        self.gpu
            .launch(&kernels::SUM_PARTS, (1, 1), THREADS, 0, &arguments);
        self.gpu.read::<f64>(total, 1)[0]
    }

    fn adamw(
        &self,
        weights: &mut Weights,
        m: &mut Buffer,
        v: &mut Buffer,
        g: &Buffer,
        step: AdamWStep,
        decayed: &[Range<usize>],
    ) {
        self.update_all(weights, m, v, g, step, decayed);
    }
}
