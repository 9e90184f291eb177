//! Decoded images.

/// Samples of a pixel: red, green, blue and alpha.
const SAMPLES: usize = 4;

/// Pixels of an image, row by row without gaps, as RGBA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pixels {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// False if every pixel is opaque by the format of the source.
    pub(crate) has_alpha: bool,
    pub(crate) data: Vec<u8>,
}

impl Pixels {
    /// Returns the number of bytes of an image of this size.
    pub(crate) fn size_of(width: u32, height: u32) -> usize {
        width as usize * height as usize * SAMPLES
    }

    /// Returns the number of bytes of a row.
    pub(crate) fn stride(&self) -> usize {
        self.width as usize * SAMPLES
    }
}
