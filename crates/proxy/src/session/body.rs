//! Body of a request: read from its client by filters, by the page of an error, or on its way to a
//! backend. What was read can be read again as long as it is short.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use edgeway_base::http::{decimal, has, values};
use http::{HeaderMap, header};

use crate::message::{Framing, MessageBody, Piece};

/// Limit on content that is kept for another attempt, the same as Pingora's.
const MAX_KEPT: usize = 64 * 1024;
/// Length up to which a piece is copied, since it shares the buffer of its read.
const SMALL: usize = 4096;

/// Body of a request: the part that its client has sent.
#[derive(Debug, Default)]
pub(crate) struct RequestBody {
    /// `None` if the request has no body.
    pub(super) framing: Option<MessageBody>,
    /// Bytes that were received and not used yet.
    pub(super) input: BytesMut,
    /// Content so far, for another attempt; `None` if it was too long.
    kept: Option<KeptContent>,
    /// Pieces that were read before, and are to be read again.
    pub(super) again: VecDeque<Piece>,
    /// True if another body has taken the place of the client's.
    pub(crate) is_replaced: bool,
    /// Number of content bytes received.
    pub(crate) received: u64,
}

/// Content that another attempt may need.
///
/// Pieces share the buffers of their reads, which may be much larger: a small one is copied, and a
/// large one is kept as it is.
#[derive(Debug, Default)]
struct KeptContent {
    large: Vec<Bytes>,
    /// Copies of the small pieces after the last large one.
    small: BytesMut,
    length: usize,
}

impl KeptContent {
    /// Adds a piece; `None` if it is too much.
    fn with(mut self, piece: &Bytes) -> Option<Self> {
        self.length += piece.len();
        if self.length > MAX_KEPT {
            return None;
        }
        if piece.len() <= SMALL {
            self.small.extend_from_slice(piece);
        } else {
            if !self.small.is_empty() {
                self.large.push(self.small.split().freeze());
            }
            self.large.push(piece.clone());
        }
        Some(self)
    }

    /// Returns a whole body, of any length.
    fn from_body(body: &Bytes) -> Self {
        Self {
            large: Vec::from_iter((!body.is_empty()).then(|| body.clone())),
            ..Self::default()
        }
    }

    fn pieces(&self) -> impl Iterator<Item = Bytes> {
        let small = (!self.small.is_empty()).then(|| Bytes::copy_from_slice(&self.small));
        self.large.iter().cloned().chain(small)
    }
}

impl RequestBody {
    /// Creates the body of a request with these `headers`, which were checked when they came.
    pub(crate) fn new(headers: &HeaderMap, has_body: bool) -> Self {
        Self {
            framing: has_body.then(|| MessageBody::new(framing(headers))),
            kept: Some(KeptContent::default()),
            ..Self::default()
        }
    }

    /// Returns true if the request has a body.
    pub(crate) fn is_there(&self) -> bool {
        self.framing.is_some()
    }

    /// Returns true if another attempt can send the same body.
    pub(crate) fn is_replayable(&self) -> bool {
        self.kept.is_some()
    }

    /// Returns true if all of it was read from the client.
    pub(crate) fn is_read(&self) -> bool {
        self.framing.as_ref().is_none_or(MessageBody::is_complete)
    }

    /// Begins from the start, for an attempt. What is kept no more was not sent yet.
    pub(crate) fn rewind(&mut self) {
        let Some(kept) = &self.kept else {
            return;
        };
        let piece = |bytes| Piece {
            bytes: Some(bytes),
            is_last: false,
        };
        self.again = kept.pieces().map(piece).collect();
        let (is_read, is_there) = (self.is_read(), self.is_there());
        match self.again.back_mut() {
            Some(last) => last.is_last = is_read,
            None if is_read && is_there => self.again.push_back(Piece::END),
            None => {}
        }
    }

    /// Records a piece that was read from the client.
    pub(super) fn record(&mut self, piece: &Piece) {
        if let Some(content) = &piece.bytes {
            self.received += content.len() as u64;
            self.kept = self.kept.take().and_then(|kept| kept.with(content));
        }
    }

    /// Puts back what was read, so that it is read again.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        let is_last = self.is_read();
        self.again.push_front(Piece {
            bytes: (!bytes.is_empty()).then_some(bytes),
            is_last,
        });
    }

    /// Forgets what was read: nothing of it is sent again.
    pub(crate) fn forget(&mut self) {
        self.kept = None;
        self.again.clear();
    }

    /// Takes what was read so far, if all of it is still there.
    pub(crate) fn take_kept(&mut self) -> Option<BytesMut> {
        let mut all = BytesMut::new();
        for piece in self.kept.take()?.pieces() {
            all.extend_from_slice(&piece);
        }
        self.again.clear();
        Some(all)
    }

    /// Replaces the body, all of which was read, for this attempt and those after it.
    pub(crate) fn replace(&mut self, body: &Bytes) {
        self.is_replaced = true;
        self.kept = Some(KeptContent::from_body(body));
        self.framing = (!body.is_empty()).then(|| MessageBody::new(Framing::None));
    }

    /// Removes the body, what is left of which was read or is dropped with its connection.
    pub(crate) fn remove(&mut self) {
        self.is_replaced = false;
        self.framing = None;
        self.kept = Some(KeptContent::default());
        self.again.clear();
    }
}

fn framing(headers: &HeaderMap) -> Framing {
    if has(headers, &header::TRANSFER_ENCODING) {
        return Framing::Chunked;
    }
    let length = values(headers, &header::CONTENT_LENGTH).next();
    let length = length.and_then(|length| decimal(length.as_bytes()));
    length.map_or(Framing::Chunked, Framing::Length)
}
