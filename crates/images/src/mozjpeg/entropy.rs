//! Symbols of progressive scans (ITU-T T.81, G.1.2), counted or written.

use super::{huffman::Codes, planes::Plane};

/// Coefficients of one component.
pub(super) struct Blocks {
    /// From low to high frequencies, row by row.
    pub(super) values: Vec<[i16; 64]>,
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Places in each block that are not zero after a shift to the right by 0 to 3.
    present: Vec<[u64; 4]>,
}

/// Lengths of codes.
pub(super) struct Lengths {
    pub(super) of: [u8; 256],
}

/// Coefficients of a component that a scan has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) from: u8,
    pub(super) to: u8,
    /// Bits that are left to later scans.
    pub(super) low: u8,
    /// True if only the last of the bits above is in this scan.
    pub(super) is_refinement: bool,
}

/// Receiver of a scan's symbols.
pub(super) trait Sink {
    fn symbol(&mut self, symbol: u8);
    fn bits(&mut self, value: u32, count: u32);
}

/// Counts symbols.
pub(super) struct Counter {
    pub(super) symbols: [u32; 256],
}

/// Writes a scan.
pub(super) struct Writer<'c> {
    pub(super) codes: &'c Codes,
    pub(super) out: &'c mut Vec<u8>,
    waiting: u64,
    count: u32,
}

/// Longest run of blocks without anything more.
const MAX_RUN: u32 = 0x7fff;

/// Bits that wait for the end of such a run, at most.
const MAX_WAITING: usize = 1000 - 63;

impl Blocks {
    pub(super) fn new(values: Vec<[i16; 64]>, plane: &Plane) -> Self {
        let present = values.iter().map(present).collect();
        Self {
            values,
            columns: plane.columns,
            rows: plane.rows,
            present,
        }
    }

    /// Gives the symbols of a scan to a sink.
    pub(super) fn scan(&self, band: Band, sink: &mut impl Sink) {
        if band.is_refinement {
            self.refine(band, sink);
        } else {
            self.first(band, sink);
        }
    }

    fn first_at(&self, row: usize, column: usize) -> Option<i32> {
        let is_inside = row < self.rows && column < self.columns;
        is_inside.then(|| i32::from(self.values[row * self.columns + column][0]))
    }

    #[expect(clippy::cast_possible_truncation, reason = "runs in a block are short")]
    fn first(&self, band: Band, sink: &mut impl Sink) {
        let mask = mask(band);
        let low = u32::from(band.low);
        let mut run = 0;
        for (block, present) in self.values.iter().zip(&self.present) {
            let mut rest = present[usize::from(band.low)] & mask;
            if rest != 0 {
                end_run(&mut run, &mut [], sink);
            }
            let mut next = u32::from(band.from);
            while rest != 0 {
                let at = rest.trailing_zeros();
                rest &= rest - 1;
                let mut zeros = at - next;
                while zeros > 15 {
                    sink.symbol(0xf0);
                    zeros -= 16;
                }
                let value = i32::from(block[at as usize]);
                let size = value.unsigned_abs() >> low;
                let count = 32 - size.leading_zeros();
                sink.symbol((zeros << 4 | count) as u8);
                let bits = if value < 0 { !size } else { size };
                sink.bits(bits & ((1 << count) - 1), count);
                next = at + 1;
            }
            if next <= u32::from(band.to) {
                run += 1;
                if run == MAX_RUN {
                    end_run(&mut run, &mut [], sink);
                }
            }
        }
        end_run(&mut run, &mut [], sink);
    }

    #[expect(clippy::cast_possible_truncation, reason = "runs in a block are short")]
    fn refine(&self, band: Band, sink: &mut impl Sink) {
        let mask = mask(band);
        let low = usize::from(band.low);
        let mut run = 0;
        // Bits of the blocks of the run, then those of this block.
        let mut waiting: Vec<u8> = Vec::with_capacity(1064);
        for (block, present) in self.values.iter().zip(&self.present) {
            let mut rest = present[low] & mask;
            let fresh = rest & !present[low + 1];
            let last_fresh = 63u32.saturating_sub(fresh.leading_zeros());
            let mut of_run = waiting.len();
            let mut zeros = 0;
            let mut next = u32::from(band.from);
            while rest != 0 {
                let at = rest.trailing_zeros();
                rest &= rest - 1;
                zeros += at - next;
                next = at + 1;
                while zeros > 15 && fresh != 0 && at <= last_fresh {
                    end_run_before(&mut run, &mut waiting, of_run, sink);
                    sink.symbol(0xf0);
                    zeros -= 16;
                    flush(&mut waiting, sink);
                    of_run = 0;
                }
                let value = block[at as usize];
                if fresh >> at & 1 == 0 {
                    waiting.push((value.unsigned_abs() >> low & 1) as u8);
                    continue;
                }
                end_run_before(&mut run, &mut waiting, of_run, sink);
                sink.symbol((zeros << 4 | 1) as u8);
                sink.bits(u32::from(value >= 0), 1);
                flush(&mut waiting, sink);
                of_run = 0;
                zeros = 0;
            }
            zeros += u32::from(band.to) + 1 - next;
            if zeros > 0 || waiting.len() > of_run {
                run += 1;
                if run == MAX_RUN || waiting.len() > MAX_WAITING {
                    end_run(&mut run, &mut waiting, sink);
                    waiting.clear();
                }
            }
        }
        end_run(&mut run, &mut waiting, sink);
    }
}

/// Returns the places that are not zero after each shift.
fn present(block: &[i16; 64]) -> [u64; 4] {
    let mut present = [0; 4];
    for (at, value) in block.iter().enumerate() {
        let size = value.unsigned_abs();
        if size == 0 {
            continue;
        }
        for (shift, present) in present.iter_mut().enumerate() {
            *present |= u64::from(size >> shift != 0) << at;
        }
    }
    present
}

fn mask(band: Band) -> u64 {
    let upper = u64::MAX >> (63 - band.to);
    upper & !((1 << band.from) - 1)
}

/// Ends a run of blocks, with the bits that waited for that.
fn end_run(run: &mut u32, waiting: &mut [u8], sink: &mut impl Sink) {
    if *run == 0 {
        return;
    }
    let count = 31 - run.leading_zeros();
    #[expect(clippy::cast_possible_truncation, reason = "a run has at most 15 bits")]
    sink.symbol((count << 4) as u8);
    if count > 0 {
        sink.bits(*run & ((1 << count) - 1), count);
    }
    *run = 0;
    for bit in waiting {
        sink.bits(u32::from(*bit), 1);
    }
}

/// Ends the run of the blocks before; the first `of_run` bits wait for it.
fn end_run_before(run: &mut u32, waiting: &mut Vec<u8>, of_run: usize, sink: &mut impl Sink) {
    if *run > 0 {
        end_run(run, &mut waiting[..of_run], sink);
        waiting.drain(..of_run);
    }
}

fn flush(waiting: &mut Vec<u8>, sink: &mut impl Sink) {
    for bit in waiting.drain(..) {
        sink.bits(u32::from(bit), 1);
    }
}

/// Gives the symbols of the first coefficients of all components, unit by unit: the component, the
/// symbol, and the bits after it.
#[expect(clippy::cast_possible_truncation, reason = "sizes of numbers")]
pub(super) fn scan_first(components: &[Blocks], mut give: impl FnMut(usize, u8, u32, u32)) {
    // Colours have a block for each unit, brightness has four.
    let units = (components[1].columns, components[1].rows);
    let mut last = [0i32; 3];
    for y in 0..units.1 {
        for x in 0..units.0 {
            for (index, component) in components.iter().enumerate() {
                let side = if index == 0 { 2 } else { 1 };
                for place in 0..side * side {
                    let (row, column) = (y * side + place / side, x * side + place % side);
                    // Blocks beside the image repeat what was before them.
                    let value = component.first_at(row, column).unwrap_or(last[index]);
                    let difference = value - last[index];
                    last[index] = value;
                    let size = difference.unsigned_abs();
                    let count = 32 - size.leading_zeros();
                    let bits = if difference < 0 { !size } else { size };
                    give(index, count as u8, bits & ((1 << count) - 1), count);
                }
            }
        }
    }
}

impl Counter {
    pub(super) fn new() -> Self {
        Self { symbols: [0; 256] }
    }
}

impl Sink for Counter {
    #[inline]
    fn symbol(&mut self, symbol: u8) {
        self.symbols[usize::from(symbol)] += 1;
    }

    #[inline]
    fn bits(&mut self, _value: u32, _count: u32) {}
}

impl<'c> Writer<'c> {
    pub(super) fn new(codes: &'c Codes, out: &'c mut Vec<u8>) -> Self {
        Self {
            codes,
            out,
            waiting: 0,
            count: 0,
        }
    }

    /// Writes the bits that are left, with ones up to a whole byte.
    pub(super) fn finish(mut self) {
        let missing = (8 - self.count % 8) % 8;
        self.bits((1 << missing) - 1, missing);
    }
}

impl Sink for Writer<'_> {
    #[inline]
    fn symbol(&mut self, symbol: u8) {
        let symbol = usize::from(symbol);
        self.bits(
            self.codes.bits[symbol],
            u32::from(self.codes.lengths[symbol]),
        );
    }

    #[inline]
    fn bits(&mut self, value: u32, count: u32) {
        self.waiting = self.waiting << count | u64::from(value);
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let [.., byte] = (self.waiting >> self.count).to_be_bytes();
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
        }
    }
}

/// Returns the lengths of codes for a scan of all coefficients but the first, and for symbols that
/// do not occur in it.
pub(super) fn lengths(blocks: &Blocks) -> Lengths {
    let mut counter = Counter::new();
    for symbols in counter.symbols.chunks_mut(16) {
        symbols[..12].fill(1);
    }
    let band = Band {
        from: 1,
        to: 63,
        low: 0,
        is_refinement: false,
    };
    blocks.scan(band, &mut counter);
    Lengths {
        of: Codes::of(&counter.symbols).lengths,
    }
}
