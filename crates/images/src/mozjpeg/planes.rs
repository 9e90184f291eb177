//! Planes of brightness and colour, and their frequencies: the steps before anything is lost but
//! half of the colours' resolution.

use super::ZIGZAG;
use crate::{Pixels, wide};

/// Steps of quantisation at quality 50, from low frequencies to high, for brightness and colours:
/// the fourth of mozjpeg's tables, which Next.js uses.
const STEPS: [u16; 64] = [
    16, 16, 16, 16, 17, 16, 18, 20, 20, 18, 25, 27, 24, 27, 25, 37, 34, 31, 31, 34, 37, 56, 40, 43,
    40, 43, 40, 56, 85, 53, 62, 53, 53, 62, 53, 85, 75, 91, 74, 69, 74, 91, 75, 135, 106, 94, 94,
    106, 135, 156, 131, 124, 131, 156, 189, 169, 169, 189, 238, 226, 238, 311, 311, 418,
];

/// Samples of one component, in whole blocks.
pub(super) struct Plane {
    data: Vec<u8>,
    /// Blocks of the image in each direction.
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// Returns the steps at a quality.
pub(super) fn quantisation(quality: u8) -> [u16; 64] {
    let quality = u32::from(quality.clamp(1, 100));
    let percent = if quality < 50 {
        5000 / quality
    } else {
        200 - quality * 2
    };
    let scaled = STEPS.map(|step| (u32::from(step) * percent + 50) / 100);
    scaled.map(|step| u16::from(u8::try_from(step).unwrap_or(u8::MAX).max(1)))
}

impl Plane {
    fn new(width: usize, height: usize) -> Self {
        let (columns, rows) = (width.div_ceil(8), height.div_ceil(8));
        Self {
            data: vec![0; columns * rows * 64],
            columns,
            rows,
        }
    }

    fn stride(&self) -> usize {
        self.columns * 8
    }

    /// Fills what is below the image with copies of its last row.
    fn fill_below(&mut self, height: usize) {
        let stride = self.stride();
        let (filled, rest) = self.data.split_at_mut(height * stride);
        let last = &filled[(height - 1) * stride..];
        for row in rest.chunks_mut(stride) {
            row.copy_from_slice(last);
        }
    }
}

/// Parts of red, green and blue in the brightness, as 65,536ths.
const BRIGHTNESS: [i32; 3] = [19_595, 38_470, 7471];

/// Parts of the others in both colours, and that of a colour itself.
const BLUENESS: [i32; 2] = [-11_059, -21_709];
const REDNESS: [i32; 2] = [-27_439, -5329];
const OWN: i32 = 1 << 15;

/// Half of a step of the result.
const HALF: i32 = 1 << 15;

/// Middle of the colours' samples.
const MIDDLE: i32 = 128 << 16;

/// Returns brightness and both colours of RGB, the colours at half the size.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sums of weighted bytes are bytes"
)]
pub(super) fn of(pixels: &Pixels) -> [Plane; 3] {
    let (width, height) = (pixels.width as usize, pixels.height as usize);
    let mut brightness = Plane::new(width, height);
    let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
    let mut colours = [(); 2].map(|()| Plane::new(half_width, half_height));
    let stride = brightness.stride();
    let half_stride = colours[0].stride();
    // Two rows of each colour, with copies of the last sample up to whole blocks.
    let mut whole = [(); 2].map(|()| [vec![0u8; half_stride * 2], vec![0u8; half_stride * 2]]);
    for y in 0..height {
        let (row, _) = pixels.data[y * width * 3..][..width * 3].as_chunks::<3>();
        let out = &mut brightness.data[y * stride..][..width];
        for (to, [red, green, blue]) in out.iter_mut().zip(row) {
            let [red, green, blue] = [red, green, blue].map(|it| i32::from(*it));
            let sum = BRIGHTNESS[0] * red + BRIGHTNESS[1] * green + BRIGHTNESS[2] * blue;
            *to = ((sum + HALF) >> 16) as u8;
        }
        let [blueness, redness] = &mut whole;
        let out = blueness[y % 2].iter_mut().zip(&mut redness[y % 2]);
        for ((to_blue, to_red), [red, green, blue]) in out.zip(row) {
            let [red, green, blue] = [red, green, blue].map(|it| i32::from(*it));
            let offset = MIDDLE + HALF - 1;
            let sum = OWN * blue + BLUENESS[0] * red + BLUENESS[1] * green;
            *to_blue = ((sum + offset) >> 16) as u8;
            let sum = OWN * red + REDNESS[0] * green + REDNESS[1] * blue;
            *to_red = ((sum + offset) >> 16) as u8;
        }
        for rows in &mut whole {
            let (row, beside) = rows[y % 2].split_at_mut(width);
            beside.fill(row[width - 1]);
            if y + 1 == height && y % 2 == 0 {
                let [first, second] = rows;
                second.copy_from_slice(first);
            }
        }
        if y % 2 == 1 || y + 1 == height {
            for (plane, rows) in colours.iter_mut().zip(&whole) {
                halve(&mut plane.data[y / 2 * half_stride..][..half_stride], rows);
            }
        }
    }
    for row in brightness.data.chunks_mut(stride).take(height) {
        let (row, beside) = row.split_at_mut(width);
        beside.fill(row[width - 1]);
    }
    brightness.fill_below(height);
    for plane in &mut colours {
        plane.fill_below(half_height);
    }
    let [blueness, redness] = colours;
    [brightness, blueness, redness]
}

/// Averages squares of four samples, rounded down and up in turn.
#[expect(clippy::cast_possible_truncation, reason = "the average of bytes")]
fn halve(out: &mut [u8], [upper, lower]: &[Vec<u8>; 2]) {
    let (upper, _) = upper.as_chunks::<2>();
    let (lower, _) = lower.as_chunks::<2>();
    for (at, ((to, a), b)) in out.iter_mut().zip(upper).zip(lower).enumerate() {
        let sum: u16 = a.iter().chain(b).map(|sample| u16::from(*sample)).sum();
        *to = ((sum + 1 + (at as u16 & 1)) >> 2) as u8;
    }
}

/// Returns the frequencies of each block, from low to high, eight times as large as they are.
pub(super) fn frequencies(plane: &Plane, first_step: u16) -> Vec<[i16; 64]> {
    let mut out = vec![[0; 64]; plane.columns * plane.rows];
    wide::run(Frequencies {
        plane,
        first_step,
        out: &mut out,
    });
    out
}

struct Frequencies<'p> {
    plane: &'p Plane,
    first_step: u16,
    out: &'p mut [[i16; 64]],
}

impl wide::Work for Frequencies<'_> {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "frequencies of bytes")]
    fn work(self) {
        let stride = self.plane.stride();
        let rows = self.plane.data.chunks_exact(stride * 8);
        for (row, out) in rows.zip(self.out.chunks_exact_mut(self.plane.columns)) {
            for (column, out) in out.iter_mut().enumerate() {
                let mut block = [[0i32; 8]; 8];
                for (y, line) in block.iter_mut().enumerate() {
                    let samples = &row[y * stride + column * 8..][..8];
                    for (to, sample) in line.iter_mut().zip(samples) {
                        *to = i32::from(*sample) - 128;
                    }
                }
                overshoot(&mut block, self.first_step);
                let block = transform(block);
                for (to, place) in out.iter_mut().zip(ZIGZAG) {
                    *to = block[usize::from(place) / 8][usize::from(place) % 8] as i16;
                }
            }
        }
    }
}

/// Largest sample.
const WHITE: i32 = 127;

/// Lets runs of white rise above it, in a curve that continues their surroundings: decoders cut
/// what is too much, and the edges ring less.
#[inline(always)]
fn overshoot(block: &mut [[i32; 8]; 8], first_step: u16) {
    let samples = block.as_flattened_mut();
    let count = samples.iter().filter(|sample| **sample >= WHITE).count();
    if count == 0 || count == 64 {
        return;
    }
    curve(samples, count, i32::from(first_step));
}

#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "samples of one block"
)]
fn curve(samples: &mut [i32], count: usize, first_step: i32) {
    let sum: i32 = samples.iter().sum();
    let room = (WHITE * 64 - sum) / count as i32;
    let most = WHITE + room.min(31.min(2 * first_step));
    let place = |at: usize| usize::from(ZIGZAG[at]);
    let mut at = 0;
    while at < 64 {
        if samples[place(at)] < WHITE {
            at += 1;
            continue;
        }
        let start = at;
        while at < 64 && samples[place(at)] >= WHITE {
            at += 1;
        }
        let before = [start.saturating_sub(1), start.saturating_sub(2)];
        let before = before.map(|at| samples[place(at)]);
        // The sample two before is the first one if there is only one before.
        let after = [at.min(63), if at < 62 { at + 1 } else { 63 }];
        let after = after.map(|at| samples[place(at)]);
        let mut rise = (before[0] - before[1]).max(WHITE - before[0]);
        let mut fall = (after[0] - after[1]).max(WHITE - after[0]);
        if start == 0 {
            rise = fall;
        }
        if at == 64 {
            fall = rise;
        }
        let length = (at - start) as i32;
        let step = 1.0 / (length + 1) as f32;
        let mut position = step;
        for at in start..at {
            let value = catmull_rom(WHITE - rise, WHITE - fall, position, length).ceil();
            samples[place(at)] = (value as i32).min(most);
            position += step;
        }
        at += 1;
    }
}

/// Returns the value of a curve from white to white, at `at` from 0 to 1; `before` and `after` are
/// the values around them.
#[expect(clippy::cast_precision_loss, reason = "samples and lengths of a block")]
fn catmull_rom(before: i32, after: i32, at: f32, length: i32) -> f32 {
    let first = ((WHITE - before) * length) as f32;
    let last = ((after - WHITE) * length) as f32;
    let square = at * at;
    let cube = square * at;
    let white = WHITE as f32;
    white * (2.0 * cube - 3.0 * square + 1.0)
        + first * (cube - 2.0 * square + at)
        + white * (-2.0 * cube + 3.0 * square)
        + last * (cube - square)
}

type Lanes = [i32; 8];

#[inline(always)]
fn lanes(mut make: impl FnMut(usize) -> i32) -> Lanes {
    let mut lanes = [0; 8];
    for (at, lane) in lanes.iter_mut().enumerate() {
        *lane = make(at);
    }
    lanes
}

#[inline(always)]
fn transposed(block: [Lanes; 8]) -> [Lanes; 8] {
    let mut out = [[0; 8]; 8];
    for (y, line) in block.iter().enumerate() {
        for (x, value) in line.iter().enumerate() {
            out[x][y] = *value;
        }
    }
    out
}

/// Cosine transform in both directions, as libjpeg's accurate one.
#[inline(always)]
fn transform(block: [Lanes; 8]) -> [Lanes; 8] {
    let rows = pass::<11, 2>(transposed(block));
    pass::<15, -2>(transposed(rows))
}

/// Transforms columns; results are shifted right by `DOWN`, and those without a factor left by
/// `UP`.
#[inline(always)]
fn pass<const DOWN: i32, const UP: i32>(b: [Lanes; 8]) -> [Lanes; 8] {
    let sum = |x: usize, y: usize| lanes(|at| b[x][at] + b[y][at]);
    let difference = |x: usize, y: usize| lanes(|at| b[x][at] - b[y][at]);
    let (t0, t1, t2, t3) = (sum(0, 7), sum(1, 6), sum(2, 5), sum(3, 4));
    let (t7, t6, t5, t4) = (
        difference(0, 7),
        difference(1, 6),
        difference(2, 5),
        difference(3, 4),
    );
    let plain = |value: i32| {
        if UP > 0 {
            value << UP
        } else {
            (value + (1 << (-UP - 1))) >> -UP
        }
    };
    let down = |value: i32| (value + (1 << (DOWN - 1))) >> DOWN;
    let t10 = lanes(|at| t0[at] + t3[at]);
    let t13 = lanes(|at| t0[at] - t3[at]);
    let t11 = lanes(|at| t1[at] + t2[at]);
    let t12 = lanes(|at| t1[at] - t2[at]);
    let even = lanes(|at| (t12[at] + t13[at]) * 4433);
    let z1 = lanes(|at| (t4[at] + t7[at]) * -7373);
    let z2 = lanes(|at| (t5[at] + t6[at]) * -20_995);
    let z5 = lanes(|at| (t4[at] + t6[at] + t5[at] + t7[at]) * 9633);
    let z3 = lanes(|at| (t4[at] + t6[at]) * -16_069 + z5[at]);
    let z4 = lanes(|at| (t5[at] + t7[at]) * -3196 + z5[at]);
    [
        lanes(|at| plain(t10[at] + t11[at])),
        lanes(|at| down(t7[at] * 12_299 + z1[at] + z4[at])),
        lanes(|at| down(even[at] + t13[at] * 6270)),
        lanes(|at| down(t6[at] * 25_172 + z2[at] + z3[at])),
        lanes(|at| plain(t10[at] - t11[at])),
        lanes(|at| down(t5[at] * 16_819 + z2[at] + z4[at])),
        lanes(|at| down(even[at] - t12[at] * 15_137)),
        lanes(|at| down(t4[at] * 2446 + z1[at] + z3[at])),
    ]
}
