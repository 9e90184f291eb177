//! Rows of an image from the planes of its components, which may have fewer samples.

use super::idct;
use crate::wide::{self, Work};

/// Samples of one component.
pub(super) struct Plane {
    pub(super) data: Vec<u8>,
    pub(super) stride: usize,
    /// Samples that are part of the image.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Pixels for each sample.
    pub(super) across: usize,
    pub(super) down: usize,
    /// True if samples between are interpolated.
    pub(super) is_smooth: bool,
}

impl Plane {
    /// Writes a block at its place.
    pub(super) fn put(&mut self, block: &idct::Block, size: usize, (column, row): (usize, usize)) {
        let at = row * size * self.stride + column * size;
        wide::run(idct::Inverse {
            block,
            size,
            out: &mut self.data[at..],
            stride: self.stride,
        });
    }

    /// Writes a block of one value.
    pub(super) fn put_flat(&mut self, dc: i32, size: usize, (column, row): (usize, usize)) {
        let at = row * size * self.stride + column * size;
        let value = idct::flat(dc);
        for row in self.data[at..].chunks_mut(self.stride).take(size) {
            row[..size].fill(value);
        }
    }

    fn row(&self, at: usize) -> &[u8] {
        &self.data[at.min(self.height - 1) * self.stride..][..self.width]
    }

    /// Writes row `at` of the image, as libjpeg makes it. `out` has room for all samples of the
    /// plane.
    pub(super) fn upsample(&self, at: usize, sums: &mut Vec<u16>, out: &mut [u8]) {
        match (self.across, self.down) {
            (1, 1) => copy(self.row(at), out),
            (2, 1) if self.is_smooth && self.width > 2 => self.twice_across(at, out),
            (1, 2) if self.is_smooth => self.twice_down(at, out),
            (2, 2) if self.is_smooth && self.width > 2 => self.twice(at, sums, out),
            (across, down) => {
                for (out, sample) in out.chunks_mut(across).zip(self.row(at / down)) {
                    out.fill(*sample);
                }
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "averages of bytes")]
    fn twice_across(&self, at: usize, out: &mut [u8]) {
        let row = self.row(at);
        let last = row.len() - 1;
        for (index, out) in out.chunks_mut(2).take(row.len()).enumerate() {
            let here = u16::from(row[index]) * 3;
            let before = u16::from(row[index.saturating_sub(1)]);
            let after = u16::from(row[(index + 1).min(last)]);
            // At the ends this is the sample itself.
            out[0] = ((here + before + 1) >> 2) as u8;
            if let Some(second) = out.get_mut(1) {
                *second = ((here + after + 2) >> 2) as u8;
            }
        }
    }

    /// Returns the row of samples for row `at`, and the one that counts for a quarter.
    fn near_and_far(&self, at: usize) -> (&[u8], &[u8]) {
        let near = at / 2;
        let far = if at.is_multiple_of(2) {
            near.saturating_sub(1)
        } else {
            (near + 1).min(self.height - 1)
        };
        (self.row(near), self.row(far))
    }

    #[expect(clippy::cast_possible_truncation, reason = "averages of bytes")]
    fn twice_down(&self, at: usize, out: &mut [u8]) {
        let (near, far) = self.near_and_far(at);
        let bias = if at.is_multiple_of(2) { 1 } else { 2 };
        for (out, (near, far)) in out.iter_mut().zip(near.iter().zip(far)) {
            *out = ((u16::from(*near) * 3 + u16::from(*far) + bias) >> 2) as u8;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "averages of bytes")]
    fn twice(&self, at: usize, sums: &mut Vec<u16>, out: &mut [u8]) {
        let (near, far) = self.near_and_far(at);
        // One more at each end, like the last.
        sums.clear();
        sums.push(0);
        sums.extend(
            near.iter()
                .zip(far)
                .map(|(near, far)| u16::from(*near) * 3 + u16::from(*far)),
        );
        sums[0] = sums[1];
        let last = sums[sums.len() - 1];
        sums.push(last);
        let triples = sums.windows(3);
        for (out, three) in out.chunks_mut(2).zip(triples) {
            out[0] = ((three[1] * 3 + three[0] + 8) >> 4) as u8;
            if let Some(second) = out.get_mut(1) {
                *second = ((three[1] * 3 + three[2] + 7) >> 4) as u8;
            }
        }
    }
}

fn copy(row: &[u8], out: &mut [u8]) {
    let length = row.len().min(out.len());
    out[..length].copy_from_slice(&row[..length]);
}

/// RGB pixels from rows of luminance and two chrominances, by the arithmetic of libjpeg.
pub(super) struct ToRgb<'r> {
    pub(super) rows: [&'r [u8]; 3],
    pub(super) out: &'r mut [u8],
}

impl Work for ToRgb<'_> {
    #[inline(always)]
    #[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
    fn work(self) {
        const HALF: i32 = 1 << 15;
        let (out, _) = self.out.as_chunks_mut::<3>();
        let [y, cb, cr] = self.rows.map(|row| &row[..out.len()]);
        for (at, out) in out.iter_mut().enumerate() {
            let y = i32::from(y[at]);
            let (cb, cr) = (i32::from(cb[at]) - 128, i32::from(cr[at]) - 128);
            let red = y + ((91881 * cr + HALF) >> 16);
            let green = y + ((-22554 * cb - 46802 * cr + HALF) >> 16);
            let blue = y + ((116_130 * cb + HALF) >> 16);
            *out = [
                red.clamp(0, 255) as u8,
                green.clamp(0, 255) as u8,
                blue.clamp(0, 255) as u8,
            ];
        }
    }
}
