//! Recognises file names that contain a hash of the content, as bundlers write them.

/// Digits from which on a part of a name is a hash: bundlers write eight or more.
const MIN_DIGITS: usize = 8;

/// Returns true if the file name of a path has a hexadecimal hash between `.`, `-`, `_` and `~`,
/// and an extension: `main.8e3f2a1b.js`. A part of digits alone may be a date or a number, and one
/// of letters alone a word.
pub(super) fn is_hashed(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else {
        return false;
    };
    let mut parts = name[..dot].split(|byte| matches!(byte, b'.' | b'-' | b'_' | b'~'));
    parts.any(|part| {
        part.len() >= MIN_DIGITS
            && part
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && part.iter().any(u8::is_ascii_digit)
            && part.iter().any(u8::is_ascii_lowercase)
    })
}

#[cfg(test)]
mod tests {
    use super::is_hashed;

    #[test]
    fn names_of_bundlers_are_hashed_and_others_are_not() {
        for path in [
            "/static/js/main.8e3f2a1b.js",
            "/assets/index-4f0d33e2c1.css",
            "/_next/static/chunks/0a1b2c3d4e5f6789.js",
            "/media/logo.5d5d9eefa31e5e13a6610d9fa7a283bb.svg",
        ] {
            assert!(is_hashed(path.as_bytes()), "{path}");
        }
        for path in [
            "/app.js",
            "/8e3f2a1b/app.js",
            "/report-20240131.pdf",
            "/defaced-cafebabe.html",
            "/8e3f2a1b",
            "/a.8E3F2A1B.js",
            "/",
            "",
        ] {
            assert!(!is_hashed(path.as_bytes()), "{path}");
        }
    }
}
