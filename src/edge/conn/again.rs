//! A head that is read twice: by the shortcut, and by the proxy after all.

use bytes::BytesMut;

use super::{super::rest::Rest, ConnIo, READ_BUFFER};

impl ConnIo {
    /// Remembers the head that is about to be read, which nothing follows.
    pub(in crate::edge) fn keep_head(&mut self) {
        self.head.clear();
        if let Rest::Bytes(length) = self.rest {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let head = &self.input[..length.min(self.input.len())];
            self.head.extend_from_slice(head);
        }
    }

    /// The head that was kept comes once more.
    pub(in crate::edge) fn read_again(&mut self) {
        let mut input = BytesMut::with_capacity(self.head.len() + READ_BUFFER);
        input.extend_from_slice(&self.head);
        input.extend_from_slice(&self.input);
        self.input = input;
        self.rest = Rest::Bytes(self.head.len() as u64);
    }

    /// Gives back the room of a long one.
    pub(super) fn forget_head(&mut self) {
        if self.head.capacity() > 2 * READ_BUFFER {
            self.head = Vec::new();
        }
    }
}
