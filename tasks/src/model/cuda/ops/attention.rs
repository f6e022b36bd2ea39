//! Which kernels of attention a shape takes, and their tiles.

use super::{Places, Tiles};
use crate::model::cuda::blas::Element;
use crate::model::cuda::driver::{Argument, Gpu};
use crate::model::cuda::kernels::{self, Kernel};
use crate::model::ops::Heads;

/// Rows of a tile of attention: in f32 arithmetic, and on tensor cores.
pub const TILE: usize = 16;
pub const FLASH_TILE: usize = 64;
/// The widest head that the kernels of attention hold.
pub const WIDEST_HEAD: usize = 128;

pub fn shape(heads: Heads) -> Argument {
    assert!(
        heads.head_dim <= WIDEST_HEAD,
        "a head wider than {WIDEST_HEAD}"
    );
    Argument::members([heads.heads, heads.groups, heads.head_dim].map(|number| number as u32))
}

/// Bytes of one row of a head in shared memory: eight values more than it has.
const fn flash_row(width: u32) -> u32 {
    2 * (width + 8)
}

/// Dynamic shared memory of each tensor-core kernel: the rows that `flash.cu` declares.
pub const FLASH_SHARED: &[(&Kernel, u32)] = &[
    (&kernels::FLASH_FORWARD_64, 3 * 64 * flash_row(64)),
    (&kernels::FLASH_FORWARD_128, 3 * 64 * flash_row(128)),
    (&kernels::FLASH_BACKWARD_QUERIES_64, 4 * 64 * flash_row(64)),
    (
        &kernels::FLASH_BACKWARD_QUERIES_128,
        4 * 64 * flash_row(128),
    ),
    (
        &kernels::FLASH_BACKWARD_KEYS_64,
        4 * 64 * flash_row(64) + 64 * 8,
    ),
    (
        &kernels::FLASH_BACKWARD_KEYS_128,
        (2 * 64 + 2 * 32) * flash_row(128) + 32 * 8,
    ),
];

/// Kernels of attention for a shape, with their tiles.
pub struct Attention<'a> {
    pub tiles: &'a Tiles,
    pub forward: &'static Kernel,
    pub queries: &'static Kernel,
    pub keys: &'static Kernel,
}

impl<'a> Attention<'a> {
    pub fn of(element: Element, heads: Heads, places: &'a Places) -> Self {
        let flash = |forward, queries, keys| Self {
            tiles: &places.sequences().flash_tiles,
            forward,
            queries,
            keys,
        };
        match (element, heads.head_dim) {
            (Element::Bf16, 64) => flash(
                &kernels::FLASH_FORWARD_64,
                &kernels::FLASH_BACKWARD_QUERIES_64,
                &kernels::FLASH_BACKWARD_KEYS_64,
            ),
            (Element::Bf16, 128) => flash(
                &kernels::FLASH_FORWARD_128,
                &kernels::FLASH_BACKWARD_QUERIES_128,
                &kernels::FLASH_BACKWARD_KEYS_128,
            ),
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
        let shared = FLASH_SHARED
            .iter()
            .find(|(flash, _)| flash.name == kernel.name);
        let shared = shared.map_or(0, |(_, bytes)| *bytes);
        gpu.launch(kernel, (self.tiles.count, heads), 128, shared, arguments);
    }
}
