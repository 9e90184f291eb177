//! Images of other sizes and formats, as the image optimizer of Next.js makes them: decoded,
//! turned, scaled and encoded within bounds of pixels, memory and time.
//!
//! `kind` tells what bytes are, `decode` reads them, after their header was checked against the
//! bounds, `scale` and `colour` change pixels, `webp` and `mozjpeg` encode them. `workers` has the
//! threads on which that happens. Knows nothing of routes and requests.

mod colour;
mod decode;
mod exif;
#[expect(
    clippy::inline_always,
    reason = "loops are compiled for wider registers as part of their caller"
)]
mod jpeg;
mod kind;
#[expect(
    clippy::inline_always,
    reason = "loops are compiled for wider registers as part of their caller"
)]
mod mozjpeg;
mod pixels;
#[expect(
    clippy::inline_always,
    reason = "loops are compiled for wider registers as part of their caller"
)]
mod scale;
#[cfg(test)]
mod tests;
mod transform;
#[expect(
    unsafe_code,
    reason = "libwebp is a C library; its calls are wrapped in this module alone"
)]
mod webp;
#[expect(
    unsafe_code,
    reason = "a function for processors with AVX2 is called after a check"
)]
mod wide;
mod workers;

pub use self::{
    kind::{Kind, is_animated},
    pixels::{Channels, Pixels},
    transform::{Bounds, ImageError, OutputFormat, Wanted, transform},
    workers::{QueueFull, Workers},
};
