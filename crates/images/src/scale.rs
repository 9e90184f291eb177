//! Images of smaller sizes, by the arithmetic of libvips, so that results are those of the image
//! optimizer of Next.js to the bit: rows first and then columns; whole pixels are averaged as long
//! as at least a factor of two is left, which a Lanczos filter of three lobes does.

use std::f64::consts::PI;

use crate::{
    Channels, Pixels,
    wide::{self, Work},
};

/// Positions between two pixels that filters are computed for.
const PHASES: usize = 64;

/// Bits of fractions in weights.
const WEIGHT_BITS: u32 = 12;

/// Lobes of the filter on each side.
const LOBES: f64 = 3.0;

/// Factor that averaging leaves to the filter.
const GAP: f64 = 2.0;

/// Rows of the result that libvips makes at a time of a file that it reads from top to bottom, as
/// Next.js has it read: a run of [`Plan::taps`]. A row of pixels is one run.
const STRIP: usize = 10;

/// Rows that are filtered at a time, side by side.
const LANES: usize = 8;

/// Returns the image made smaller by these factors, which are at least 1.
pub(crate) fn shrink(pixels: Pixels, across: f64, down: f64) -> Pixels {
    if across <= 1.0 && down <= 1.0 {
        return pixels;
    }
    // Libvips is told the inverse, and inverts it again: where a pixel lies between two phases of
    // the filter, the last bit decides.
    let (across, down) = (1.0 / (1.0 / across), 1.0 / (1.0 / down));
    match pixels.channels {
        Channels::Grey => shrink_of::<1>(pixels, across, down),
        Channels::GreyAlpha => shrink_of::<2>(premultiplied::<2>(pixels), across, down),
        Channels::Rgb => shrink_of::<3>(pixels, across, down),
        Channels::Rgba => shrink_of::<4>(premultiplied::<4>(pixels), across, down),
    }
}

fn shrink_of<const N: usize>(pixels: Pixels, across: f64, down: f64) -> Pixels {
    let has_alpha = pixels.channels.has_alpha();
    let pixels = if down > 1.0 {
        let plan = Plan::new(pixels.height as usize, down);
        let averaged = average_rows(pixels, plan.average);
        filter_rows(averaged, &plan)
    } else {
        pixels
    };
    let pixels = if across > 1.0 {
        let plan = Plan::new(pixels.width as usize, across);
        let averaged = average_columns::<N>(pixels, plan.average);
        filter_columns::<N>(averaged, &plan)
    } else {
        pixels
    };
    if has_alpha {
        divided::<N>(pixels)
    } else {
        pixels
    }
}

/// Direction of an image, and the steps by which it becomes smaller.
#[derive(Debug)]
struct Plan {
    /// Pixels afterwards.
    length: usize,
    /// Pixels that are averaged first.
    average: usize,
    /// Factor of the filter; 1 if there is nothing left for it.
    factor: f64,
    offset: f64,
    points: usize,
    /// Weights for each phase.
    weights: Vec<Vec<i16>>,
}

impl Plan {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "lengths of images are far below 2^31"
    )]
    fn new(before: usize, factor: f64) -> Self {
        let length = ((before as f64 / factor + 0.5) as usize).max(1);
        let invented = length as f64 * factor - before as f64;
        let average = ((before as f64 / length as f64 / GAP) as usize).max(1);
        let (factor, invented) = (factor / average as f64, invented / average as f64);
        let points = 2 * (LOBES * factor).round_ties_even() as usize + 1;
        let phases = (0..=PHASES).map(|phase| phase as f64 / PHASES as f64);
        Self {
            length,
            average,
            factor,
            offset: f64::midpoint(1.0, invented) - 1.0,
            points,
            weights: phases.map(|phase| weights(points, factor, phase)).collect(),
        }
    }

    /// Returns the first pixel under the filter, which may be before the image, and the weights
    /// for each pixel of the result. Libvips computes the place of the first pixel of each `run`, and
    /// adds the factor for the next ones: where a place lies between two phases, its last bit
    /// decides.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        clippy::cast_possible_wrap,
        reason = "lengths of images are far below 2^31"
    )]
    fn taps(&self, run: usize) -> impl Iterator<Item = (isize, &[i16])> {
        let before = self.points.div_ceil(2) as isize - 1;
        let mut place = 0.0;
        (0..self.length).map(move |at| {
            if at % run == 0 {
                place = (at as f64 + 0.5) * self.factor - 0.5 - self.offset;
            } else {
                place += self.factor;
            }
            let twice = (place * (PHASES * 2) as f64) as i64 as usize & (PHASES * 2 - 1);
            let phase = twice.div_ceil(2);
            (place as isize - before, self.weights[phase].as_slice())
        })
    }
}

/// Returns the weights of a Lanczos filter.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "weights are below 2 in sum"
)]
fn weights(points: usize, factor: f64, phase: f64) -> Vec<i16> {
    let sinc = |x: f64| {
        if x == 0.0 {
            1.0
        } else {
            (x * PI).sin() / (x * PI)
        }
    };
    let middle = phase + points as f64 / 2.0 - 1.0;
    let exact: Vec<f64> = (0..points)
        .map(|point| {
            let x = (point as f64 - middle) / factor;
            if x.abs() <= LOBES {
                sinc(x) * sinc(x / LOBES)
            } else {
                0.0
            }
        })
        .collect();
    let sum: f64 = exact.iter().sum();
    let scale = f64::from(1 << WEIGHT_BITS);
    exact
        .iter()
        .map(|weight| (weight / sum * scale) as i16)
        .collect()
}

/// Averages without a division: exactly as libvips does.
#[derive(Clone, Copy)]
struct Average {
    half: u32,
    multiplier: u32,
}

impl Average {
    #[expect(clippy::cast_possible_truncation, reason = "the count is at least 2")]
    fn of(count: usize) -> Self {
        Self {
            half: count as u32 / 2,
            multiplier: ((1u64 << 24) / count as u64) as u32,
        }
    }

    fn finish(self, sum: u32) -> u8 {
        ((sum + self.half).wrapping_mul(self.multiplier) >> 24) as u8
    }
}

/// Averages `count` rows into one. Below the last row there are more like it.
fn average_rows(pixels: Pixels, count: usize) -> Pixels {
    if count == 1 {
        return pixels;
    }
    let stride = pixels.stride();
    let last = pixels.height as usize - 1;
    let height = pixels
        .height
        .div_ceil(u32::try_from(count).unwrap_or(u32::MAX));
    let average = Average::of(count);
    let mut data = Vec::with_capacity(stride * height as usize);
    let mut sums = vec![0u32; stride];
    for first in (0..=last).step_by(count) {
        sums.fill(0);
        for row in first..first + count {
            let row = &pixels.data[row.min(last) * stride..][..stride];
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += u32::from(*sample);
            }
        }
        data.extend(sums.iter().map(|sum| average.finish(*sum)));
    }
    Pixels {
        height,
        data,
        ..pixels
    }
}

/// Averages `count` pixels of each row into one. Behind the last pixel there are more like it.
fn average_columns<const N: usize>(pixels: Pixels, count: usize) -> Pixels {
    if count == 1 {
        return pixels;
    }
    let width = pixels
        .width
        .div_ceil(u32::try_from(count).unwrap_or(u32::MAX));
    let average = Average::of(count);
    let mut data = Vec::with_capacity(width as usize * pixels.height as usize * N);
    for row in pixels.data.chunks_exact(pixels.stride()) {
        let (row, _) = row.as_chunks::<N>();
        for block in row.chunks(count) {
            let mut sums = [0u32; N];
            let missing = count - block.len();
            let filled = block
                .iter()
                .chain(std::iter::repeat_n(&block[block.len() - 1], missing));
            for pixel in filled {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += u32::from(*sample);
                }
            }
            data.extend(sums.map(|sum| average.finish(sum)));
        }
    }
    Pixels {
        width,
        data,
        ..pixels
    }
}

/// Begin of each sum: it is rounded at its end.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
fn finish(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

fn filter_rows(pixels: Pixels, plan: &Plan) -> Pixels {
    if plan.factor <= 1.0 {
        return pixels;
    }
    let mut data = vec![0; pixels.stride() * plan.length];
    wide::run(FilterRows {
        pixels: &pixels,
        plan,
        out: &mut data,
    });
    Pixels {
        height: u32::try_from(plan.length).unwrap_or(u32::MAX),
        data,
        ..pixels
    }
}

struct FilterRows<'p> {
    pixels: &'p Pixels,
    plan: &'p Plan,
    out: &'p mut [u8],
}

impl Work for FilterRows<'_> {
    #[inline(always)]
    fn work(self) {
        let stride = self.pixels.stride();
        let last = self.pixels.height.cast_signed() as isize - 1;
        let data = &self.pixels.data;
        let row = |at: isize| &data[at.clamp(0, last).cast_unsigned() * stride..][..stride];
        let mut sums = vec![0i32; stride];
        for (out, (first, weights)) in self.out.chunks_mut(stride).zip(self.plan.taps(STRIP)) {
            sums.fill(HALF);
            let (fours, rest) = weights.as_chunks::<4>();
            let mut at = first;
            for weights in fours {
                let rows = [row(at), row(at + 1), row(at + 2), row(at + 3)];
                add_rows(&mut sums, rows, *weights);
                at += 4;
            }
            for weight in rest {
                add_rows(&mut sums, [row(at)], [*weight]);
                at += 1;
            }
            for (to, sum) in out.iter_mut().zip(&sums) {
                *to = finish(*sum);
            }
        }
    }
}

#[inline(always)]
fn add_rows<const N: usize>(sums: &mut [i32], rows: [&[u8]; N], weights: [i16; N]) {
    let length = sums.len();
    let mut rows = rows;
    for row in &mut rows {
        *row = &row[..length];
    }
    for at in 0..length {
        let mut sum = sums[at];
        for (row, weight) in rows.iter().zip(weights) {
            sum += i32::from(row[at]) * i32::from(weight);
        }
        sums[at] = sum;
    }
}

fn filter_columns<const N: usize>(pixels: Pixels, plan: &Plan) -> Pixels {
    if plan.factor <= 1.0 {
        return pixels;
    }
    let mut data = vec![0; plan.length * pixels.height as usize * N];
    wide::run(FilterColumns::<N> {
        pixels: &pixels,
        plan,
        out: &mut data,
    });
    Pixels {
        width: u32::try_from(plan.length).unwrap_or(u32::MAX),
        data,
        ..pixels
    }
}

struct FilterColumns<'p, const N: usize> {
    pixels: &'p Pixels,
    plan: &'p Plan,
    out: &'p mut [u8],
}

impl<const N: usize> Work for FilterColumns<'_, N> {
    #[inline(always)]
    fn work(self) {
        let Self { pixels, plan, out } = self;
        let (width, before) = (pixels.width as usize, plan.points);
        // Some rows side by side, with pixels like the first and the last around them: a step of
        // the filter is then the same for all.
        let mut lanes = vec![[[0u8; LANES]; N]; width + 2 * before + 1];
        let taps: Vec<(usize, &[i16])> = plan
            .taps(usize::MAX)
            .map(|(first, weights)| {
                let first = first.saturating_add_unsigned(before);
                (first.max(0).cast_unsigned(), weights)
            })
            .collect();
        let stride = pixels.stride();
        for (block, out) in out.chunks_mut(plan.length * N * LANES).enumerate() {
            let rows = out.len() / (plan.length * N);
            for lane in 0..rows {
                let row = &pixels.data[(block * LANES + lane) * stride..][..stride];
                let (row, _) = row.as_chunks::<N>();
                spread(&mut lanes, row, before, lane);
            }
            for (at, (first, weights)) in taps.iter().enumerate() {
                let mut sums = [[HALF; LANES]; N];
                let pixels = &lanes[*first..][..weights.len()];
                for (pixel, weight) in pixels.iter().zip(*weights) {
                    for channel in 0..N {
                        for lane in 0..LANES {
                            sums[channel][lane] +=
                                i32::from(pixel[channel][lane]) * i32::from(*weight);
                        }
                    }
                }
                for lane in 0..rows {
                    let to = &mut out[(lane * plan.length + at) * N..][..N];
                    for channel in 0..N {
                        to[channel] = finish(sums[channel][lane]);
                    }
                }
            }
        }
    }
}

/// Puts the pixels of a row into a lane, with copies of the first and the last around them.
#[inline(always)]
fn spread<const N: usize>(
    lanes: &mut [[[u8; LANES]; N]],
    row: &[[u8; N]],
    before: usize,
    lane: usize,
) {
    let (Some(first), Some(last)) = (row.first(), row.last()) else {
        return;
    };
    let (left, rest) = lanes.split_at_mut(before);
    let (middle, right) = rest.split_at_mut(row.len());
    let around = [(left, first), (right, last)];
    for (pixel, to) in row.iter().zip(middle) {
        for channel in 0..N {
            to[channel][lane] = pixel[channel];
        }
    }
    for (place, pixel) in around {
        for to in place {
            for channel in 0..N {
                to[channel][lane] = pixel[channel];
            }
        }
    }
}

/// Multiplies the colours of each pixel by its alpha, so that invisible ones do not count.
fn premultiplied<const N: usize>(mut pixels: Pixels) -> Pixels {
    let (all, _) = pixels.data.as_chunks_mut::<N>();
    for pixel in all {
        let part = f32::from(pixel[N - 1]) / 255.0;
        scale_colours(pixel, part);
    }
    pixels
}

/// Reverts [`premultiplied`].
fn divided<const N: usize>(mut pixels: Pixels) -> Pixels {
    let (all, _) = pixels.data.as_chunks_mut::<N>();
    for pixel in all {
        let alpha = pixel[N - 1];
        let factor = if alpha == 0 {
            0.0
        } else {
            255.0 / f32::from(alpha)
        };
        scale_colours(pixel, factor);
    }
    pixels
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates"
)]
fn scale_colours<const N: usize>(pixel: &mut [u8; N], factor: f32) {
    for sample in &mut pixel[..N - 1] {
        *sample = (f32::from(*sample) * factor) as u8;
    }
}
