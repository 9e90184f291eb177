//! The file that the path of a request names, relative to a root.

use percent_encoding::percent_decode;

/// A path below a root. Its segments are neither empty nor `.` nor `..`, and contain no slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelativePath {
    /// Without a leading or trailing slash; empty for the root itself.
    pub(crate) bytes: Vec<u8>,
    /// True if the path ends with a slash, so that only a folder can have it.
    pub(crate) is_folder: bool,
}

/// Folder that is served although it begins with a dot (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

impl RelativePath {
    /// Returns the path that `path`, the path of a request in normal form, names. `None` if no file
    /// can have it, or if it is a dot file and those are not served.
    ///
    /// A file has one path only: an encoded slash or an empty segment names none, so that no guard
    /// on a path can be bypassed with another spelling of it.
    pub(crate) fn parse(path: &[u8], serves_dot_files: bool) -> Option<Self> {
        let rest = path.strip_prefix(b"/")?;
        let mut bytes = Vec::with_capacity(rest.len());
        let mut segments = rest.split(|byte| *byte == b'/').peekable();
        let mut is_folder = rest.is_empty();
        let mut is_first = true;
        while let Some(segment) = segments.next() {
            if segment.is_empty() {
                if segments.peek().is_some() {
                    return None;
                }
                is_folder = true;
                break;
            }
            if !is_first {
                bytes.push(b'/');
            }
            let start = bytes.len();
            bytes.extend(percent_decode(segment));
            let name = &bytes[start..];
            if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
                return None;
            }
            let is_hidden = name.starts_with(b".") && !(is_first && name == WELL_KNOWN);
            if is_hidden && !serves_dot_files {
                return None;
            }
            is_first = false;
        }
        Some(Self { bytes, is_folder })
    }

    /// Returns the path of `name` in this folder.
    pub(crate) fn join(&self, name: &str) -> Vec<u8> {
        let mut joined = self.bytes.clone();
        if !joined.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(name.as_bytes());
        joined
    }
}
