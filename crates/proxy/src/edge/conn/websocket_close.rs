//! Closes a WebSocket when the gateway is going away: its client gets a Close frame at a frame
//! boundary, and time to read it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncReadExt, AsyncWrite};

use super::{ConnIo, READ_BUFFER};
use crate::edge::websocket::{GOING_AWAY, OutgoingFrames};

/// State of a connection that has become a WebSocket.
#[derive(Debug, Default)]
pub(super) struct Websocket {
    outgoing: OutgoingFrames,
    progress: CloseProgress,
}

/// Progress of closing a WebSocket because the gateway is going away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CloseProgress {
    #[default]
    NotSent,
    /// The Close frame is buffered or written.
    Sent,
    /// The sending side is shut down. Bytes that the client still sends are discarded, because
    /// closing with unread bytes would reset the connection and lose the frame.
    Shut,
}

impl ConnIo {
    /// Writes as [`Self::poll_put`] does, and tracks frame boundaries. Once the gateway is going
    /// away, it sends only the rest of the current frame.
    pub(super) fn poll_put_frames(
        &mut self,
        cx: &mut Context<'_>,
        mut data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outgoing = self.websocket.get_or_insert_default().outgoing;
        if self.connection.is_going_away() {
            if outgoing.is_lost() || outgoing.is_between_frames() {
                return self.poll_close_frame(cx).map(Err);
            }
            data = &data[..outgoing.until_frame_ends(data)];
        }
        let count = ready!(self.poll_put(cx, data))?;
        if let Some(websocket) = &mut self.websocket {
            websocket.outgoing.sent(&data[..count]);
        }
        Poll::Ready(Ok(count))
    }

    /// Returns the error that ends this `WebSocket` because the gateway is going away. Returns
    /// `None` if it is not, or if the rest of a frame may still arrive: the writer of that frame
    /// continues from there. Registers the waker for the moment when the gateway begins to go away.
    pub(super) fn poll_going_away(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Error>> {
        self.connection.wake_to_go_away(cx.waker());
        if !self.connection.is_going_away() {
            return None;
        }
        let outgoing = self.websocket.get_or_insert_default().outgoing;
        let may_go = outgoing.is_lost() || outgoing.is_between_frames();
        may_go.then(|| self.poll_close_frame(cx))
    }

    /// Sends the Close frame and waits until the client has closed the connection.
    /// [`Connection::go_away`] limits the wait.
    fn poll_close_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let websocket = self.websocket.get_or_insert_default();
        if websocket.outgoing.is_lost() {
            return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
        }
        if websocket.progress == CloseProgress::NotSent {
            websocket.progress = CloseProgress::Sent;
            if !websocket.outgoing.is_closed() {
                self.output.extend_from_slice(&GOING_AWAY);
            }
        }
        match ready!(self.poll_close(cx)) {
            Ok(()) => Poll::Ready(io::ErrorKind::ConnectionAborted.into()),
            Err(error) => Poll::Ready(error),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = |io: &Self| io.websocket.as_ref().map(|w| w.progress);
        if progress(self) != Some(CloseProgress::Shut) {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(&mut self.transport).poll_shutdown(cx))?;
            self.websocket.get_or_insert_default().progress = CloseProgress::Shut;
        }
        loop {
            self.input.clear();
            self.input.reserve(READ_BUFFER);
            let read = std::pin::pin!(self.transport.read_buf(&mut self.input));
            if ready!(read.poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::*;
    use crate::{
        connection::{CloseReason, Connection},
        edge::transport::{Socket, Transport},
    };

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";

    /// Returns a WebSocket that has sent `sent`, with its connection and client.
    async fn websocket(sent: &[u8]) -> (Arc<Connection>, ConnIo, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let connection = Connection::test();
        let transport = Transport::Plain(Socket::unix(ours));
        let mut io = ConnIo::new(transport, Arc::clone(&connection));
        connection.set_websocket();
        io.write_all(HEAD).await.unwrap();
        io.write_all(sent).await.unwrap();
        io.flush().await.unwrap();
        let mut seen = vec![0; HEAD.len() + sent.len()];
        theirs.read_exact(&mut seen).await.unwrap();
        (connection, io, theirs)
    }

    async fn read(io: &mut ConnIo) -> io::Result<usize> {
        io.read(&mut [0; 64]).await
    }

    #[tokio::test]
    async fn a_close_frame_is_sent_between_frames_and_further_input_is_discarded() {
        let (connection, mut io, mut client) = websocket(&[0x81, 1, b'a']).await;
        let reading = async {
            // The reader is waiting by now.
            tokio::task::yield_now().await;
            connection.go_away();
            let mut frame = [0; 4];
            client.read_exact(&mut frame).await.unwrap();
            // Bytes that are still arriving do not reset the connection.
            client.write_all(&[0x81, 0x80, 0, 0, 0, 0]).await.unwrap();
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
            drop(client);
            frame
        };
        let (ended, frame) = tokio::join!(read(&mut io), reading);
        assert_eq!(frame, GOING_AWAY);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(
            connection.request_close_reason(),
            Some(CloseReason::GoingAway)
        );
    }

    #[tokio::test]
    async fn a_frame_in_flight_is_completed_first_and_nothing_follows_the_close_frame() {
        let (connection, mut io, mut client) = websocket(&[0x82, 5, 1, 2]).await;
        connection.go_away();
        let reading = tokio::time::timeout(std::time::Duration::ZERO, read(&mut io)).await;
        assert!(reading.is_err(), "{reading:?}");
        let written = async {
            let outcome = io.write_all(&[3, 4, 5, 0x81, 1, b'x']).await;
            drop(io);
            outcome.unwrap_err()
        };
        let seen = async {
            let mut seen = [0; 7];
            client.read_exact(&mut seen).await.unwrap();
            drop(client);
            seen
        };
        let (_, seen) = tokio::join!(written, seen);
        assert_eq!(seen, [3, 4, 5, 0x88, 2, 0x03, 0xe9]);
    }

    #[tokio::test]
    async fn a_frame_that_never_ends_is_truncated() {
        let (connection, mut io, client) = websocket(&[0x82, 5, 1, 2]).await;
        connection.go_away();
        // As when the wait reaches its limit.
        drop(client);
        let ended = read(&mut io).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn after_the_backends_own_close_frame_comes_none_of_ours() {
        let (connection, mut io, mut client) = websocket(&[0x88, 0]).await;
        connection.go_away();
        let seen = async {
            let mut seen = Vec::new();
            client.read_to_end(&mut seen).await.unwrap();
            drop(client);
            seen
        };
        let (ended, seen) = tokio::join!(read(&mut io), seen);
        assert!(ended.is_err());
        assert_eq!(seen, [0; 0]);
    }

    #[tokio::test]
    async fn a_tunnel_without_frames_is_closed_at_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let connection = Connection::test();
        let io = ConnIo::new(
            Transport::Plain(Socket::unix(ours)),
            Arc::clone(&connection),
        );
        connection.set_tunnel();
        connection.go_away();
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
        drop(io);
    }
}
