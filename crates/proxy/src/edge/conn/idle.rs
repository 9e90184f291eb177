//! Buffers of an idle connection, and of one whose response pauses: it has none. They are allocated
//! when bytes arrive, which costs little, since the allocator keeps free blocks for each thread.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::ConnIo;

impl ConnIo {
    /// Reads more bytes of a header section, and waits for its first ones without a buffer.
    pub(super) async fn read_head(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let outcome = self.poll_read_head(cx);
            if outcome.is_pending() {
                self.release_buffers();
            }
            outcome
        })
        .await
    }

    fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_empty() {
            ready!(self.transport.poll_arrival(cx))?;
        }
        self.input.reserve(self.room);
        pin!(self.transport.read_buf(&mut self.input)).poll(cx)
    }

    /// Frees buffers that are empty.
    pub(super) fn release_buffers(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.capacity() > 0 {
            self.output = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::super::{ConnIo, HeadWait};
    use crate::{
        connection::Connection,
        edge::transport::{Socket, Transport},
    };

    impl ConnIo {
        /// Returns the bytes that the buffers have room for.
        pub(in crate::edge::conn) fn buffered(&self) -> usize {
            self.input.capacity() + self.output.capacity()
        }
    }

    /// Polls the wait for a header section once.
    async fn is_waiting(io: &mut ConnIo) -> bool {
        let mut head = pin!(io.next_head(false));
        std::future::poll_fn(|cx| Poll::Ready(head.as_mut().poll(cx).is_pending())).await
    }

    fn pair() -> (ConnIo, UnixStream) {
        let (ours, client) = UnixStream::pair().unwrap();
        let transport = Transport::Plain(Socket::unix(ours));
        (ConnIo::new(transport, Connection::test()), client)
    }

    #[tokio::test]
    async fn a_response_arrives_whole_and_holds_no_buffer_while_it_pauses() {
        let (mut io, mut client) = pair();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let head = io.next_head(false).await;
        assert!(matches!(head, HeadWait::Request), "{head:?}");
        drop(io.take_head());
        let seed = edgeway_testkit::drawn();
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut written = Vec::new();
        let write = async {
            for _ in 0..200 {
                // Shorter and longer than the buffer.
                let piece = vec![dice.u8(..); dice.usize(0..9000)];
                io.write_all(&piece).await.unwrap();
                written.extend(piece);
                if dice.bool() {
                    io.flush().await.unwrap();
                    assert_eq!(io.buffered(), 0, "seed {seed}");
                }
            }
            io.flush().await.unwrap();
            drop(io);
        };
        let mut came = Vec::new();
        let (read, ()) = tokio::join!(client.read_to_end(&mut came), write);
        read.unwrap();
        assert!(came == written, "seed {seed}");
    }

    #[tokio::test]
    async fn an_idle_connection_has_no_buffers() {
        let (mut io, mut client) = pair();
        assert!(is_waiting(&mut io).await);
        assert_eq!(io.buffered(), 0);
        for _ in 0..3 {
            let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
            client.write_all(request).await.unwrap();
            let head = io.next_head(false).await;
            assert!(matches!(head, HeadWait::Request), "{head:?}");
            assert_eq!(&io.take_head()[..], request);
            io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            assert!(io.buffered() > 0, "the control");
            io.flush().await.unwrap();
            io.idle();
            assert!(is_waiting(&mut io).await);
            assert_eq!(io.buffered(), 0);
        }
        // The beginning of a header section stays.
        client.write_all(b"GET / HT").await.unwrap();
        tokio::task::yield_now().await;
        while is_waiting(&mut io).await && io.buffered() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(is_waiting(&mut io).await);
        client
            .write_all(b"TP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let head = io.next_head(false).await;
        assert!(matches!(head, HeadWait::Request), "{head:?}");
    }
}
