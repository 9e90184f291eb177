//! Decoder of JPEG, whose results are those of libjpeg to the bit, also where it makes an image
//! smaller while it decodes.
//!
//! Images that libjpeg would warn about are errors here: they are not made at the edge.

mod header;
mod huffman;
mod idct;
mod scan;
mod upsample;

use self::{
    header::{Frame, Next, ScanHeader, Tables},
    huffman::Bits,
    idct::Lanes,
    upsample::{Plane, ToRgb},
};
use crate::{Channels, Pixels, exif::Orientation, wide};

/// The file is broken, or of a kind that is not decoded here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Block without any frequency.
const EMPTY: idct::Block = [Lanes([0; 8]); 8];

/// Scans of a progressive image; each costs as much as the image.
const MAX_SCANS: usize = 100;

/// File whose header was read.
pub(crate) struct Jpeg<'b> {
    bytes: &'b [u8],
    tables: Tables,
    frame: Frame,
    first: ScanHeader,
}

/// Frequencies of one component, where they do not come block by block.
struct Coefficients {
    blocks: Vec<[i16; 64]>,
    /// Blocks in a row.
    columns: usize,
}

/// Component while it is decoded.
struct Target {
    plane: Plane,
    /// Pixels of a block in each direction.
    size: usize,
    /// Blocks of the image, without those that fill units up.
    columns: usize,
    rows: usize,
    coefficients: Option<Coefficients>,
    quantisation: Option<[u16; 64]>,
}

impl<'b> Jpeg<'b> {
    /// Reads the header of a file.
    pub(crate) fn read(bytes: &'b [u8]) -> Result<Self, Broken> {
        if !bytes.starts_with(b"\xff\xd8") {
            return Err(Broken);
        }
        let mut tables = Tables::default();
        let Next::Scan(first) = tables.read(bytes, 2)? else {
            return Err(Broken);
        };
        let frame = tables.frame.clone().ok_or(Broken)?;
        Ok(Self {
            bytes,
            tables,
            frame,
            first,
        })
    }

    /// Returns width and height.
    #[expect(clippy::cast_possible_truncation, reason = "they have 16 bits")]
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.frame.width as u32, self.frame.height as u32)
    }

    pub(crate) fn orientation(&self) -> Orientation {
        self.tables.orientation
    }

    /// Returns the colour profile, once.
    pub(crate) fn take_profile(&mut self) -> Option<Vec<u8>> {
        self.tables.take_profile()
    }

    /// Returns true for colours that are not converted here.
    pub(crate) fn is_for_print(&self) -> bool {
        self.frame.components.len() == 4
    }

    /// Returns the bytes that decoding takes at most.
    pub(crate) fn memory(&self, shrink: usize) -> u64 {
        let pixels = self.frame.width as u64 * self.frame.height as u64;
        let components = self.frame.components.len() as u64;
        let coefficients = if self.keeps_coefficients() {
            pixels * components * 2
        } else {
            0
        };
        coefficients + 2 * pixels * components / (shrink * shrink) as u64
    }

    fn keeps_coefficients(&self) -> bool {
        self.frame.is_progressive || self.first.parts.len() < self.frame.components.len()
    }

    /// Decodes the image, by `shrink` (1, 2, 4 or 8) smaller. Parts of pixels at its right and
    /// its bottom are cut off.
    pub(crate) fn decode(mut self, shrink: usize) -> Result<Pixels, Broken> {
        let mut targets = self.targets(shrink)?;
        let mut next = Next::Scan(self.first.clone());
        let mut scans = 0;
        while let Next::Scan(header) = next {
            scans += 1;
            if scans > MAX_SCANS {
                return Err(Broken);
            }
            let end = self.scan(&header, &mut targets)?;
            next = self.tables.read(self.bytes, end)?;
        }
        for target in &mut targets {
            target.finish()?;
        }
        self.pixels(&targets, shrink)
    }

    fn targets(&self, shrink: usize) -> Result<Vec<Target>, Broken> {
        let frame = &self.frame;
        let (most_across, most_down) = frame.most();
        let least = 8 / shrink;
        let units = (
            frame.width.div_ceil(8 * most_across),
            frame.height.div_ceil(8 * most_down),
        );
        let keeps = self.keeps_coefficients();
        frame
            .components
            .iter()
            .map(|component| {
                let (across, down) = (component.across, component.down);
                // Where a component has fewer samples, its blocks need not become so small.
                let mut size = least;
                while size < 8
                    && (most_across * least).is_multiple_of(across * size * 2)
                    && (most_down * least).is_multiple_of(down * size * 2)
                {
                    size *= 2;
                }
                let (wide, tall) = (most_across * least, most_down * least);
                if !wide.is_multiple_of(across * size) || !tall.is_multiple_of(down * size) {
                    return Err(Broken);
                }
                let (columns, rows) = (units.0 * across, units.1 * down);
                let coefficients = keeps.then(|| Coefficients {
                    blocks: vec![[0; 64]; columns * rows],
                    columns,
                });
                let plane = Plane {
                    data: vec![0; columns * rows * size * size],
                    stride: columns * size,
                    width: (frame.width * across * size).div_ceil(most_across * 8),
                    height: (frame.height * down * size).div_ceil(most_down * 8),
                    across: wide / (across * size),
                    down: tall / (down * size),
                    is_smooth: least > 1,
                };
                Ok(Target {
                    plane,
                    size,
                    columns: (frame.width * across).div_ceil(most_across * 8),
                    rows: (frame.height * down).div_ceil(most_down * 8),
                    coefficients,
                    quantisation: None,
                })
            })
            .collect()
    }

    /// Reads one scan. Returns the place behind it.
    fn scan(&self, header: &ScanHeader, targets: &mut [Target]) -> Result<usize, Broken> {
        for part in &header.parts {
            let target = &mut targets[part.component];
            if target.quantisation.is_none() {
                let component = &self.frame.components[part.component];
                target.quantisation = Some(self.tables.quantisation_of(component)?);
            }
        }
        let (columns, rows) = if let [only] = header.parts.as_slice() {
            // A scan of one component has its blocks alone.
            let target = &targets[only.component];
            (target.columns, target.rows)
        } else {
            let (across, down) = self.frame.most();
            (
                self.frame.width.div_ceil(8 * across),
                self.frame.height.div_ceil(8 * down),
            )
        };
        let mut state = ScanState {
            bits: Bits::new(self.bytes, header.at),
            last_dc: vec![0; header.parts.len()],
            run: 0,
        };
        let mut until_restart = self.tables.restart;
        let mut restarts = 0u8;
        for row in 0..rows {
            for column in 0..columns {
                if self.tables.restart > 0 {
                    if until_restart == 0 {
                        self.restart(&mut state, restarts)?;
                        restarts = (restarts + 1) % 8;
                        until_restart = self.tables.restart;
                    }
                    until_restart -= 1;
                }
                self.unit(header, targets, &mut state, (column, row))?;
            }
            state.bits.check()?;
        }
        state.bits.end()
    }

    fn restart(&self, state: &mut ScanState<'b>, number: u8) -> Result<(), Broken> {
        let at = state.bits.end()?;
        if self.bytes.get(at..at + 2) != Some(&[0xff, 0xd0 + number]) {
            return Err(Broken);
        }
        state.bits = Bits::new(self.bytes, at + 2);
        state.last_dc.fill(0);
        state.run = 0;
        Ok(())
    }

    /// Reads the blocks of one unit.
    fn unit(
        &self,
        header: &ScanHeader,
        targets: &mut [Target],
        state: &mut ScanState<'_>,
        (column, row): (usize, usize),
    ) -> Result<(), Broken> {
        let is_alone = header.parts.len() == 1;
        for (index, part) in header.parts.iter().enumerate() {
            let component = &self.frame.components[part.component];
            let (across, down) = if is_alone {
                (1, 1)
            } else {
                (component.across, component.down)
            };
            let dc = self.tables.dc[part.dc].as_ref();
            let ac = self.tables.ac[part.ac].as_ref();
            for y in 0..down {
                for x in 0..across {
                    let place = (column * across + x, row * down + y);
                    let target = &mut targets[part.component];
                    let last_dc = &mut state.last_dc[index];
                    let Some(kept) = &mut target.coefficients else {
                        let (dc, ac) = (dc.ok_or(Broken)?, ac.ok_or(Broken)?);
                        target.read_block(&mut state.bits, (dc, ac), last_dc, place)?;
                        continue;
                    };
                    let block = &mut kept.blocks[place.1 * kept.columns + place.0];
                    if !self.frame.is_progressive {
                        let (dc, ac) = (dc.ok_or(Broken)?, ac.ok_or(Broken)?);
                        scan::sequential(&mut state.bits, dc, ac, last_dc, |at, value| {
                            block[at] = scan::short(value);
                        })?;
                    } else if header.range.first == 0 {
                        let range = header.range;
                        scan::progressive_dc(&mut state.bits, dc, range, last_dc, block)?;
                    } else {
                        let ac = ac.ok_or(Broken)?;
                        let run = &mut state.run;
                        scan::progressive_ac(&mut state.bits, ac, header.range, run, block)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Joins the components to pixels.
    fn pixels(&self, targets: &[Target], shrink: usize) -> Result<Pixels, Broken> {
        let (width, height) = (
            (self.frame.width / shrink).max(1),
            (self.frame.height / shrink).max(1),
        );
        let whole = |number: usize| u32::try_from(number).map_err(|_| Broken);
        let mut pixels = Pixels {
            width: whole(width)?,
            height: whole(height)?,
            channels: Channels::Grey,
            data: Vec::new(),
        };
        let [first, second, third] = targets else {
            let [only] = targets else {
                return Err(Broken);
            };
            let plane = &only.plane;
            let rows = plane.data.chunks(plane.stride).take(height);
            pixels.data = rows.flat_map(|row| &row[..width]).copied().collect();
            return Ok(pixels);
        };
        pixels.channels = Channels::Rgb;
        pixels.data = vec![0; width * height * 3];
        let is_rgb = self.tables.is_rgb(&self.frame);
        let room = |target: &Target| vec![0; (target.plane.width + 1) * target.plane.across];
        let mut rows = [first, second, third].map(room);
        let mut sums = Vec::new();
        for (at, out) in pixels.data.chunks_mut(width * 3).enumerate() {
            for (target, row) in targets.iter().zip(&mut rows) {
                target.plane.upsample(at, &mut sums, row);
            }
            let [a, b, c] = &rows;
            if is_rgb {
                let (out, _) = out.as_chunks_mut::<3>();
                for (out, ((a, b), c)) in out.iter_mut().zip(a.iter().zip(b).zip(c)) {
                    *out = [*a, *b, *c];
                }
            } else {
                let rows = [a.as_slice(), b, c];
                wide::run(ToRgb { rows, out });
            }
        }
        Ok(pixels)
    }
}

/// State within a scan.
struct ScanState<'b> {
    bits: Bits<'b>,
    last_dc: Vec<i32>,
    /// Blocks that follow without frequencies.
    run: u32,
}

impl Target {
    /// Reads a whole block and writes its pixels.
    fn read_block(
        &mut self,
        bits: &mut Bits<'_>,
        (dc, ac): (&huffman::Table, &huffman::Table),
        last_dc: &mut i32,
        place: (usize, usize),
    ) -> Result<(), Broken> {
        let quantisation = self.quantisation.as_ref().ok_or(Broken)?;
        let mut block = EMPTY;
        let end = scan::sequential(bits, dc, ac, last_dc, |at, value| {
            block[at / 8].0[at % 8] = value.wrapping_mul(i32::from(quantisation[at]));
        })?;
        if end == 1 {
            self.plane.put_flat(block[0].0[0], self.size, place);
        } else {
            self.plane.put(&block, self.size, place);
        }
        Ok(())
    }

    /// Writes the pixels of all blocks that were kept.
    fn finish(&mut self) -> Result<(), Broken> {
        let Some(kept) = self.coefficients.take() else {
            return Ok(());
        };
        let quantisation = self.quantisation.ok_or(Broken)?;
        for (row, blocks) in kept.blocks.chunks(kept.columns).enumerate() {
            for (column, block) in blocks.iter().enumerate() {
                let mut values = EMPTY;
                let (block, _) = block.as_chunks::<8>();
                for (row, to) in values.iter_mut().enumerate() {
                    let by = &quantisation[row * 8..][..8];
                    for (to, (value, by)) in to.0.iter_mut().zip(block[row].iter().zip(by)) {
                        *to = i32::from(*value).wrapping_mul(i32::from(*by));
                    }
                }
                self.plane.put(&values, self.size, (column, row));
            }
        }
        Ok(())
    }
}
