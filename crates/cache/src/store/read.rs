//! Reads a body: a complete one segment by segment without a copy, or one that is still growing.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    body::Body,
    filling::{AttachedReader, FillEnd},
};

/// Bytes at a position in a body.
#[derive(Debug)]
pub(super) struct BodyPiece {
    pub(super) bytes: Bytes,
    /// True if the segment ends with this piece; otherwise the segment may still grow.
    pub(super) is_last: bool,
}

/// A reader of a body.
///
/// Dropping it detaches it from the writer.
#[derive(Debug)]
pub struct Reader {
    body: Arc<Body>,
    /// Attachment to a body that was not complete when reading began.
    attached: Option<AttachedReader>,
    /// Position of the next byte: the segment, and the offset in it.
    segment: usize,
    offset: usize,
    /// Number of bytes still to be read.
    left: u64,
}

impl Reader {
    pub(super) fn open(body: &Arc<Body>, attached: Option<AttachedReader>) -> Self {
        Self {
            body: Arc::clone(body),
            attached,
            segment: 0,
            offset: 0,
            left: u64::MAX,
        }
    }

    /// Returns the next bytes, in pieces as they are stored; `None` at the end. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// The body will never be complete: its writer failed, or dropped this reader because it was
    /// too slow.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FillEnd> {
        while self.left > 0 {
            let piece = match (self.body.whole(), &mut self.attached) {
                (Some(_), attached) => {
                    // The writer need not wait for this reader any more.
                    *attached = None;
                    let segment = self.body.segment(self.segment);
                    segment.map(|segment| BodyPiece {
                        bytes: segment.slice(self.offset..),
                        is_last: true,
                    })
                }
                (None, Some(attached)) => {
                    let next = attached.next(&self.body, self.segment, self.offset);
                    next.await?
                }
                (None, None) => return Err(FillEnd::Writer),
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

    /// Moves to `start`, to read up to `end` (exclusive). Returns `false` if the body is incomplete
    /// or ends before `start`.
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
        for (index, segment) in whole.segments().enumerate() {
            let len = segment.len() as u64;
            if before < len {
                self.segment = index;
                self.offset = usize::try_from(before).unwrap_or(usize::MAX);
                break;
            }
            before -= len;
        }
        true
    }

    fn advance(&mut self, BodyPiece { mut bytes, is_last }: BodyPiece) -> Bytes {
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
