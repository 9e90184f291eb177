//! Extents of values in a YAML text, which may be broken.

use std::ops::Range;

/// Returns the lines after the line of `at` that are indented more than the line of `key`, without
/// their line ends.
pub(super) fn deeper(text: &str, at: usize, key: usize) -> Vec<Range<usize>> {
    let first = text[..key].rfind('\n').map_or(0, |end| end + 1);
    // A list's dash is part of the indentation of its item.
    let indentation = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let least = indentation(&text[first..]);
    let mut lines = Vec::new();
    let mut from = text[at..].find('\n').map_or(text.len(), |end| at + end + 1);
    while from < text.len() {
        let end = text[from..].find('\n').map_or(text.len(), |end| from + end);
        let line = text[from..end].trim_end_matches('\r');
        let is_empty = line.trim().is_empty();
        if !is_empty && indentation(line) <= least {
            break;
        }
        lines.extend((!is_empty).then(|| from..from + line.len()));
        from = end + 1;
    }
    lines
}

/// Returns the end of a plain value, and true if it is within braces or brackets on its line.
pub(super) fn plain_end(text: &str, start: usize) -> (usize, bool) {
    let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let depth = text[line..start]
        .bytes()
        .fold(0i32, |depth, byte| match byte {
            b'{' | b'[' => depth + 1,
            b'}' | b']' => depth - 1,
            _ => depth,
        });
    let rest = text[start..].lines().next().unwrap_or_default();
    let is_flow = depth > 0;
    let end = if is_flow {
        rest.find([',', '}', ']'])
    } else {
        rest.find(" #")
    };
    let value = rest[..end.unwrap_or(rest.len())].trim_end();
    (start + value.len(), is_flow)
}

/// Returns the offset after the quote that closes the one at `start`, or the end of the text.
pub(super) fn unquote(text: &str, start: usize, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut index = start + 1;
    while index < bytes.len() {
        match bytes[index] {
            b'\\' if quote == b'"' => index += 1,
            byte if byte == quote => {
                if quote == b'\'' && bytes.get(index + 1) == Some(&quote) {
                    index += 1;
                } else {
                    return index + 1;
                }
            }
            _ => {}
        }
        index += 1;
    }
    text.len()
}

/// Returns the bracket or brace that closes the one at `start`, or the end of the text.
pub(super) fn close(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut index, mut depth) = (start, 0);
    while index < bytes.len() {
        match bytes[index] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return index;
                }
            }
            quote @ (b'"' | b'\'') if index > start && b" ,[{:\n".contains(&bytes[index - 1]) => {
                index = unquote(text, index, quote) - 1;
            }
            _ => {}
        }
        index += 1;
    }
    text.len()
}

/// Returns the items between the commas of a list or mapping, without nested mappings and lists.
pub(super) fn items(text: &str, within: Range<usize>) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut items = Vec::new();
    let (mut from, mut index) = (within.start, within.start);
    let end = within.end.min(bytes.len());
    let mut is_scalar = true;
    while index < end {
        match bytes[index] {
            b'{' | b'[' => {
                is_scalar = false;
                index = close(text, index);
            }
            quote @ (b'"' | b'\'') => index = unquote(text, index, quote) - 1,
            b',' => {
                items.extend(is_scalar.then_some(from..index));
                (from, is_scalar) = (index + 1, true);
            }
            _ => {}
        }
        index += 1;
    }
    items.extend((is_scalar && from < end).then_some(from..end));
    items
}

/// Returns the end of the lines after the line of `key` that are indented at least as much, or are
/// items of a list there; `None` at the end of the text.
pub(super) fn same_or_deeper(text: &str, key: usize) -> Option<usize> {
    let first = text[..key].rfind('\n').map_or(0, |end| end + 1);
    let indentation = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let least = key - first;
    let mut from = key + text[key..].find('\n')? + 1;
    while from < text.len() {
        let end = text[from..].find('\n').map_or(text.len(), |end| from + end);
        let line = text[from..end].trim_end_matches('\r');
        if !line.trim().is_empty() && indentation(line) < least {
            return Some(from);
        }
        from = end + 1;
    }
    None
}
