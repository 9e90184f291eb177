//! Blocks of pixels from their frequencies, by the integer arithmetic of libjpeg, at the size of a
//! block or at a half, a quarter or an eighth of it.

use crate::wide::Work;

/// Bits of fractions in constants.
const BITS: u32 = 13;

/// Bits of fractions between the two passes.
const PASS: u32 = 2;

const F_0_211: i32 = 1730;
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_509: i32 = 4176;
const F_0_541: i32 = 4433;
const F_0_601: i32 = 4926;
const F_0_720: i32 = 5906;
const F_0_765: i32 = 6270;
const F_0_850: i32 = 6967;
const F_0_899: i32 = 7373;
const F_1_061: i32 = 8697;
const F_1_175: i32 = 9633;
const F_1_272: i32 = 10426;
const F_1_451: i32 = 11893;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_172: i32 = 17799;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;
const F_3_624: i32 = 29692;

/// Frequencies of a block, in rows, already multiplied by their quantisation.
pub(super) type Block = [Lanes<8>; 8];

/// Values side by side, on which the same is done.
#[derive(Clone, Copy)]
pub(super) struct Lanes<const N: usize>(pub(super) [i32; N]);

impl<const N: usize> Lanes<N> {
    #[inline(always)]
    fn with(mut self, other: Self, combine: impl Fn(i32, i32) -> i32) -> Self {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = combine(*own, other);
        }
        self
    }
}

macro_rules! operator {
    ($name:ident, $function:ident, $operation:path) => {
        impl<const N: usize> std::ops::$name for Lanes<N> {
            type Output = Self;

            #[inline(always)]
            fn $function(self, other: Self) -> Self {
                self.with(other, $operation)
            }
        }
    };
}

operator!(Add, add, i32::wrapping_add);
operator!(Sub, sub, i32::wrapping_sub);

impl<const N: usize> std::ops::Mul<i32> for Lanes<N> {
    type Output = Self;

    #[inline(always)]
    fn mul(self, by: i32) -> Self {
        self.with(Self([by; N]), i32::wrapping_mul)
    }
}

#[inline(always)]
const fn descale(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
fn sample(value: i32) -> u8 {
    (value + 128).clamp(0, 255) as u8
}

/// Returns the pixel of a block that has only its first frequency.
pub(super) fn flat(dc: i32) -> u8 {
    sample(descale(dc, 3))
}

/// Pixels of a block at `size` × `size` (1, 2, 4 or 8), to be written to `out`, whose rows are
/// `stride` apart.
pub(super) struct Inverse<'o> {
    pub(super) block: &'o Block,
    pub(super) size: usize,
    pub(super) out: &'o mut [u8],
    pub(super) stride: usize,
}

impl Work for Inverse<'_> {
    #[inline(always)]
    fn work(self) {
        let Self {
            block,
            size,
            out,
            stride,
        } = self;
        match size {
            1 => out[0] = flat(block[0].0[0]),
            2 => {
                let turned = turn(descale_all(two_values(*block), BITS - PASS + 2));
                write(two_values(turned), BITS + PASS + 3 + 2, out, stride);
            }
            4 => {
                let turned = turn(descale_all(four_values(*block), BITS - PASS + 1));
                write(four_values(turned), BITS + PASS + 3 + 1, out, stride);
            }
            _ => {
                let turned = turn(descale_all(eight_values(*block), BITS - PASS));
                write(eight_values(turned), BITS + PASS + 3, out, stride);
            }
        }
    }
}

#[inline(always)]
fn descale_all<const N: usize>(mut rows: [Lanes<8>; N], bits: u32) -> [Lanes<8>; N] {
    for row in &mut rows {
        for value in &mut row.0 {
            *value = descale(*value, bits);
        }
    }
    rows
}

/// Makes columns of rows.
#[inline(always)]
fn turn<const N: usize>(rows: [Lanes<8>; N]) -> [Lanes<N>; 8] {
    let mut turned = [Lanes([0; N]); 8];
    for (column, turned) in turned.iter_mut().enumerate() {
        for (row, to) in turned.0.iter_mut().enumerate() {
            *to = rows[row].0[column];
        }
    }
    turned
}

/// Writes pixels, which come in columns.
#[inline(always)]
fn write<const N: usize>(columns: [Lanes<N>; N], bits: u32, out: &mut [u8], stride: usize) {
    for row in 0..N {
        let out = &mut out[row * stride..][..N];
        for (column, to) in out.iter_mut().enumerate() {
            *to = sample(descale(columns[column].0[row], bits));
        }
    }
}

/// Transforms eight values; the results have `BITS` more bits of fractions.
#[inline(always)]
fn eight_values<const N: usize>(v: [Lanes<N>; 8]) -> [Lanes<N>; 8] {
    let one = 1 << BITS;
    let z1 = (v[2] + v[6]) * F_0_541;
    let low = z1 - v[6] * F_1_847;
    let high = z1 + v[2] * F_0_765;
    let sum = (v[0] + v[4]) * one;
    let difference = (v[0] - v[4]) * one;
    let even = [sum + high, difference + low, difference - low, sum - high];
    let (seventh, fifth, third, first) = (v[7], v[5], v[3], v[1]);
    let z5 = (seventh + third + fifth + first) * F_1_175;
    let z1 = (seventh + first) * F_0_899;
    let z2 = (fifth + third) * F_2_562;
    let z3 = z5 - (seventh + third) * F_1_961;
    let z4 = z5 - (fifth + first) * F_0_390;
    let odd = [
        first * F_1_501 - z1 + z4,
        third * F_3_072 - z2 + z3,
        fifth * F_2_053 - z2 + z4,
        seventh * F_0_298 - z1 + z3,
    ];
    [
        even[0] + odd[0],
        even[1] + odd[1],
        even[2] + odd[2],
        even[3] + odd[3],
        even[3] - odd[3],
        even[2] - odd[2],
        even[1] - odd[1],
        even[0] - odd[0],
    ]
}

/// Transforms the values that count for four: all but the fifth.
#[inline(always)]
fn four_values<const N: usize>(v: [Lanes<N>; 8]) -> [Lanes<N>; 4] {
    let base = v[0] * (2 << BITS);
    let even = v[2] * F_1_847 - v[6] * F_0_765;
    let inner = v[5] * F_1_451 - v[7] * F_0_211 - v[3] * F_2_172 + v[1] * F_1_061;
    let outer = v[3] * F_0_899 - v[7] * F_0_509 - v[5] * F_0_601 + v[1] * F_2_562;
    let (sum, difference) = (base + even, base - even);
    [
        sum + outer,
        difference + inner,
        difference - inner,
        sum - outer,
    ]
}

/// Transforms the values that count for two: the first and the odd ones.
#[inline(always)]
fn two_values<const N: usize>(v: [Lanes<N>; 8]) -> [Lanes<N>; 2] {
    let base = v[0] * (4 << BITS);
    let odd = v[5] * F_0_850 - v[7] * F_0_720 - v[3] * F_1_272 + v[1] * F_3_624;
    [base + odd, base - odd]
}
