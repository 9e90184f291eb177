//! The orientation of an image, in its EXIF data.

/// Turn and mirror image that make an image upright: value 1 to 8 of the orientation's tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Orientation {
    #[default]
    Upright,
    FlippedAcross,
    HalfTurn,
    FlippedDown,
    Transposed,
    Clockwise,
    Transversed,
    CounterClockwise,
}

/// Tag of the orientation.
const TAG: u16 = 0x0112;

/// Type of a number of 16 bits.
const SHORT: u16 = 3;

impl Orientation {
    /// Reads EXIF data, with or without the name before it. Data that cannot be read count as
    /// those of an upright image.
    pub(crate) fn parse(exif: &[u8]) -> Self {
        Self::read(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)).unwrap_or_default()
    }

    fn read(tiff: &[u8]) -> Option<Self> {
        let is_little = match tiff.get(..2)? {
            b"II" => true,
            b"MM" => false,
            _ => return None,
        };
        let short = |offset: usize| {
            let bytes = *tiff.get(offset..)?.first_chunk()?;
            Some(if is_little {
                u16::from_le_bytes(bytes)
            } else {
                u16::from_be_bytes(bytes)
            })
        };
        let long = |offset: usize| {
            let bytes = *tiff.get(offset..)?.first_chunk()?;
            Some(if is_little {
                u32::from_le_bytes(bytes)
            } else {
                u32::from_be_bytes(bytes)
            })
        };
        let directory = long(4)? as usize;
        let count = usize::from(short(directory)?);
        let mut fields = (0..count).map(|index| directory + 2 + index * 12);
        let field = fields.find(|field| short(*field) == Some(TAG))?;
        if short(field + 2)? != SHORT {
            return None;
        }
        Some(match short(field + 8)? {
            2 => Self::FlippedAcross,
            3 => Self::HalfTurn,
            4 => Self::FlippedDown,
            5 => Self::Transposed,
            6 => Self::Clockwise,
            7 => Self::Transversed,
            8 => Self::CounterClockwise,
            _ => Self::Upright,
        })
    }

    /// Returns true if width and height change places.
    pub(crate) fn swaps(self) -> bool {
        match self {
            Self::Upright | Self::FlippedAcross | Self::HalfTurn | Self::FlippedDown => false,
            Self::Transposed | Self::Clockwise | Self::Transversed | Self::CounterClockwise => true,
        }
    }

    /// Returns the column and row, in the image as it is stored, of the pixel at (`x`, `y`) of
    /// the upright one. `width` and `height` are those of the stored image.
    fn source(self, (x, y): (usize, usize), (width, height): (usize, usize)) -> (usize, usize) {
        let (right, bottom) = (width - 1, height - 1);
        match self {
            Self::Upright => (x, y),
            Self::FlippedAcross => (right - x, y),
            Self::HalfTurn => (right - x, bottom - y),
            Self::FlippedDown => (x, bottom - y),
            Self::Transposed => (y, x),
            Self::Clockwise => (y, bottom - x),
            Self::Transversed => (right - y, bottom - x),
            Self::CounterClockwise => (right - y, x),
        }
    }

    /// Turns the image upright.
    pub(crate) fn apply(self, pixels: crate::Pixels) -> crate::Pixels {
        if self == Self::Upright {
            return pixels;
        }
        let (width, height) = if self.swaps() {
            (pixels.height, pixels.width)
        } else {
            (pixels.width, pixels.height)
        };
        let stored = (pixels.width as usize, pixels.height as usize);
        let (all, _) = pixels.data.as_chunks::<4>();
        let mut data = Vec::with_capacity(pixels.data.len());
        for y in 0..height as usize {
            for x in 0..width as usize {
                let (column, row) = self.source((x, y), stored);
                data.extend(all[row * stored.0 + column]);
            }
        }
        crate::Pixels {
            width,
            height,
            data,
            ..pixels
        }
    }
}
