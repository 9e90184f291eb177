//! Choice of coefficients: of those near a frequency's exact value, the ones that are worth their
//! bits.

use super::entropy::Lengths;

/// Lengths of the codes for differences of the first coefficient (ITU-T T.81, K.3.1), for
/// brightness and for colours.
const FIRST: [[u8; 17]; 2] = [
    [2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0],
    [2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0],
];

/// Largest coefficient.
const MOST: i32 = (1 << 10) - 1;

/// Values of the first coefficient that are tried, at most.
const MAX_FIRST: usize = 9;

/// Cost above that of any choice.
const NEVER: f32 = 1e38;

/// Weights of an error against bits, as powers of 2.
const SCALES: [f64; 2] = [14.75, 16.5];

/// Quantiser of one component.
pub(super) struct Quantiser<'t> {
    table: &'t [u16; 64],
    lengths: Lengths,
    first: &'static [u8; 17],
    /// Weight of each frequency.
    weights: [f32; 64],
    scales: [f64; 2],
}

/// Value of the first coefficient that is tried for a block.
#[derive(Clone, Copy, Default)]
struct Trial {
    cost: f32,
    /// Trial of the block before.
    before: u8,
    value: i16,
}

/// Returns the nearest coefficients.
#[expect(clippy::cast_possible_truncation, reason = "clamped")]
pub(super) fn rounded(exact: &[i16; 64], table: &[u16; 64]) -> [i16; 64] {
    let mut out = [0; 64];
    for ((to, exact), step) in out.iter_mut().zip(exact).zip(table) {
        let step = i32::from(*step) * 8;
        let size = (i32::from(*exact).abs() + step / 2) / step;
        *to = (size.min(MOST) * i32::from(*exact).signum()) as i16;
    }
    out
}

/// Returns the number of bits of a number.
#[inline]
fn bits(number: u32) -> u32 {
    32 - number.leading_zeros()
}

impl<'t> Quantiser<'t> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a weight needs no more digits"
    )]
    pub(super) fn new(table: &'t [u16; 64], lengths: Lengths, is_colour: bool) -> Self {
        Self {
            table,
            lengths,
            first: &FIRST[usize::from(is_colour)],
            weights: table.map(|step| (1.0 / f64::from(u32::from(step) * u32::from(step))) as f32),
            scales: SCALES.map(f64::exp2),
        }
    }

    /// Quantises a row of blocks. Returns the first coefficient of the last one; `last` is that of
    /// the block before.
    pub(super) fn quantise(&self, blocks: &mut [[i16; 64]], exact: &[[i16; 64]], last: i16) -> i16 {
        let candidates = MAX_FIRST.min((2 + 60 / usize::from(self.table[0])) | 1);
        let mut trials = vec![[Trial::default(); MAX_FIRST]; blocks.len()];
        for at in 0..blocks.len() {
            let lambda = self.lambda(&exact[at]);
            let (before, own) = trials.split_at_mut(at);
            let before = before.last().map(|trials| &trials[..candidates]);
            self.try_first(
                &mut own[0][..candidates],
                before,
                exact[at][0],
                lambda * self.weights[0],
                last,
            );
            self.others(&mut blocks[at], &exact[at], lambda);
        }
        let mut chosen = 0;
        if let Some(trials) = trials.last() {
            for at in 1..candidates {
                if trials[at].cost < trials[chosen].cost {
                    chosen = at;
                }
            }
        }
        for (block, trials) in blocks.iter_mut().zip(&trials).rev() {
            block[0] = trials[chosen].value;
            chosen = usize::from(trials[chosen].before);
        }
        blocks.last().map_or(last, |block| block[0])
    }

    /// Returns the weight of errors in a block: those in a busy one are seen less.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a weight needs no more digits"
    )]
    fn lambda(&self, exact: &[i16; 64]) -> f32 {
        // In the order of rows: the sum depends on it.
        let mut sum = 0.0f32;
        for place in super::PLACES.iter().skip(1) {
            let value = i32::from(exact[usize::from(*place)]);
            sum += (value * value) as f32;
        }
        let mean = (f64::from(sum) / 63.0) as f32;
        (self.scales[0] / (self.scales[1] + f64::from(mean))) as f32
    }

    /// Tries values of the first coefficient, each after the best one of the block before.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        reason = "coefficients are small"
    )]
    fn try_first(
        &self,
        trials: &mut [Trial],
        before: Option<&[Trial]>,
        exact: i16,
        lambda: f32,
        last: i16,
    ) {
        let count = trials.len() as i32;
        let exact = i32::from(exact);
        let step = i32::from(self.table[0]) * 8;
        let nearest = (exact.abs() + step / 2) / step;
        let sign = if exact < 0 { -1 } else { 1 };
        let cost = |value: i16, before: i16| {
            let size = bits((i32::from(value) - i32::from(before)).unsigned_abs());
            size as i32 + i32::from(self.first[size as usize])
        };
        for (at, trial) in (0..).zip(trials) {
            let size = (nearest - count / 2 + at).clamp(-MOST, MOST);
            let error = size * step - exact.abs();
            let error = error.wrapping_mul(error) as f32 * lambda;
            trial.value = (size * sign) as i16;
            let Some(before) = before else {
                trial.cost = cost(trial.value, last) as f32 + error;
                continue;
            };
            for (at, before) in (0..).zip(before) {
                let cost = cost(trial.value, before.value) as f32 + error + before.cost;
                if at == 0 || cost < trial.cost {
                    trial.cost = cost;
                    trial.before = at;
                }
            }
        }
    }

    /// Chooses all coefficients but the first.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        reason = "coefficients are small"
    )]
    fn others(&self, block: &mut [i16; 64], exact: &[i16; 64], lambda: f32) {
        // Error up to a place if all is zero, cost up to a coefficient, and the one before it.
        let mut zeros = [0.0f32; 64];
        let mut costs = [0.0f32; 64];
        let mut before = [0u8; 64];
        // Places of coefficients that may be other than zero, and the first place.
        let mut places = [0u8; 64];
        let mut count = 1;
        let long_run = i32::from(self.lengths.of[0xf0]);
        for at in 1..64 {
            let size = i32::from(exact[at]).abs();
            let weight = self.weights[at];
            zeros[at] = (size * size) as f32 * lambda * weight + zeros[at - 1];
            let step = i32::from(self.table[at]) * 8;
            if size < step - step / 2 {
                block[at] = 0;
                continue;
            }
            let nearest = ((size + step / 2) / step).min(MOST);
            let candidates = bits(nearest.unsigned_abs()) as usize;
            let mut values = [0i32; 16];
            let mut errors = [0.0f32; 16];
            for n in 0..candidates {
                values[n] = if n + 1 < candidates {
                    (2 << n) - 1
                } else {
                    nearest
                };
                let error = values[n] * step - size;
                errors[n] = (error * error) as f32 * lambda * weight;
            }
            let (mut best, mut value) = (NEVER, 0);
            for from in &places[..count] {
                let from = usize::from(*from);
                let run = at - 1 - from;
                let base = zeros[at - 1] - zeros[from] + costs[from];
                if base >= best {
                    continue;
                }
                let run_bits = (run >> 4) as i32 * long_run;
                let lengths = &self.lengths.of[(run & 15) << 4..][..16];
                for n in 0..candidates {
                    let rate = i32::from(lengths[n + 1]) + n as i32 + 1 + run_bits;
                    let cost = rate as f32 + errors[n] + base;
                    if cost < best {
                        best = cost;
                        value = values[n];
                        before[at] = from as u8;
                    }
                }
            }
            if best < NEVER {
                block[at] = (value * i32::from(exact[at]).signum()) as i16;
            }
            costs[at] = best;
            if block[at] != 0 {
                places[count] = at as u8;
                count += 1;
            }
        }
        let end = f32::from(self.lengths.of[0]);
        let (mut best, mut last) = (zeros[63] + end, 0);
        for at in &places[1..count] {
            let at = usize::from(*at);
            let mut cost = costs[at] + zeros[63] - zeros[at];
            if at < 63 {
                cost += end;
            }
            if cost < best {
                best = cost;
                last = at;
            }
        }
        let mut at = 63;
        while at > 0 {
            while at > last {
                block[at] = 0;
                at -= 1;
            }
            if at == 0 {
                break;
            }
            last = usize::from(before[at]);
            at -= 1;
        }
    }
}
