//! States of encoders, kept for the next body.
//!
//! A new state is hundreds of KiB of which the system hands out each page on its first use, which
//! costs more than the compression of a small body. Each thread keeps a few; states that are not
//! there are made, and those that are too many or too large are freed.

use std::cell::RefCell;

use flate2::{Compress, Compression};
use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::{CCtx, ResetDirective};

/// Window of 32 KiB, the largest that deflate supports.
const GZIP_WINDOW_BITS: u8 = 15;

/// States of each kind that a thread keeps.
const MAX_KEPT: usize = 2;

/// Memory of a zstd state up to which it is kept.
const MAX_ZSTD: usize = 2 << 20;

/// Room for output that a thread keeps.
const MAX_ROOM: usize = 256 * 1024;

#[derive(Default)]
struct Pool {
    /// Each has the level that it was made for.
    gzip: Vec<(u8, Compress)>,
    whole: Vec<(u8, Compressor)>,
    zstd: Vec<CCtx<'static>>,
    room: Vec<u8>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Returns a state for a gzip stream.
pub(super) fn gzip(level: u8) -> Compress {
    let kept = POOL.with_borrow_mut(|pool| take(&mut pool.gzip, level));
    kept.unwrap_or_else(|| {
        let level = Compression::new(u32::from(level));
        Compress::new_gzip(level, GZIP_WINDOW_BITS)
    })
}

/// Keeps the state of a gzip stream, which may be anywhere in it.
pub(super) fn keep_gzip(level: u8, mut state: Compress) {
    state.reset();
    keep(|pool| &mut pool.gzip, (level, state));
}

/// Returns a state for a zstd stream, with parameters of its own. `None` if there is no memory.
pub(super) fn zstd() -> Option<CCtx<'static>> {
    let kept = POOL.with_borrow_mut(|pool| pool.zstd.pop());
    kept.or_else(CCtx::try_create)
}

/// Keeps the state of a zstd stream, which may be anywhere in it.
pub(super) fn keep_zstd(mut state: CCtx<'static>) {
    let is_reset = state.reset(ResetDirective::SessionAndParameters).is_ok();
    if is_reset && state.sizeof() <= MAX_ZSTD {
        keep(|pool| &mut pool.zstd, state);
    }
}

/// Appends all of `input` to `out` as gzip. `None` if the library rejects the level.
pub(super) fn gzip_whole(level: u8, input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    POOL.with_borrow_mut(|pool| {
        let mut state = match take(&mut pool.whole, level) {
            Some(state) => state,
            None => Compressor::new(CompressionLvl::new(i32::from(level)).ok()?),
        };
        let bound = state.gzip_compress_bound(input.len());
        if pool.room.len() < bound {
            pool.room.resize(bound, 0);
        }
        let length = state.gzip_compress(input, &mut pool.room).ok()?;
        out.reserve_exact(length);
        out.extend_from_slice(&pool.room[..length]);
        if pool.room.len() > MAX_ROOM {
            pool.room = Vec::new();
        }
        add(&mut pool.whole, (level, state));
        Some(())
    })
}

/// Takes a state of this level out.
fn take<T>(kept: &mut Vec<(u8, T)>, level: u8) -> Option<T> {
    let index = kept.iter().position(|(own, _)| *own == level)?;
    Some(kept.swap_remove(index).1)
}

/// Keeps `state`, unless the thread is ending.
fn keep<T>(kind: impl FnOnce(&mut Pool) -> &mut Vec<T>, state: T) {
    // What is not kept is freed here.
    let _ended = POOL.try_with(|pool| add(kind(&mut pool.borrow_mut()), state));
}

/// Adds a state in place of the oldest one, if there are enough.
fn add<T>(kept: &mut Vec<T>, state: T) {
    if kept.len() == MAX_KEPT {
        kept.remove(0);
    }
    kept.push(state);
}
