//! Which kernels of attention a shape takes, and their tiles.

use super::{Places, Tiles};
use crate::model::cuda::blas::Element;
use crate::model::cuda::driver::{Argument, Gpu};
use crate::model::cuda::kernels::{self, Kernel};
use crate::model::ops::Heads;

/// Rows of a tile of attention: in f32 arithmetic, and on tensor cores.
pub const TILE: usize = 16;
pub const FLASH_TILE: usize = 128;
/// The widest head that the kernels of attention hold.
pub const WIDEST_HEAD: usize = 128;

pub fn shape(heads: Heads) -> Argument {
    assert!(
        heads.head_dim <= WIDEST_HEAD,
        "a head wider than {WIDEST_HEAD}"
    );
    Argument::members([heads.heads, heads.groups, heads.head_dim].map(|number| number as u32))
}

/// What a launch of a tensor-core kernel takes: threads, and bytes of dynamic shared memory.
pub struct Flash {
    pub kernel: &'static Kernel,
    threads: u32,
    pub shared: u32,
}

/// The kernels of one head width, forward and backward by queries and by keys, with the numbers that stand in
/// `flash.cu`: strips of a warp, and rows that pass at once.
const fn flash(
    kernels: [&'static Kernel; 3],
    width: u32,
    strips: u32,
    [forward, queries, keys]: [u32; 3],
) -> [Flash; 3] {
    const TILE: u32 = FLASH_TILE as u32;
    let [first, second, third] = kernels;
    let threads = TILE / (16 * strips) * 32;
    let row = 2 * width;
    [
        Flash {
            kernel: first,
            threads,
            shared: (TILE + 4 * forward) * row,
        },
        Flash {
            kernel: second,
            threads,
            shared: (2 * TILE + 4 * queries) * row,
        },
        Flash {
            kernel: third,
            threads,
            shared: (2 * TILE + 4 * keys) * row + 4 * keys * 4,
        },
    ]
}

const FLASH_64: [&Kernel; 3] = [
    &kernels::FLASH_FORWARD_64,
    &kernels::FLASH_BACKWARD_QUERIES_64,
    &kernels::FLASH_BACKWARD_KEYS_64,
];
const FLASH_128: [&Kernel; 3] = [
    &kernels::FLASH_FORWARD_128,
    &kernels::FLASH_BACKWARD_QUERIES_128,
    &kernels::FLASH_BACKWARD_KEYS_128,
];

static PORTABLE: [[Flash; 3]; 2] = [
    flash(FLASH_64, 64, 2, [64, 32, 32]),
    flash(FLASH_128, 128, 1, [64, 32, 32]),
];
static HOPPER: [[Flash; 3]; 2] = [
    flash(FLASH_64, 64, 1, [128, 64, 128]),
    flash(FLASH_128, 128, 1, [128, 64, 64]),
];

/// How the tensor-core kernels that a card has loaded are launched.
pub fn flash_kernels(gpu: &Gpu) -> impl Iterator<Item = &'static Flash> {
    let widths = if gpu.is_hopper() { &HOPPER } else { &PORTABLE };
    widths.iter().flatten()
}

/// Kernels of attention for a shape, with their tiles.
pub struct Attention<'a> {
    pub tiles: &'a Tiles,
    pub forward: &'static Kernel,
    pub queries: &'static Kernel,
    pub keys: &'static Kernel,
}

impl<'a> Attention<'a> {
    pub fn of(element: Element, heads: Heads, places: &'a Places) -> Self {
        let flash = |[forward, queries, keys]: [&'static Kernel; 3]| Self {
            tiles: &places.sequences().flash_tiles,
            forward,
            queries,
            keys,
        };
        match (element, heads.head_dim) {
            (Element::Bf16, 64) => flash(FLASH_64),
            (Element::Bf16, 128) => flash(FLASH_128),
            _ => Self {
                tiles: &places.sequences().tiles,
                forward: kernels::ATTENTION_FORWARD.of(element),
                queries: kernels::ATTENTION_BACKWARD_QUERIES.of(element),
                keys: kernels::ATTENTION_BACKWARD_KEYS.of(element),
            },
        }
    }

    /// A block for each tile and head, or group.
    pub fn launch(&self, gpu: &Gpu, kernel: &Kernel, heads: usize, arguments: &[Argument]) {
        let flash = flash_kernels(gpu).find(|flash| flash.kernel.name == kernel.name);
        let (threads, shared) = flash.map_or((128, 0), |flash| (flash.threads, flash.shared));
        let grid = (self.tiles.count, heads);
        gpu.launch(kernel, grid, threads, shared, arguments);
    }
}
