//! Strings of JavaScript as they leave the engine.

use rquickjs::{Coerced, Ctx, Error, FromJs, Result, String as JsString, Value};

/// String as Web standards pass it on (`USVString`): half a surrogate pair, which no text in UTF-8
/// can have, becomes U+FFFD. Other values are converted to strings.
pub(super) struct UsvString(pub(super) String);

impl<'js> FromJs<'js> for UsvString {
    fn from_js(ctx: &Ctx<'js>, value: Value<'js>) -> Result<Self> {
        let Coerced(text) = Coerced::<JsString<'js>>::from_js(ctx, value)?;
        read(&text).map(Self)
    }
}

/// Returns the length of a string in bytes. The engine's own copy counts against its heap; a string
/// without room there is too long for any caller.
pub(super) fn length(text: &JsString<'_>) -> usize {
    let text = text.clone().to_cstring();
    text.map_or(usize::MAX, |text| text.len())
}

#[allow(
    unsafe_code,
    reason = "the engine's bytes may be no UTF-8, which its own `&str` takes them for"
)]
pub(super) fn read(text: &JsString<'_>) -> Result<String> {
    // An error means that its heap is full, which the engine has thrown.
    let text = text.clone().to_cstring().map_err(|_| Error::Exception)?;
    // SAFETY: the pointer is valid for this many bytes while `text` lives.
    let bytes = unsafe { std::slice::from_raw_parts(text.as_ptr().cast::<u8>(), text.len()) };
    Ok(match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => mended(bytes.to_vec()),
    })
}

/// Replaces half pairs. The engine writes one as if it were a character: in three bytes, as many as
/// U+FFFD has.
fn mended(mut bytes: Vec<u8>) -> String {
    let mut index = 0;
    while let Some(three) = bytes.get_mut(index..index + 3) {
        if three[0] == 0xed && three[1] >= 0xa0 {
            three.copy_from_slice("\u{fffd}".as_bytes());
        }
        index += 1;
    }
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpaired_surrogate_becomes_one_character_and_others_stay() {
        let half = |low: u8| [0xed, 0xa0 | low, 0x80];
        let all = [
            &half(0)[..],
            "a\u{d7ff}\u{e000}é😀".as_bytes(),
            &half(0x1f),
            &half(0x0f),
            "\u{d000}".as_bytes(),
        ];
        let text = mended(all.concat());
        assert_eq!(text, "\u{fffd}a\u{d7ff}\u{e000}é😀\u{fffd}\u{fffd}\u{d000}");
    }
}
