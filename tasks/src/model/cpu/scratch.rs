//! Memory of one thread that lives from call to call.

use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static STRIPS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends pieces of the given sizes, of unknown content. The closure must not start other parallel work: a stolen task
/// would find the memory lent.
pub(super) fn with_scratch<const N: usize, R>(
    sizes: [usize; N],
    work: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut rest = first_of(scratch, sizes.iter().sum());
        work(sizes.map(|size| {
            let (piece, left) = std::mem::take(&mut rest).split_at_mut(size);
            rest = left;
            piece
        }))
    })
}

/// Lends memory of unknown content to a product, which may run inside of [`with_scratch`].
pub(super) fn with_panel<R>(size: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    PANEL.with_borrow_mut(|panel| work(first_of(panel, size)))
}

/// The same; a panel may be lent inside.
pub(super) fn with_strips<R>(size: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    STRIPS.with_borrow_mut(|strips| work(first_of(strips, size)))
}

fn first_of(memory: &mut Vec<f32>, size: usize) -> &mut [f32] {
    if memory.len() < size {
        memory.resize(size, 0.0);
    }
    &mut memory[..size]
}
