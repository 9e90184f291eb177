//! Reads a body: a whole one by its pieces, without a copy, or one that still grows.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    body::Body,
    filling::{Attached, Died},
};

/// What is found at a place in a body.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Its segment ends with it; otherwise that may still grow.
    pub(super) is_last: bool,
}

/// One reader of one body.
///
/// Dropping it says that nobody reads here any more.
#[derive(Debug)]
pub struct Reader {
    body: Arc<Body>,
    /// Of a body that was not whole when reading began.
    attached: Option<Attached>,
    /// Where the next byte is: the segment, and the place in it.
    segment: usize,
    offset: usize,
    /// How many bytes there are still to be read.
    left: u64,
}

impl Reader {
    pub(super) fn new(body: &Arc<Body>) -> Self {
        let attached = match body.whole() {
            Some(_) => None,
            None => body.filling().map(|filling| filling.attach(false)),
        };
        Self::of(body, attached)
    }

    pub(super) fn of(body: &Arc<Body>, attached: Option<Attached>) -> Self {
        Self {
            body: Arc::clone(body),
            attached,
            segment: 0,
            offset: 0,
            left: u64::MAX,
        }
    }

    /// The next bytes, in pieces as they are kept; `None` at the end. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// The body will never be whole: its writer died, or dropped this reader for its
    /// slowness.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Died> {
        while self.left > 0 {
            let piece = match (self.body.whole(), &mut self.attached) {
                (Some(whole), attached) => {
                    // The writer need not wait for us any more.
                    *attached = None;
                    let segment = whole.segments().get(self.segment);
                    segment.map(|segment| Piece {
                        bytes: segment.slice(self.offset..),
                        is_last: true,
                    })
                }
                (None, Some(attached)) => {
                    let next = attached.next(&self.body, self.segment, self.offset);
                    next.await?
                }
                (None, None) => return Err(Died::Writer),
            };
            let Some(piece) = piece else {
                return Ok(None);
            };
            let bytes = self.advance(piece);
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Lets go of what is still being written, for good.
    pub fn leave(&mut self) {
        self.attached = None;
    }

    /// Whether [`Reader::seek`] works: the body is whole.
    pub fn can_seek(&self) -> bool {
        self.body.whole().is_some()
    }

    /// Goes to `start`, to read up to and without `end`. `false` if the body is not whole or
    /// does not reach to `start`.
    pub fn seek(&mut self, start: u64, end: Option<u64>) -> bool {
        let Some(whole) = self.body.whole() else {
            return false;
        };
        if start >= whole.len() {
            return false;
        }
        self.attached = None;
        self.left = end.unwrap_or(u64::MAX).saturating_sub(start);
        let mut before = start;
        for (at, segment) in whole.segments().iter().enumerate() {
            let len = segment.len() as u64;
            if before < len {
                self.segment = at;
                self.offset = usize::try_from(before).unwrap_or(usize::MAX);
                break;
            }
            before -= len;
        }
        true
    }

    fn advance(&mut self, Piece { mut bytes, is_last }: Piece) -> Bytes {
        if is_last {
            self.segment += 1;
            self.offset = 0;
        } else {
            self.offset += bytes.len();
        }
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= bytes.len() as u64;
        bytes
    }
}
