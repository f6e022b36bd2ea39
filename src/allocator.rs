//! Memory: a graph of many tasks is many small pieces. Mimalloc, asked as C asks it.
//!
//! The `mimalloc` crate names an alignment for every piece, which is half of what a small piece costs.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mi;

pub struct Allocator;

/// What is at least as long is aligned to this without being told so, as of any `malloc`.
const ALIGNED: usize = 16;

fn is_plain(layout: Layout) -> bool {
    layout.align() <= ALIGNED && layout.align() <= layout.size()
}

// SAFETY: mimalloc keeps the contract of an allocator, by whichever of its functions memory is had; `mi_malloc`,
// `mi_zalloc` and `mi_realloc` align as `malloc` does, which is enough where `is_plain` says so.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let piece = match is_plain(layout) {
            true => unsafe { mi::mi_malloc(layout.size()) },
            false => unsafe { mi::mi_malloc_aligned(layout.size(), layout.align()) },
        };
        piece.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let piece = match is_plain(layout) {
            true => unsafe { mi::mi_zalloc(layout.size()) },
            false => unsafe { mi::mi_zalloc_aligned(layout.size(), layout.align()) },
        };
        piece.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, _: Layout) {
        unsafe { mi::mi_free(piece.cast()) };
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let piece = match is_plain(layout) && layout.align() <= size {
            true => unsafe { mi::mi_realloc(piece.cast(), size) },
            false => unsafe { mi::mi_realloc_aligned(piece.cast(), size, layout.align()) },
        };
        piece.cast()
    }
}
