//! Buffers of an idle connection: it has none. They are allocated when bytes arrive, which costs
//! little, since the allocator keeps free blocks for each thread.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::{ConnIo, READ_BUFFER};

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
        self.input.reserve(READ_BUFFER);
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

    /// Returns the bytes that the buffers have room for.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, sync::Arc, task::Poll};

    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::super::{ConnIo, HeadWait};
    use crate::{
        config::model::UnderscoresConfig,
        connection::Connection,
        edge::{
            head::HeadLimits,
            transport::{Socket, Transport},
        },
    };

    /// Polls the wait for a header section once.
    async fn is_waiting(io: &mut ConnIo, limits: &HeadLimits) -> bool {
        let mut head = pin!(io.next_head(limits, false));
        std::future::poll_fn(|cx| Poll::Ready(head.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn an_idle_connection_has_no_buffers() {
        let (ours, mut client) = UnixStream::pair().unwrap();
        let connection = Connection::test();
        let mut io = ConnIo::new(
            Transport::Plain(Socket::unix(ours)),
            Arc::clone(&connection),
        );
        let limits = HeadLimits::new(512, 2048, 32, UnderscoresConfig::Drop);
        assert!(is_waiting(&mut io, &limits).await);
        assert_eq!(io.buffered(), 0);
        for _ in 0..3 {
            let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
            client.write_all(request).await.unwrap();
            let head = io.next_head(&limits, false).await;
            assert!(matches!(head, HeadWait::Request), "{head:?}");
            assert_eq!(&io.head()[..], request);
            io.skip_head();
            io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            io.flush().await.unwrap();
            io.idle();
            assert!(io.buffered() > 0, "the control");
            assert!(is_waiting(&mut io, &limits).await);
            assert_eq!(io.buffered(), 0);
        }
        // The beginning of a header section stays.
        client.write_all(b"GET / HT").await.unwrap();
        tokio::task::yield_now().await;
        while is_waiting(&mut io, &limits).await && io.buffered() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(is_waiting(&mut io, &limits).await);
        client
            .write_all(b"TP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let head = io.next_head(&limits, false).await;
        assert!(matches!(head, HeadWait::Request), "{head:?}");
    }
}
