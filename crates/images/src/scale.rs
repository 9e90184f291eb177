//! Images of smaller sizes.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};

use crate::{ImageError, Pixels};

/// Part of an image that is scaled, from its left upper corner, and the size that it gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    pub(crate) from: (u32, u32),
    pub(crate) to: (u32, u32),
}

/// Returns the image at another size.
pub(crate) fn scale(pixels: Pixels, scaling: Scaling) -> Result<Pixels, ImageError> {
    let own = (pixels.width, pixels.height);
    if scaling.from == own && scaling.to == own {
        return Ok(pixels);
    }
    let Scaling { from, to } = scaling;
    let source = ImageRef::new(own.0, own.1, &pixels.data, PixelType::U8x4);
    let source = source.map_err(|_| ImageError::Internal)?;
    let mut small = Image::new(to.0, to.1, PixelType::U8x4);
    // The filter of sharp.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(0.0, 0.0, f64::from(from.0), f64::from(from.1))
        .use_alpha(pixels.has_alpha);
    Resizer::new()
        .resize(&source, &mut small, &options)
        .map_err(|_| ImageError::Internal)?;
    Ok(Pixels {
        width: to.0,
        height: to.1,
        has_alpha: pixels.has_alpha,
        data: small.into_vec(),
    })
}
