//! A head that is looked at before it is read, if it is read at all.

use bytes::{Buf, Bytes};

use super::{super::rest::Rest, ConnIo};

impl ConnIo {
    /// The head that is about to be read, which nothing follows.
    pub(in crate::edge) fn head(&self) -> Bytes {
        Bytes::copy_from_slice(&self.input[..self.unread()])
    }

    /// Passes over the head, if it was not read: its answer is sent.
    pub(in crate::edge) fn skip_head(&mut self) {
        self.input.advance(self.unread());
        self.rest = Rest::Bytes(0);
    }

    fn unread(&self) -> usize {
        match self.rest {
            Rest::Bytes(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                length.min(self.input.len())
            }
            Rest::Chunks(..) => 0,
        }
    }
}
