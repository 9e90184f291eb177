//! Additions to the response headers that Pingora writes: prepared lines, and the response's own
//! `Date`.

#[cfg(test)]
mod tests;

use super::{ConnIo, WRITE_BUFFER};
use crate::connection::response_header::{ReadyHeaderLines, ResponseHeaderWriter};

impl ConnIo {
    /// Buffers a header section with the additions in `lines`.
    pub(super) fn put_head(&mut self, section: &[u8], lines: &ReadyHeaderLines) {
        if self.output.capacity() == 0 {
            self.output.reserve_exact(WRITE_BUFFER);
        }
        let writer = ResponseHeaderWriter {
            out: &mut self.output,
            ready_lines: lines.added.as_deref(),
        };
        writer.copy(section, lines.date.as_ref());
    }
}
