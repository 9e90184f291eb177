//! Access to a raw request head before it is read, for requests that may skip Pingora's session.

use bytes::{Buf, Bytes};
use edgeway_base::shared_copy::shared_copy;

use super::{super::body_remainder::BodyRemainder, ConnIo};
use crate::connection::fast_path::RequestOutline;

impl ConnIo {
    /// Returns the outline of the request whose head is about to be read.
    pub(in crate::edge) fn outline(&self) -> RequestOutline {
        self.outline.0
    }

    /// Returns the head that is about to be read.
    pub(in crate::edge) fn head(&self) -> Bytes {
        shared_copy(&self.input[..self.outline.1])
    }

    /// Skips the head of a request whose response was sent without reading it. A body has been read.
    pub(in crate::edge) fn skip_head(&mut self) {
        self.input.advance(self.unread());
        self.remainder = BodyRemainder::Bytes(0);
    }

    fn unread(&self) -> usize {
        match self.remainder {
            BodyRemainder::Bytes(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                length.min(self.input.len())
            }
            BodyRemainder::Chunks(..) => 0,
        }
    }
}
