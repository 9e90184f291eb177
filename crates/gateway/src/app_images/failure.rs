//! Reasons why an image is not made here.

use edgeway_images::ImageError;
use http::StatusCode;

edgeway_base::enum_table! {
    /// Reason why an image request goes to the app.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ImageFailure => label {
        /// The source cannot be read, or the app has no image there.
        Source = "source",
        /// The source or the image is of a type that is not made here.
        Format = "format",
        /// The colours of the source are not those of sRGB.
        Colour = "colour",
        Broken = "broken",
        Pixels = "pixels",
        QueueFull = "queue_full",
        Time = "time",
        Internal = "internal",
    }
}

impl From<ImageError> for ImageFailure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Unsupported => Self::Format,
            ImageError::Colour => Self::Colour,
            ImageError::Pixels => Self::Pixels,
            ImageError::Decode => Self::Broken,
            ImageError::Time => Self::Time,
            ImageError::Encode | ImageError::Internal => Self::Internal,
        }
    }
}

/// Reason why an image has no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFailure {
    /// The app may still have one.
    Left(ImageFailure),
    /// The app would refuse the request as well, because of the same response.
    Refused(Refusal),
}

/// Refusal of an image whose source is no image, as the optimizer of Next.js has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub text: &'static str,
}

impl From<ImageFailure> for SourceFailure {
    fn from(failure: ImageFailure) -> Self {
        Self::Left(failure)
    }
}
