//! Headers of responses on HTTP/2, on their way from a stream to the connection.
//!
//! `h2` would copy a response's headers, and encode each of them for each response. Instead it gets
//! a response without headers, in whose place the connection writes those that wait here.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;

/// Headers of one response. Those that are specific to a connection, and `Date`, are not written.
#[derive(Debug)]
pub struct ResponseHeaders {
    pub status: StatusCode,
    pub date: HeaderValue,
    pub headers: HeaderMap,
    /// Complete header lines, with names in lower case.
    pub lines: Option<Arc<[u8]>>,
}

/// Headers that wait for their frames.
#[derive(Debug, Default)]
pub struct ResponseQueue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<(u32, Box<ResponseHeaders>)>,
    /// Number of responses that `h2` may already write, and whose stream is not known yet.
    announced: u32,
    /// Task of the connection, if it waits for one of those.
    writer: Option<Waker>,
}

/// Headers that belong to a frame.
#[derive(Debug)]
pub enum QueuedHeaders {
    Found(Box<ResponseHeaders>),
    /// The frame has headers of its own.
    Absent,
    /// The task is woken once it is known.
    NotKnown,
}

/// Response that is being handed to `h2`.
#[derive(Debug)]
pub struct AnnouncedResponse<'a>(&'a ResponseQueue);

impl AnnouncedResponse<'_> {
    /// Queues the headers of the response on `stream`.
    pub fn publish(self, stream: u32, headers: Box<ResponseHeaders>) {
        self.0.0.lock().waiting.push((stream, headers));
    }
}

impl Drop for AnnouncedResponse<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.announced -= 1;
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

impl ResponseQueue {
    /// Announces a response before `h2` has it. Its stream is known only afterwards.
    pub fn announce(&self) -> AnnouncedResponse<'_> {
        self.0.lock().announced += 1;
        AnnouncedResponse(self)
    }

    /// Takes the headers for the next header block of `stream`.
    pub fn take(&self, stream: u32, cx: &Context<'_>) -> QueuedHeaders {
        let mut state = self.0.lock();
        let found = state.waiting.iter().position(|(id, _)| *id == stream);
        if let Some(found) = found {
            return QueuedHeaders::Found(state.waiting.swap_remove(found).1);
        }
        if state.announced == 0 {
            return QueuedHeaders::Absent;
        }
        state.writer = Some(cx.waker().clone());
        QueuedHeaders::NotKnown
    }

    /// Forgets the headers of a stream that was reset: `h2` does not write its frames.
    pub fn forget(&self, stream: u32) {
        self.0.lock().waiting.retain(|(id, _)| *id != stream);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> Box<ResponseHeaders> {
        Box::new(ResponseHeaders {
            status: StatusCode::OK,
            date: HeaderValue::from_static(""),
            headers: HeaderMap::new(),
            lines: None,
        })
    }

    #[test]
    fn headers_belong_to_one_stream_and_one_frame() {
        let queue = ResponseQueue::default();
        let cx = Context::from_waker(Waker::noop());
        assert!(matches!(queue.take(1, &cx), QueuedHeaders::Absent));
        let announced = queue.announce();
        // It may be the one that is announced.
        assert!(matches!(queue.take(1, &cx), QueuedHeaders::NotKnown));
        announced.publish(3, headers());
        assert!(matches!(queue.take(1, &cx), QueuedHeaders::Absent));
        assert!(matches!(queue.take(3, &cx), QueuedHeaders::Found(_)));
        assert!(matches!(queue.take(3, &cx), QueuedHeaders::Absent));
    }

    #[test]
    fn headers_of_a_reset_stream_are_forgotten() {
        let queue = ResponseQueue::default();
        let cx = Context::from_waker(Waker::noop());
        queue.announce().publish(1, headers());
        queue.announce().publish(3, headers());
        queue.forget(1);
        assert!(matches!(queue.take(1, &cx), QueuedHeaders::Absent));
        assert_eq!(queue.len(), 1);
        // The control: a response that fails on its way leaves nothing.
        drop(queue.announce());
        assert_eq!(queue.len(), 1);
    }
}
