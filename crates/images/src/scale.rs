//! Images of smaller sizes.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer, images::TypedImage, pixels::U8x4,
};

use crate::{ImageError, Pixels};

/// Part of an image that is scaled, from its left upper corner, and the size that it gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    pub(crate) from: (u32, u32),
    pub(crate) to: (u32, u32),
}

/// Returns the image at another size.
pub(crate) fn scale(mut pixels: Pixels, scaling: Scaling) -> Result<Pixels, ImageError> {
    let size = (pixels.width, pixels.height);
    if scaling.from == size && scaling.to == size {
        return Ok(pixels);
    }
    let Scaling { from, to } = scaling;
    let mut data = vec![0; to.0 as usize * to.1 as usize * size_of::<U8x4>()];
    // One type for both, and for the images between: another one compiles 400 functions once more.
    let source = TypedImage::<U8x4>::from_buffer(size.0, size.1, &mut pixels.data);
    let source = source.map_err(|_| ImageError::Internal)?;
    let small = TypedImage::from_buffer(to.0, to.1, &mut data);
    let mut small = small.map_err(|_| ImageError::Internal)?;
    // The filter of sharp.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(0.0, 0.0, f64::from(from.0), f64::from(from.1))
        .use_alpha(pixels.has_alpha);
    Resizer::new()
        .resize_typed(&source, &mut small, &options)
        .map_err(|_| ImageError::Internal)?;
    Ok(Pixels {
        width: to.0,
        height: to.1,
        has_alpha: pixels.has_alpha,
        data,
    })
}
