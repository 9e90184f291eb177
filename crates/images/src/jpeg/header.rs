//! Header of a JPEG file: size, components, tables, profile and orientation.

use super::{Broken, huffman::Table, scan::ZIGZAG};
use crate::exif::Orientation;

/// Bytes of a profile above which an image is refused.
const MAX_PROFILE: usize = 4 * 1024 * 1024;

/// Names before the content of application segments.
const EXIF: &[u8] = b"Exif\0\0";
const PROFILE: &[u8] = b"ICC_PROFILE\0";
const ADOBE: &[u8] = b"Adobe";

/// Markers.
pub(super) const END: u8 = 0xd9;
const SCAN: u8 = 0xda;

#[derive(Clone, Debug)]
pub(super) struct Component {
    id: u8,
    /// Samples in each direction, of as many as the component with the most.
    pub(super) across: usize,
    pub(super) down: usize,
    quantisation: usize,
}

/// Size and components of an image.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_progressive: bool,
    pub(super) components: Vec<Component>,
}

impl Frame {
    /// Returns the most samples of a component in each direction.
    pub(super) fn most(&self) -> (usize, usize) {
        let across = self.components.iter().map(|it| it.across).max();
        let down = self.components.iter().map(|it| it.down).max();
        (across.unwrap_or(1), down.unwrap_or(1))
    }
}

/// Part of a scan that belongs to one component.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanPart {
    pub(super) component: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// Header of a scan.
#[derive(Clone, Debug)]
pub(super) struct ScanHeader {
    pub(super) parts: Vec<ScanPart>,
    pub(super) range: super::scan::Range,
    /// Place of its first bit.
    pub(super) at: usize,
}

/// Tables and facts up to some place of a file.
#[derive(Default)]
pub(super) struct Tables {
    quantisation: [Option<[u16; 64]>; 4],
    pub(super) dc: [Option<Table>; 4],
    pub(super) ac: [Option<Table>; 4],
    /// Units between restarts; 0 for none.
    pub(super) restart: usize,
    pub(super) frame: Option<Frame>,
    pub(super) orientation: Orientation,
    /// Parts of the profile, by number.
    profile: Vec<(u8, Vec<u8>)>,
    has_jfif: bool,
    adobe: Option<u8>,
}

/// Next thing of importance in a file.
pub(super) enum Next {
    Scan(ScanHeader),
    End,
}

/// Reader of one segment.
struct Segment<'b>(&'b [u8]);

impl Segment<'_> {
    fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.0.split_first().ok_or(Broken)?;
        self.0 = rest;
        Ok(*first)
    }

    fn short(&mut self) -> Result<usize, Broken> {
        let high = self.byte()?;
        Ok(usize::from(high) << 8 | usize::from(self.byte()?))
    }
}

impl Tables {
    /// Reads segments from `at` up to the next scan or the end.
    pub(super) fn read(&mut self, bytes: &[u8], mut at: usize) -> Result<Next, Broken> {
        loop {
            if bytes.get(at) != Some(&0xff) {
                return Err(Broken);
            }
            while bytes.get(at) == Some(&0xff) {
                at += 1;
            }
            let marker = *bytes.get(at).ok_or(Broken)?;
            at += 1;
            if marker == END {
                return Ok(Next::End);
            }
            let length = Segment(bytes.get(at..).ok_or(Broken)?).short()?;
            let segment = bytes.get(at + 2..at + length).ok_or(Broken)?;
            at += length;
            match marker {
                0xc0..=0xc2 => self.frame(Segment(segment), marker == 0xc2)?,
                0xc4 => self.codes(segment)?,
                0xdb => self.quantisation(segment)?,
                0xdd => self.restart = Segment(segment).short()?,
                SCAN => return self.scan(Segment(segment), at).map(Next::Scan),
                0xe0..=0xef => self.application(marker, segment)?,
                0xfe => {}
                _ => return Err(Broken),
            }
        }
    }

    fn frame(&mut self, mut segment: Segment<'_>, is_progressive: bool) -> Result<(), Broken> {
        let is_plain = segment.byte()? == 8 && self.frame.is_none();
        let (height, width) = (segment.short()?, segment.short()?);
        let count = segment.byte()?;
        if !is_plain || width == 0 || height == 0 || !matches!(count, 1 | 3 | 4) {
            return Err(Broken);
        }
        let mut components = Vec::new();
        for _ in 0..count {
            let (id, factors) = (segment.byte()?, segment.byte()?);
            let (across, down) = (usize::from(factors >> 4), usize::from(factors & 15));
            let quantisation = usize::from(segment.byte()?);
            if !matches!(across, 1..=4) || !matches!(down, 1..=4) || quantisation > 3 {
                return Err(Broken);
            }
            components.push(Component {
                id,
                across,
                down,
                quantisation,
            });
        }
        if let [only] = components.as_mut_slice() {
            // It is never interleaved: its factors say nothing.
            (only.across, only.down) = (1, 1);
        }
        self.frame = Some(Frame {
            width,
            height,
            is_progressive,
            components,
        });
        Ok(())
    }

    fn codes(&mut self, segment: &[u8]) -> Result<(), Broken> {
        let mut rest = segment;
        while let Some((kind, after)) = rest.split_first() {
            let (counts, after) = after.split_first_chunk::<16>().ok_or(Broken)?;
            let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
            let symbols = after.get(..total).filter(|_| total <= 256).ok_or(Broken)?;
            rest = &after[total..];
            let tables = match kind >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(Broken),
            };
            let place = tables.get_mut(usize::from(kind & 15)).ok_or(Broken)?;
            *place = Some(Table::new(counts, symbols)?);
        }
        Ok(())
    }

    fn quantisation(&mut self, segment: &[u8]) -> Result<(), Broken> {
        let mut segment = Segment(segment);
        while !segment.0.is_empty() {
            let kind = segment.byte()?;
            let mut table = [0; 64];
            for place in ZIGZAG {
                table[usize::from(place)] = match kind >> 4 {
                    0 => u16::from(segment.byte()?),
                    1 => u16::try_from(segment.short()?).unwrap_or(u16::MAX),
                    _ => return Err(Broken),
                };
            }
            let place = self.quantisation.get_mut(usize::from(kind & 15));
            *place.ok_or(Broken)? = Some(table);
        }
        Ok(())
    }

    fn scan(&self, mut segment: Segment<'_>, at: usize) -> Result<ScanHeader, Broken> {
        let frame = self.frame.as_ref().ok_or(Broken)?;
        let count = segment.byte()?;
        let mut parts: Vec<ScanPart> = Vec::new();
        for _ in 0..count {
            let (id, tables) = (segment.byte()?, segment.byte()?);
            let component = frame.components.iter().position(|it| it.id == id);
            let component = component.ok_or(Broken)?;
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            let is_known = parts.iter().any(|part| part.component == component);
            if is_known || dc > 3 || ac > 3 {
                return Err(Broken);
            }
            parts.push(ScanPart { component, dc, ac });
        }
        let (first, last) = (usize::from(segment.byte()?), usize::from(segment.byte()?));
        let bits = segment.byte()?;
        let range = super::scan::Range {
            first,
            last,
            high: u32::from(bits >> 4),
            low: u32::from(bits & 15),
        };
        let is_valid = if frame.is_progressive {
            let is_dc = first == 0 && last == 0;
            let is_ac = first > 0 && first <= last && last < 64 && parts.len() == 1;
            let is_next = range.high == 0 || range.high == range.low + 1;
            (is_dc || is_ac) && is_next && range.low <= 13
        } else {
            first == 0 && last == 63 && bits == 0
        };
        if parts.is_empty() || !is_valid || !segment.0.is_empty() {
            return Err(Broken);
        }
        Ok(ScanHeader { parts, range, at })
    }

    fn application(&mut self, marker: u8, segment: &[u8]) -> Result<(), Broken> {
        match marker {
            0xe0 if segment.starts_with(b"JFIF\0") => self.has_jfif = true,
            0xe1 if segment.starts_with(EXIF) && self.orientation == Orientation::Upright => {
                self.orientation = Orientation::of(segment);
            }
            0xe2 => {
                if let Some([number, _, part @ ..]) = segment.strip_prefix(PROFILE) {
                    let size: usize = self.profile.iter().map(|(_, part)| part.len()).sum();
                    if size + part.len() > MAX_PROFILE {
                        return Err(Broken);
                    }
                    self.profile.push((*number, part.to_vec()));
                }
            }
            0xee if segment.starts_with(ADOBE) => self.adobe = segment.get(11).copied(),
            _ => {}
        }
        Ok(())
    }

    /// Returns the quantisation of a component.
    pub(super) fn quantisation_of(&self, component: &Component) -> Result<[u16; 64], Broken> {
        self.quantisation[component.quantisation].ok_or(Broken)
    }

    pub(super) fn take_profile(&mut self) -> Option<Vec<u8>> {
        self.profile.sort_by_key(|(number, _)| *number);
        let parts = self.profile.drain(..).map(|(_, part)| part);
        let profile = parts.collect::<Vec<_>>().concat();
        (!profile.is_empty()).then_some(profile)
    }

    /// Returns true if three components are red, green and blue.
    pub(super) fn is_rgb(&self, frame: &Frame) -> bool {
        if self.has_jfif {
            return false;
        }
        match self.adobe {
            Some(transform) => transform == 0,
            None => frame.components.iter().map(|it| it.id).eq(*b"RGB"),
        }
    }
}
