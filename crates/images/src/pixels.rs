//! Decoded images.

/// Samples of a pixel, one byte each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
}

impl Channels {
    /// Returns the number of samples.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }

    pub fn has_alpha(self) -> bool {
        matches!(self, Self::GreyAlpha | Self::Rgba)
    }
}

/// Pixels of an image, row by row without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    pub width: u32,
    pub height: u32,
    pub channels: Channels,
    pub data: Vec<u8>,
}

impl Pixels {
    /// Returns the number of bytes of a row.
    pub fn stride(&self) -> usize {
        self.width as usize * self.channels.count()
    }

    /// Returns the image with the samples that encoders take: RGB, or RGBA if it has alpha.
    pub(crate) fn into_colours(self) -> Self {
        let (channels, data) = match self.channels {
            Channels::Rgb | Channels::Rgba => return self,
            Channels::Grey => {
                let pixels = self.data.iter().flat_map(|grey| [*grey; 3]);
                (Channels::Rgb, pixels.collect())
            }
            Channels::GreyAlpha => {
                let (pixels, _) = self.data.as_chunks::<2>();
                let pixels = pixels
                    .iter()
                    .flat_map(|[grey, alpha]| [*grey, *grey, *grey, *alpha]);
                (Channels::Rgba, pixels.collect())
            }
        };
        Self {
            channels,
            data,
            ..self
        }
    }
}
