//! Types of images by their first bytes, as Next.js tells them.

edgeway_base::enum_table! {
    /// Type of an image: its media type, and the ending of file names.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Kind => texts: (&'static str, &'static str) {
        Jpeg = ("image/jpeg", "jpeg"),
        Png = ("image/png", "png"),
        Gif = ("image/gif", "gif"),
        WebP = ("image/webp", "webp"),
        Svg = ("image/svg+xml", "svg"),
        Avif = ("image/avif", "avif"),
        Ico = ("image/x-icon", "ico"),
        Icns = ("image/x-icns", "icns"),
        Tiff = ("image/tiff", "tiff"),
        Bmp = ("image/bmp", "bmp"),
        Jxl = ("image/jxl", "jxl"),
        Heic = ("image/heic", "heic"),
    }
}

/// First bytes of a type; zeros of WebP are its length.
const SIGNATURES: [(Kind, &[u8]); 12] = [
    (Kind::Jpeg, b"\xff\xd8\xff"),
    (Kind::Png, b"\x89PNG\r\n\x1a\n"),
    (Kind::Gif, b"GIF8"),
    (Kind::Svg, b"<?xml"),
    (Kind::Svg, b"<svg"),
    (Kind::Ico, b"\0\0\x01\0"),
    (Kind::Icns, b"icns"),
    (Kind::Tiff, b"II*\0"),
    (Kind::Bmp, b"BM"),
    (Kind::Jxl, b"\xff\x0a"),
    (Kind::Jxl, b"\0\0\0\x0cJXL \r\n\x87\n"),
    (Kind::WebP, b"RIFF"),
];

impl Kind {
    /// Returns the type of an image; `None` if another detector has to tell.
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        let signature = SIGNATURES.iter().find(|(kind, signature)| {
            bytes.starts_with(signature)
                && (*kind != Self::WebP || bytes.get(8..12) == Some(b"WEBP"))
        });
        if let Some((kind, _)) = signature {
            return Some(*kind);
        }
        // A box of this size, so that a text with these letters is none.
        let size = u32::from_be_bytes(*bytes.first_chunk()?);
        if bytes.get(4..8)? != b"ftyp" || size < 16 || size as usize > bytes.len() {
            return None;
        }
        match bytes.get(8..12)? {
            b"avif" => Some(Self::Avif),
            b"heic" => Some(Self::Heic),
            _ => None,
        }
    }

    /// Returns the media type.
    pub fn media_type(self) -> &'static str {
        self.texts().0
    }

    /// Returns the ending of file names, as Next.js has it in `Content-Disposition`.
    pub fn extension(self) -> &'static str {
        self.texts().1
    }
}

/// Returns true for an animation, which Next.js passes on as it is.
pub fn is_animated(kind: Kind, bytes: &[u8]) -> bool {
    match kind {
        Kind::Gif => has_two_frames(bytes),
        Kind::Png => is_animated_png(bytes),
        // Wherever these letters are: so does Next.js.
        Kind::WebP => memchr::memmem::find(bytes, b"ANIM").is_some(),
        _ => false,
    }
}

/// Walks the blocks of a GIF to its second frame.
fn has_two_frames(bytes: &[u8]) -> bool {
    let table = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3usize << ((flags & 7) + 1),
    };
    // Returns the length of a chain of blocks, each with its length before it.
    let blocks = |from: usize| {
        let mut offset = from;
        while let Some(length) = bytes.get(offset).filter(|length| **length > 0) {
            offset += usize::from(*length) + 1;
        }
        offset + 1
    };
    let Some(flags) = bytes.get(10) else {
        return false;
    };
    let mut offset = 13 + table(*flags);
    let mut frames = 0;
    while let Some(block) = bytes.get(offset) {
        match block {
            b',' => {
                frames += 1;
                if frames == 2 {
                    return true;
                }
                let flags = bytes.get(offset + 9).copied().unwrap_or_default();
                offset = blocks(offset + 10 + table(flags) + 1);
            }
            b'!' => offset = blocks(offset + 2),
            _ => return false,
        }
    }
    false
}

/// Looks for an animation's chunks in their order.
fn is_animated_png(bytes: &[u8]) -> bool {
    let (mut has_control, mut has_data, mut has_frame) = (false, false, false);
    let mut before: Option<[u8; 4]> = None;
    let mut offset = 8;
    while let Some(head) = bytes.get(offset..).and_then(<[u8]>::first_chunk::<8>) {
        let [a, b, c, d, name @ ..] = *head;
        let length = u32::from_be_bytes([a, b, c, d]);
        match &name {
            b"acTL" => has_control = true,
            b"IDAT" => {
                if !has_control || !matches!(before.as_ref(), Some(b"fcTL" | b"IDAT")) {
                    return false;
                }
                has_data = true;
            }
            b"fdAT" => {
                if !has_data || !matches!(before.as_ref(), Some(b"fcTL" | b"fdAT")) {
                    return false;
                }
                has_frame = true;
            }
            _ => {}
        }
        before = Some(name);
        offset = offset.saturating_add(12 + length as usize);
    }
    has_control && has_data && has_frame
}
