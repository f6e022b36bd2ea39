//! Memory of one thread that lives from call to call.

use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends pieces of the given sizes, of unknown content. The closure must not start other parallel work: a stolen task
/// would find the memory lent.
pub(super) fn with_scratch<const N: usize, R>(
    sizes: [usize; N],
    work: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let total = sizes.iter().sum();
        if scratch.len() < total {
            scratch.resize(total, 0.0);
        }
        let mut rest = scratch.as_mut_slice();
        work(sizes.map(|size| {
            let (piece, left) = std::mem::take(&mut rest).split_at_mut(size);
            rest = left;
            piece
        }))
    })
}

/// Lends memory of unknown content to a product, which may run inside of [`with_scratch`].
pub(super) fn with_panel<R>(size: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    PANEL.with_borrow_mut(|panel| {
        if panel.len() < size {
            panel.resize(size, 0.0);
        }
        work(&mut panel[..size])
    })
}
