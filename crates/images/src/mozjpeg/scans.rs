//! Scans of a file: the coefficients are split, by frequencies and by bits, as it is smallest.

use super::{
    entropy::{self, Band, Blocks, Counter, Sink as _, Writer},
    huffman::Codes,
};
use crate::ImageError;

/// Frequencies after which a component may be split, in the order in which they are tried.
const SPLITS: [u8; 5] = [2, 8, 5, 12, 18];

/// Frequency after which it is split while bits are chosen.
const SPLIT: u8 = 8;

/// Bytes of the segment before a scan of one component.
const SCAN_HEADER: usize = 10;

/// Split of the coefficients of some components.
struct Split {
    /// Bits that come in scans of their own.
    low: u8,
    /// Last frequency of the first scan, if there are two.
    after: Option<u8>,
}

/// Writes all scans.
pub(super) fn write(
    components: &[Blocks],
    out: &mut Vec<u8>,
    in_time: &impl Fn() -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    write_first(components, out);
    let brightness = Split::of(&components[..1], 3, in_time)?;
    let colours = Split::of(&components[1..], 2, in_time)?;
    let both = brightness.low.min(colours.low);
    let mut write = |component: usize, band| {
        in_time()?;
        write_scan(components, component, band, out);
        Ok::<_, ImageError>(())
    };
    for band in brightness.bands() {
        write(0, band)?;
    }
    for low in (both..brightness.low).rev() {
        write(0, refinement(low))?;
    }
    for component in [1, 2] {
        for band in colours.bands() {
            write(component, band)?;
        }
    }
    for low in (both..colours.low).rev() {
        for component in [1, 2] {
            write(component, refinement(low))?;
        }
    }
    for low in (0..both).rev() {
        for component in [0, 1, 2] {
            write(component, refinement(low))?;
        }
    }
    Ok(())
}

/// Returns the scan of the lowest bit above `low` others.
fn refinement(low: u8) -> Band {
    Band {
        is_refinement: true,
        ..band(1, 63, low)
    }
}

fn band(from: u8, to: u8, low: u8) -> Band {
    Band {
        from,
        to,
        low,
        is_refinement: false,
    }
}

/// Sizes of scans of some components.
struct Sizes<'c, T> {
    components: &'c [Blocks],
    in_time: &'c T,
    /// A scan, until its size is known.
    scan: Vec<u8>,
}

impl<T: Fn() -> Result<(), ImageError>> Sizes<'_, T> {
    /// Returns the bytes of a scan of each component.
    fn of(&mut self, band: Band) -> Result<usize, ImageError> {
        (self.in_time)()?;
        let mut size = 0;
        for component in self.components {
            let codes = codes_of(component, band);
            self.scan.clear();
            let mut writer = Writer::new(&codes, &mut self.scan);
            component.scan(band, &mut writer);
            writer.finish();
            size += self.scan.len() + codes.size() + SCAN_HEADER;
        }
        Ok(size)
    }

    /// Returns the bytes of two scans.
    fn of_both(&mut self, after: u8, low: u8) -> Result<usize, ImageError> {
        Ok(self.of(band(1, after, low))? + self.of(band(after + 1, 63, low))?)
    }
}

impl Split {
    /// Returns the smallest split, with at most `most` bits in scans of their own.
    fn of(
        components: &[Blocks],
        most: u8,
        in_time: &impl Fn() -> Result<(), ImageError>,
    ) -> Result<Self, ImageError> {
        let mut sizes = Sizes {
            components,
            in_time,
            scan: Vec::new(),
        };
        let (mut low, mut best, mut refinements) = (0, sizes.of_both(SPLIT, 0)?, 0);
        for more in 1..=most {
            refinements += sizes.of(refinement(more - 1))?;
            let own = sizes.of_both(SPLIT, more)? + refinements;
            if own >= best {
                break;
            }
            (low, best) = (more, own);
        }
        let mut after = None;
        let mut best = sizes.of(band(1, 63, low))?;
        for (at, place) in (0..).zip(SPLITS) {
            let own = sizes.of_both(place, low)?;
            if own < best {
                (after, best) = (Some(place), own);
            }
            // Where the last step was of no use, further ones will not be either.
            let is_useless = match at {
                1 => after.is_none(),
                2 => after != Some(SPLITS[1]),
                3 => after != Some(SPLITS[3]),
                _ => false,
            };
            if is_useless {
                break;
            }
        }
        Ok(Self { low, after })
    }

    fn bands(&self) -> impl Iterator<Item = Band> {
        let low = self.low;
        let (first, second) = match self.after {
            Some(after) => (band(1, after, low), Some(band(after + 1, 63, low))),
            None => (band(1, 63, low), None),
        };
        [Some(first), second].into_iter().flatten()
    }
}

/// Returns the codes of a scan.
fn codes_of(component: &Blocks, band: Band) -> Codes {
    let mut counter = Counter::new();
    component.scan(band, &mut counter);
    Codes::of(&counter.symbols)
}

fn write_scan(components: &[Blocks], component: usize, band: Band, out: &mut Vec<u8>) {
    let blocks = &components[component];
    let codes = codes_of(blocks, band);
    let table = u8::from(component > 0);
    codes.write(0x10 | table, out);
    let high = if band.is_refinement { band.low + 1 } else { 0 };
    let number = [1, 2, 3][component];
    out.extend([0xff, 0xda, 0, 8, 1, number, table]);
    out.extend([band.from, band.to, high << 4 | band.low]);
    let mut writer = Writer::new(&codes, out);
    blocks.scan(band, &mut writer);
    writer.finish();
}

/// Writes the scan of the first coefficients of all components.
fn write_first(components: &[Blocks], out: &mut Vec<u8>) {
    let mut counters = [Counter::new(), Counter::new()];
    entropy::scan_first(components, |component, symbol, _, _| {
        counters[component.min(1)].symbol(symbol);
    });
    let codes = counters.map(|counter| Codes::of(&counter.symbols));
    codes[0].write(0, out);
    codes[1].write(1, out);
    out.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0x10, 3, 0x10, 0, 0, 0]);
    let mut writer = Writer::new(&codes[0], out);
    entropy::scan_first(components, |component, symbol, value, count| {
        writer.codes = &codes[component.min(1)];
        writer.symbol(symbol);
        writer.bits(value, count);
    });
    writer.finish();
}
