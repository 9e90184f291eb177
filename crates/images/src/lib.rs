//! Images of other sizes and formats, as the image optimizer of Next.js makes them: decoded,
//! turned, scaled and encoded within bounds of pixels, memory and time.
//!
//! `kind` tells what bytes are, `decode` reads them, after their header was checked against the
//! bounds, `scale` makes them smaller, `webp` and `jpeg` encode them. `workers` has the threads on
//! which that happens. Knows nothing of routes and requests.

mod colour;
mod decode;
mod exif;
mod jpeg;
mod kind;
mod pixels;
mod scale;
#[cfg(test)]
mod tests;
mod transform;
#[expect(
    unsafe_code,
    reason = "libwebp is a C library; its calls are wrapped in this module alone"
)]
mod webp;
mod workers;

use self::pixels::Pixels;
pub use self::{
    kind::{Kind, is_animated},
    transform::{Bounds, ImageError, OutputFormat, TargetImage, transform},
    workers::{QueueFull, Workers},
};
