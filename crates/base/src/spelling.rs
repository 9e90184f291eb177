//! The spellings of a path: the ways in which apps may interpret a path in normal form.
//!
//! Frameworks and servers fold case, slashes, parameters (`;…`) and encodings, each in its own way.
//! A [`Reading`] is the result of one of them for a path. A rule that guards a path guards every
//! path that shares a reading with it.

use std::ops::Range;

use super::target::encoded_byte;

/// Bytes of a path, each with its offset in the original path.
type DecodedPath = Vec<(u8, usize)>;

/// An interpretation of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Begins with `/`; in lower case, without empty segments and without a trailing slash.
    /// Decoding may produce bytes that no path has.
    path: Vec<u8>,
    /// Original offset of each byte of `path`.
    from: Vec<usize>,
    /// Original end of the last byte.
    end: usize,
}

/// Number of times that percent-encoding is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoding {
    None,
    /// Once, except for bytes with a meaning in a path, such as an encoded slash.
    Kept,
    Once,
    Twice,
    /// Until nothing is encoded.
    Whole,
}

/// Treatment of `;` (and of bytes that end a path once decoded) and the rest after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameters {
    Keep,
    /// Removed from each segment.
    Strip,
    /// Ends the path.
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dots {
    Keep,
    Resolve,
}

const DECODINGS: [Decoding; 5] = [
    Decoding::None,
    Decoding::Kept,
    Decoding::Once,
    Decoding::Twice,
    Decoding::Whole,
];

/// Returns the distinct readings of a path in normal form; the one that changes least comes first.
pub fn readings(path: &[u8]) -> Vec<Reading> {
    let count = if path.contains(&b'%') { 5 } else { 1 };
    readings_by(path, &DECODINGS[..count])
}

/// Returns the readings as [`readings`] does, of apps that remove percent-encoding: those to compare
/// where the path of a request is compared without it.
pub fn decoded_readings(path: &[u8]) -> Vec<Reading> {
    readings_by(path, &DECODINGS[1..])
}

fn readings_by(path: &[u8], decodings: &[Decoding]) -> Vec<Reading> {
    let mut all = readings_without_host(path, decodings);
    // `new URL(path, base)` takes `//name/rest` for a host and a path (RFC 3986, 4.2).
    if let Some(behind) = path.strip_prefix(b"//") {
        let slash = behind.iter().position(|byte| *byte == b'/');
        let start = slash.map_or(path.len() - 1, |slash| 2 + slash);
        let rest: &[u8] = if slash.is_some() {
            &path[start..]
        } else {
            b"/"
        };
        for mut reading in readings_without_host(rest, decodings) {
            reading.from.iter_mut().for_each(|from| *from += start);
            reading.end += start;
            if all.iter().all(|known| known.path != reading.path) {
                all.push(reading);
            }
        }
    }
    all
}

fn readings_without_host(path: &[u8], decodings: &[Decoding]) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    let mut last = DecodedPath::new();
    for decoding in decodings {
        let text = decoded(path, *decoding);
        if text == last {
            continue;
        }
        let has = |bytes: &[u8]| text.iter().any(|(byte, _)| bytes.contains(byte));
        let parameters: &[Parameters] = if has(b";?#") {
            &[Parameters::Keep, Parameters::Strip, Parameters::Cut]
        } else {
            &[Parameters::Keep]
        };
        // A path in normal form has dot segments only after decoding or cutting.
        let dots: &[Dots] = if has(b".") {
            &[Dots::Keep, Dots::Resolve]
        } else {
            &[Dots::Keep]
        };
        for parameters in parameters {
            for dots in dots {
                let reading = read(&text, path.len(), *parameters, *dots);
                if readings.iter().all(|known| known.path != reading.path) {
                    readings.push(reading);
                }
            }
        }
        last = text;
    }
    let pages: Vec<Reading> = readings.iter().filter_map(Reading::page).collect();
    for page in pages {
        if readings.iter().all(|known| known.path != page.path) {
            readings.push(page);
        }
    }
    readings
}

/// Returns true if the path may be an address that Next.js derives from another path.
#[inline]
pub(super) fn is_of_page(path: &[u8]) -> bool {
    path.ends_with(RSC) || path.ends_with(JSON) && data_at(path).is_some() || is_image(path)
}

/// Returns true for the address of the image optimizer of Next.js, also below a base path.
pub fn is_image(path: &[u8]) -> bool {
    path.strip_suffix(b"/")
        .unwrap_or(path)
        .ends_with(b"/_next/image")
}

/// Returns the start of a data address, after the app's `basePath`.
fn data_at(path: &[u8]) -> Option<usize> {
    path.windows(DATA.len()).position(|part| part == DATA)
}

/// Data address of the pages router of Next.js: `/_next/data/BUILD/page.json`.
const DATA: &[u8] = b"/_next/data/";
const JSON: &[u8] = b".json";
/// Addresses that the app router serves to its own scripts: `/page.rsc`, `/page.prefetch.rsc`, and
/// `/page.segments/x.segment.rsc`.
const RSC: &[u8] = b".rsc";
const PREFETCH: &[u8] = b".prefetch";
const SEGMENTS: &[u8] = b".segments/";

/// Returns the segments of a piece of a pattern in each of the readings, in the same order for all
/// pieces. No reading cuts: more of the pattern may follow the cut.
pub fn pieces(piece: &[u8]) -> impl Iterator<Item = Vec<Vec<u8>>> {
    let all = DECODINGS.iter().flat_map(|decoding| {
        [
            (*decoding, Parameters::Keep),
            (*decoding, Parameters::Strip),
        ]
    });
    all.map(|(decoding, parameters)| {
        let text = decoded(piece, decoding);
        let reading = read(&text, piece.len(), parameters, Dots::Keep);
        let segments = reading.path.split(|byte| *byte == b'/');
        segments
            .filter(|segment| !segment.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    })
}

impl Reading {
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Returns the Next.js page that this address is derived from.
    fn page(&self) -> Option<Self> {
        let path = &*self.path;
        let (base, page) = if let Some(base) = data_at(path) {
            let build = base + DATA.len();
            let from = build + path[build..].iter().position(|byte| *byte == b'/')?;
            let page = path[from..].strip_suffix(JSON)?;
            (0..base, from..from + page.len())
        } else {
            let stripped = path.strip_suffix(RSC)?;
            let stripped = stripped.strip_suffix(PREFETCH).unwrap_or(stripped);
            let mut parts = stripped.windows(SEGMENTS.len());
            let end = parts.position(|part| part == SEGMENTS);
            (0..0, 0..end.unwrap_or(stripped.len()))
        };
        // Next.js calls the page at the root `index`.
        let page = match &path[page.clone()] {
            b"/index" if base.is_empty() => page.start..page.start + 1,
            b"/index" => page.start..page.start,
            _ => page,
        };
        let read = [&path[base.clone()], &path[page.clone()]].concat();
        let from = [&self.from[base.clone()], &self.from[page.clone()]].concat();
        let last = if page.is_empty() { base } else { page };
        (!read.is_empty()).then(|| Self {
            path: read,
            from,
            end: self.origin(last).end,
        })
    }

    /// Appends a trailing slash, which some patterns require.
    #[must_use]
    pub fn with_slash(mut self) -> Self {
        if self.path.len() > 1 {
            self.path.push(b'/');
            self.from.push(self.end);
        }
        self
    }

    /// Maps a part of the reading to its place in the original path.
    pub fn origin(&self, part: Range<usize>) -> Range<usize> {
        let offset = |place: usize| self.from.get(place).copied().unwrap_or(self.end);
        if part.is_empty() {
            return 0..0;
        }
        offset(part.start)..offset(part.end)
    }
}

/// Decodes a path and folds it to lower case.
fn decoded(path: &[u8], decoding: Decoding) -> DecodedPath {
    let raw: DecodedPath = path.iter().copied().zip(0..).collect();
    let text = match decoding {
        Decoding::None => raw,
        Decoding::Kept => once(&raw, b"/\\;?#%"),
        Decoding::Once => once(&raw, b""),
        Decoding::Twice => once(&once(&raw, b""), b""),
        Decoding::Whole => decoded_fully(&raw),
    };
    folded(&without_overlong(text))
}

fn once(text: &DecodedPath, protected: &[u8]) -> DecodedPath {
    let mut out = DecodedPath::with_capacity(text.len());
    let mut index = 0;
    while let Some(&(byte, from)) = text.get(index) {
        if let Some(code) = code_at(text, index).filter(|code| !protected.contains(code)) {
            out.push((code, from));
            index += 3;
        } else {
            out.push((byte, from));
            index += 1;
        }
    }
    out
}

/// Decodes completely in one pass: sequences completed by a decoded byte are decoded at once.
fn decoded_fully(text: &DecodedPath) -> DecodedPath {
    let mut out = DecodedPath::with_capacity(text.len());
    for byte in text {
        out.push(*byte);
        while let Some(start) = out.len().checked_sub(3)
            && let Some(code) = code_at(&out, start)
        {
            let from = out[start].1;
            out.truncate(start);
            out.push((code, from));
        }
    }
    out
}

/// Returns the byte that `%xx` at `at` encodes.
fn code_at(text: &DecodedPath, at: usize) -> Option<u8> {
    let three = [text.get(at)?.0, text.get(at + 1)?.0, text.get(at + 2)?.0];
    encoded_byte(&three, 0).filter(|_| three[0] == b'%')
}

/// Replaces overlong UTF-8 forms of ASCII bytes (RFC 3629, 10), which old decoders accept.
fn without_overlong(text: DecodedPath) -> DecodedPath {
    if text.iter().all(|(byte, _)| byte.is_ascii()) {
        return text;
    }
    let byte = |at: usize| text.get(at).map_or(0, |(byte, _)| *byte);
    let is_next = |at: usize| (0x80..0xc0).contains(&byte(at));
    let mut out = DecodedPath::with_capacity(text.len());
    let mut at = 0;
    while let Some(&(first, from)) = text.get(at) {
        let length = match first {
            0xc0 | 0xc1 if is_next(at + 1) => 2,
            0xe0 if matches!(byte(at + 1), 0x80 | 0x81) && is_next(at + 2) => 3,
            0xf0 if byte(at + 1) == 0x80
                && matches!(byte(at + 2), 0x80 | 0x81)
                && is_next(at + 3) =>
            {
                4
            }
            _ => 1,
        };
        let code = match length {
            1 => first,
            // The last byte holds six bits, and the byte before it the seventh.
            _ => (byte(at + length - 2) & 1) << 6 | byte(at + length - 1) & 0x3f,
        };
        out.push((code, from));
        at += length;
    }
    out
}

fn folded(text: &DecodedPath) -> DecodedPath {
    let mut out = DecodedPath::with_capacity(text.len());
    if text.iter().all(|(byte, _)| byte.is_ascii()) {
        out.extend(
            text.iter()
                .map(|(byte, from)| (byte.to_ascii_lowercase(), *from)),
        );
        return out;
    }
    let bytes: Vec<u8> = text.iter().map(|(byte, _)| *byte).collect();
    let mut index = 0;
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            let from = text[index].1;
            index += letter.len_utf8();
            // Letters with the same capital (σ and ς, s and ſ) count as one letter.
            let capitals = letter.to_uppercase();
            for small in capitals.flat_map(char::to_lowercase) {
                let mut room = [0; 4];
                let small = small.encode_utf8(&mut room).bytes();
                out.extend(small.map(|byte| (byte, from)));
            }
        }
        for byte in chunk.invalid() {
            out.push((*byte, text[index].1));
            index += 1;
        }
    }
    out
}

fn read(text: &DecodedPath, end: usize, parameters: Parameters, dots: Dots) -> Reading {
    let mut reading = Reading {
        path: Vec::with_capacity(text.len()),
        from: Vec::with_capacity(text.len()),
        end,
    };
    // Start of the segment whose bytes follow, if one has begun.
    let mut slash = Some(0);
    let mut start = 0;
    let mut is_skipped = false;
    for &(byte, from) in text {
        match byte {
            b'/' | b'\\' => {
                reading.finish(start, dots);
                slash = slash.or(Some(from));
                is_skipped = false;
                continue;
            }
            b';' | b'?' | b'#' if parameters != Parameters::Keep => {
                if parameters == Parameters::Cut || byte != b';' {
                    reading.end = slash.unwrap_or(from);
                    slash = None;
                    break;
                }
                is_skipped = true;
            }
            // URL parsers drop these bytes.
            b'\t' | b'\r' | b'\n' => continue,
            _ => {}
        }
        if is_skipped {
            continue;
        }
        if let Some(slash) = slash.take() {
            start = reading.path.len();
            reading.path.push(b'/');
            reading.from.push(slash);
        }
        reading.path.push(byte);
        reading.from.push(from);
    }
    reading.finish(start, dots);
    if let Some(slash) = slash {
        reading.end = slash;
    }
    if reading.path.is_empty() {
        reading.path.push(b'/');
        reading.from.push(0);
    }
    reading
}

impl Reading {
    /// Ends the segment that began at `start`.
    fn finish(&mut self, start: usize, dots: Dots) {
        if dots == Dots::Keep {
            return;
        }
        let keep = match self.path.get(start..) {
            Some(b"/.") => start,
            Some(b"/..") => {
                let before = &self.path[..start];
                before.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
            }
            _ => return,
        };
        self.path.truncate(keep);
        self.from.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(path: &str) -> Vec<String> {
        let readings = readings(path.as_bytes()).into_iter();
        readings
            .map(|reading| String::from_utf8_lossy(&reading.path).into_owned())
            .collect()
    }

    #[test]
    fn a_path_has_the_readings_of_apps() {
        for (path, expected) in [
            ("/", &["/"][..]),
            ("/a/b", &["/a/b"]),
            ("/API/Admin/", &["/api/admin"]),
            ("//a///b", &["/a/b", "/b"]),
            ("//x/Api//y/z", &["/x/api/y/z", "/api/y/z"]),
            ("//x", &["/x", "/"]),
            ("/api;a=b/x", &["/api;a=b/x", "/api/x", "/api"]),
            ("/api/;x", &["/api/;x", "/api"]),
            ("/api%2Fx", &["/api%2fx", "/api/x"]),
            ("/%2561pi", &["/%2561pi", "/%61pi", "/api"]),
            ("/a%252Fb", &["/a%252fb", "/a%2fb", "/a/b"]),
            (
                "/x/%252e%252E/api",
                &["/x/%252e%252e/api", "/x/%2e%2e/api", "/x/../api", "/api"],
            ),
            ("/api%3Fx/y", &["/api%3fx/y", "/api?x/y", "/api"]),
            ("/a%25255Cb", &["/a%25255cb", "/a%255cb", "/a%5cb", "/a/b"]),
            ("/%C3%89", &["/%c3%89", "/é"]),
            ("/%E2%84%AA%C5%BF", &["/%e2%84%aa%c5%bf", "/ks"]),
            ("/api%C0%AFx", &["/api%c0%afx", "/api/x"]),
            ("/api%E0%80%AFx", &["/api%e0%80%afx", "/api/x"]),
            ("/ap%09i", &["/ap%09i", "/api"]),
            (
                "/_next/data/b1/A/b.json",
                &["/_next/data/b1/a/b.json", "/a/b"],
            ),
            (
                "/_next/data/b1/index.json",
                &["/_next/data/b1/index.json", "/"],
            ),
            (
                "/shop/_next/data/b1/a/b.json",
                &["/shop/_next/data/b1/a/b.json", "/shop/a/b"],
            ),
            (
                "/shop/_next/data/b1/index.json",
                &["/shop/_next/data/b1/index.json", "/shop"],
            ),
            ("/_next/data/b1/a.js", &["/_next/data/b1/a.js"]),
            ("/a.prefetch.rsc", &["/a.prefetch.rsc", "/a"]),
            ("/%CE%A3%CF%82", &["/%ce%a3%cf%82", "/σσ"]),
            ("/a/b.rsc", &["/a/b.rsc", "/a/b"]),
            (
                "/a.segments/_tree.segment.rsc",
                &["/a.segments/_tree.segment.rsc", "/a"],
            ),
            ("/a%FFb", &["/a%ffb", "/a\u{fffd}b"]),
        ] {
            assert_eq!(all(path), expected, "{path}");
        }
    }

    #[test]
    fn a_part_is_found_in_the_path_as_it_came() {
        let origin = |path: &str, nth: usize, part: &str| {
            let reading = readings(path.as_bytes()).remove(nth);
            let text = String::from_utf8(reading.path.clone()).unwrap();
            let at = text.find(part).unwrap();
            let range = reading.origin(at..at + part.len());
            path[range].to_owned()
        };
        assert_eq!(origin("/API/Ab/c", 0, "ab"), "Ab");
        assert_eq!(origin("/API/Ab/", 0, "ab"), "Ab");
        assert_eq!(origin("/API//Ab", 0, "ab"), "Ab");
        assert_eq!(origin("/%2561pi/%2541b", 2, "ab"), "%2541b");
        assert_eq!(origin("/a;x=y/b;z", 1, "b"), "b;z");
        assert_eq!(origin("/a%2Fb/c", 1, "b"), "b");
        assert_eq!(origin("/a/B;c/d", 2, "b"), "B");
    }

    #[test]
    fn a_piece_of_a_pattern_has_as_many_forms_as_any_other() {
        let forms = |piece: &str| pieces(piece.as_bytes()).collect::<Vec<_>>();
        assert_eq!(forms("api").len(), forms("a%252Fb;c").len());
        assert!(forms("API").iter().all(|form| *form == [b"api"]));
        assert_eq!(forms("@a%2Fb")[0], [b"@a%2fb"]);
        assert_eq!(forms("@a%2Fb")[4], [&b"@a"[..], b"b"]);
        assert_eq!(forms("")[0], [b""; 0]);
    }

    proptest! {
        #[test]
        fn readings_are_few_and_have_one_form(path in "/([aA./;?%2f5cC0-9#\\\\é]|%25|%2[fFeE]|%C0){0,24}") {
            let all = readings(path.as_bytes());
            prop_assert!((1..=120).contains(&all.len()));
            for reading in &all {
                let text = &reading.path;
                prop_assert_eq!(text.first(), Some(&b'/'));
                prop_assert!(text.len() == 1 || text.last() != Some(&b'/'));
                prop_assert!(!text.windows(2).any(|two| two == b"//"));
                prop_assert!(!text.iter().any(u8::is_ascii_uppercase));
                prop_assert_eq!(text.len(), reading.from.len());
                let range = reading.origin(0..text.len());
                prop_assert!(range.end <= path.len() && range.start <= range.end);
            }
        }

        #[test]
        fn what_is_decoded_at_once_is_what_is_decoded_again_and_again(path in "/(%25|25|2|5|%|f|F){0,16}") {
            let mut text: DecodedPath = path.bytes().zip(0..).collect();
            let all = decoded_fully(&text);
            loop {
                let next = once(&text, b"");
                if next.len() == text.len() {
                    break;
                }
                text = next;
            }
            let bytes = |text: &DecodedPath| text.iter().map(|(byte, _)| *byte).collect::<Vec<_>>();
            prop_assert_eq!(bytes(&all), bytes(&text));
        }
    }
}
