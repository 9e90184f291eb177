//! Encoder and decoder of WebP: libwebp.

use std::{
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    slice,
    time::Instant,
};

use libwebp_sys as sys;

use crate::{ImageError, Pixels};

/// Effort of the encoder, from 0 to 6; that of the optimizer of Next.js.
const EFFORT: c_int = 4;

/// Size and content of a WebP file, from its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) has_alpha: bool,
}

/// Reads the header of a WebP file.
pub(crate) fn features(bytes: &[u8]) -> Option<Features> {
    let mut features = MaybeUninit::<sys::WebPBitstreamFeatures>::zeroed();
    // SAFETY: pointer and length are those of a slice, and the function writes plain integers.
    let status =
        unsafe { sys::WebPGetFeatures(bytes.as_ptr(), bytes.len(), features.as_mut_ptr()) };
    if status != sys::VP8StatusCode::VP8_STATUS_OK {
        return None;
    }
    // SAFETY: the fields are integers, for which zeros are valid too.
    let features = unsafe { features.assume_init() };
    Some(Features {
        width: u32::try_from(features.width).ok()?,
        height: u32::try_from(features.height).ok()?,
        has_alpha: features.has_alpha != 0,
    })
}

/// Decodes an image of `features`, at `width` × `height`, which are at most its own.
pub(crate) fn decode(
    bytes: &[u8],
    features: Features,
    (width, height): (u32, u32),
) -> Result<Pixels, ImageError> {
    let mut config = sys::WebPDecoderConfig::new().map_err(|()| ImageError::Internal)?;
    let mut data = vec![0; Pixels::size_of(width, height)];
    let whole = |number: u32| c_int::try_from(number).map_err(|_| ImageError::Internal);
    if (width, height) != (features.width, features.height) {
        config.options.use_scaling = 1;
        config.options.scaled_width = whole(width)?;
        config.options.scaled_height = whole(height)?;
    }
    config.output.colorspace = sys::WEBP_CSP_MODE::MODE_RGBA;
    config.output.is_external_memory = 1;
    let stride = Pixels::size_of(width, 1);
    config.output.u.RGBA = sys::WebPRGBABuffer {
        rgba: data.as_mut_ptr(),
        stride: c_int::try_from(stride).map_err(|_| ImageError::Internal)?,
        size: data.len(),
    };
    // SAFETY: the input is a slice, and the output a buffer of the size that its fields say; both
    // outlive the call, and the decoder allocates no output of its own.
    let status = unsafe { sys::WebPDecode(bytes.as_ptr(), bytes.len(), &raw mut config) };
    match status {
        sys::VP8StatusCode::VP8_STATUS_OK => {}
        // More than `WEBP_MAX_ALLOCABLE_MEMORY`, which `.cargo/config.toml` sets.
        sys::VP8StatusCode::VP8_STATUS_OUT_OF_MEMORY => return Err(ImageError::Pixels),
        _ => return Err(ImageError::Decode),
    }
    Ok(Pixels {
        width,
        height,
        has_alpha: features.has_alpha,
        data,
    })
}

/// Image of libwebp, freed at its end.
struct Image(sys::WebPPicture);

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the image was initialised, and is not used any more.
        unsafe { sys::WebPPictureFree(&raw mut self.0) };
    }
}

/// Output of the encoder, freed at its end.
struct EncoderOutput(sys::WebPMemoryWriter);

impl Drop for EncoderOutput {
    fn drop(&mut self) {
        // SAFETY: the writer was initialised, and is not used any more.
        unsafe { sys::WebPMemoryWriterClear(&raw mut self.0) };
    }
}

/// Returns 0, which ends the encoder, once the deadline of the image has passed.
extern "C" fn go_on(_percent: c_int, image: *const sys::WebPPicture) -> c_int {
    // SAFETY: libwebp passes the image that it was given, whose data is the deadline of `encode`.
    let deadline = unsafe { &*(*image).user_data.cast::<Instant>() };
    c_int::from(now() < *deadline)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a deadline of work on a thread of its own, which no test moves"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Encodes an image at `quality`, which is from 1 to 100.
pub(crate) fn encode(
    pixels: &Pixels,
    quality: u8,
    deadline: Instant,
) -> Result<Vec<u8>, ImageError> {
    let mut config =
        sys::WebPConfig::new_with_preset(sys::WebPPreset::WEBP_PRESET_DEFAULT, f32::from(quality))
            .map_err(|()| ImageError::Internal)?;
    config.method = EFFORT;
    let mut image = Image(sys::WebPPicture::new().map_err(|()| ImageError::Internal)?);
    let whole = |number: usize| c_int::try_from(number).map_err(|_| ImageError::Encode);
    image.0.width = whole(pixels.width as usize)?;
    image.0.height = whole(pixels.height as usize)?;
    let stride = whole(pixels.stride())?;
    debug_assert_eq!(pixels.data.len(), pixels.stride() * pixels.height as usize);
    let data = pixels.data.as_ptr();
    // SAFETY: the data has `height` rows of `stride` bytes, and the image has the same size. It
    // copies what it needs.
    let is_imported = unsafe {
        if pixels.has_alpha {
            sys::WebPPictureImportRGBA(&raw mut image.0, data, stride)
        } else {
            sys::WebPPictureImportRGBX(&raw mut image.0, data, stride)
        }
    };
    if is_imported == 0 {
        return Err(ImageError::Encode);
    }
    let mut output = MaybeUninit::<sys::WebPMemoryWriter>::uninit();
    // SAFETY: the function initialises all fields.
    let mut output = unsafe {
        sys::WebPMemoryWriterInit(output.as_mut_ptr());
        EncoderOutput(output.assume_init())
    };
    image.0.writer = Some(sys::WebPMemoryWrite);
    image.0.custom_ptr = (&raw mut output.0).cast::<c_void>();
    image.0.progress_hook = Some(go_on);
    image.0.user_data = (&raw const deadline).cast_mut().cast::<c_void>();
    // SAFETY: configuration and image are initialised; the writer and the deadline outlive the
    // call.
    let is_encoded = unsafe { sys::WebPEncode(&raw const config, &raw mut image.0) };
    if is_encoded == 0 {
        let error = image.0.error_code;
        return Err(match error {
            sys::WebPEncodingError::VP8_ENC_ERROR_USER_ABORT => ImageError::Time,
            _ => ImageError::Encode,
        });
    }
    if output.0.mem.is_null() {
        return Err(ImageError::Encode);
    }
    // SAFETY: the writer has `size` initialised bytes at `mem`.
    let bytes = unsafe { slice::from_raw_parts(output.0.mem, output.0.size) };
    Ok(bytes.to_vec())
}
