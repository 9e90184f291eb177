//! Scans of an image: the frequencies of blocks from the bits of a file.

use super::{
    Broken,
    huffman::{Bits, Table},
};

/// Place of each frequency in a block, in the order of the file.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Part of the frequencies that a scan has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// First and last frequency.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Bits that earlier scans have left to this one; 0 in the first one.
    pub(super) high: u32,
    /// Bits that this one leaves to later ones.
    pub(super) low: u32,
}

/// Reads a whole block. Returns the number of frequencies, from the first, that may not be zero.
#[inline]
pub(super) fn sequential(
    bits: &mut Bits<'_>,
    dc: &Table,
    ac: &Table,
    last_dc: &mut i32,
    mut put: impl FnMut(usize, i32),
) -> Result<usize, Broken> {
    let size = bits.symbol(dc)?;
    if size > 15 {
        return Err(Broken);
    }
    *last_dc = last_dc.wrapping_add(bits.value(u32::from(size)));
    put(0, *last_dc);
    let mut at = 1;
    let mut end = 1;
    while at < 64 {
        let symbol = bits.symbol(ac)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                break;
            }
            at += 16;
            continue;
        }
        at += run;
        let value = bits.value(size);
        let Some(place) = ZIGZAG.get(at) else {
            return Err(Broken);
        };
        put(usize::from(*place), value);
        at += 1;
        end = at;
    }
    Ok(end)
}

/// Reads the first frequency of a block in a progressive image.
pub(super) fn progressive_dc(
    bits: &mut Bits<'_>,
    dc: Option<&Table>,
    range: Range,
    last_dc: &mut i32,
    block: &mut [i16; 64],
) -> Result<(), Broken> {
    if range.high > 0 {
        if bits.number(1) == 1 {
            block[0] |= 1 << range.low;
        }
        return Ok(());
    }
    let size = bits.symbol(dc.ok_or(Broken)?)?;
    if size > 15 {
        return Err(Broken);
    }
    *last_dc = last_dc.wrapping_add(bits.value(u32::from(size)));
    block[0] = short(last_dc.wrapping_shl(range.low));
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "frequencies have 16 bits")]
pub(super) fn short(value: i32) -> i16 {
    value as i16
}

/// Reads other frequencies of a block in a progressive image. `run` is the number of blocks that
/// follow without any.
pub(super) fn progressive_ac(
    bits: &mut Bits<'_>,
    ac: &Table,
    range: Range,
    run: &mut u32,
    block: &mut [i16; 64],
) -> Result<(), Broken> {
    if range.high > 0 {
        return refine(bits, ac, range, run, block);
    }
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut at = range.first;
    while at <= range.last {
        let symbol = bits.symbol(ac)?;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size > 0 {
            at += zeros as usize;
            let value = bits.value(size);
            let place = ZIGZAG.get(at).ok_or(Broken)?;
            block[usize::from(*place)] = short(value << range.low);
            at += 1;
        } else if zeros == 15 {
            at += 16;
        } else {
            *run = (1 << zeros) - 1 + bits.number(zeros).cast_unsigned();
            break;
        }
    }
    Ok(())
}

/// Reads one more bit of frequencies that earlier scans began.
fn refine(
    bits: &mut Bits<'_>,
    ac: &Table,
    range: Range,
    run: &mut u32,
    block: &mut [i16; 64],
) -> Result<(), Broken> {
    let one = 1i16 << range.low;
    let correct = |bits: &mut Bits<'_>, value: &mut i16| {
        if bits.number(1) == 1 && *value & one == 0 {
            *value = value.wrapping_add(if *value < 0 { -one } else { one });
        }
    };
    let mut at = range.first;
    if *run == 0 {
        while at <= range.last {
            let symbol = bits.symbol(ac)?;
            let (mut zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            let mut new = 0;
            match size {
                0 if zeros < 15 => {
                    *run = (1 << zeros) + bits.number(zeros).cast_unsigned();
                    break;
                }
                0 => {}
                1 => new = if bits.number(1) == 1 { one } else { -one },
                _ => return Err(Broken),
            }
            while at <= range.last {
                let value = &mut block[usize::from(ZIGZAG[at])];
                if *value != 0 {
                    correct(bits, value);
                } else if zeros == 0 {
                    *value = new;
                    at += 1;
                    break;
                } else {
                    zeros -= 1;
                }
                at += 1;
            }
        }
    }
    if *run > 0 {
        while at <= range.last {
            let value = &mut block[usize::from(ZIGZAG[at])];
            if *value != 0 {
                correct(bits, value);
            }
            at += 1;
        }
        *run -= 1;
    }
    Ok(())
}
