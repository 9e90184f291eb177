//! Segments of files, written after what is buffered and without a copy.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::ConnIo;
use crate::edge::transport::Transport;

impl ConnIo {
    /// Writes the segment that the response has left with the connection, if there is one.
    #[inline]
    pub(super) fn poll_segment(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.segment.is_taken() {
            return self.poll_write_segment(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_segment(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.segment.is_short() {
            self.write_before_segment();
        }
        ready!(self.poll_drain(cx))?;
        let Transport::Plain(socket) = &mut self.transport else {
            // TLS encrypts what it sends, so it has to read it.
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let slot = &self.connection.segment;
        slot.poll(|segment| socket.poll_write_segment(cx, segment))
    }

    /// Writes the headers so that they share their packet with the segment after them. What the
    /// socket does not accept stays, and an error shows in the next write.
    fn write_before_segment(&mut self) {
        if self.output.is_empty() {
            return;
        }
        if let Transport::Plain(socket) = &self.transport
            && let Ok(count) = socket.try_write_before_more(&self.output)
        {
            self.output.drain(..count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use crate::{
        connection::{Connection, ConnectionFacts, listener::ListenerFacts},
        edge::{
            conn::ConnIo,
            transport::{MAX_UNSENT, Socket, Transport},
        },
    };
    use edgeway_base::clock::Clock;
    use edgeway_files::{BrowserCache, FileBody, FileLookup, FileResponse, Files, Outcome};

    async fn body(folder: &std::path::Path) -> FileBody {
        let clock = Clock::machine();
        let files = Files::plain(
            folder.to_path_buf(),
            BrowserCache::Revalidated,
            false,
            &clock,
        );
        let FileLookup::File(file) = files.find(b"/a").await else {
            panic!("it is there");
        };
        let none = http::HeaderMap::new();
        let Outcome::File(response) = FileResponse::select(file, &http::Method::GET, &none) else {
            panic!("no condition was made");
        };
        let (mut head, ()) = http::Response::new(()).into_parts();
        response.write(&mut head).unwrap()
    }

    #[tokio::test]
    async fn the_kernel_holds_more_for_a_file_and_then_as_much_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, vec![b'a'; 900_000]).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(old).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address);
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (ours, _) = accepted.unwrap();
        let fd = std::os::fd::AsFd::as_fd(&ours)
            .try_clone_to_owned()
            .unwrap();
        let unsent = || socket2::SockRef::from(&fd).tcp_notsent_lowat().unwrap();
        let connection = Connection::new(ListenerFacts::test(), ConnectionFacts::test());
        let connection = Arc::new(connection);
        let mut io = ConnIo::new(Transport::Plain(Socket::tcp(ours)), Arc::clone(&connection));
        let mut body = body(folder.path()).await;
        let segment = body.segment(Clock::machine().now()).await.unwrap();
        connection.segment.put(segment.unwrap());
        io.flush().await.unwrap();
        assert!(connection.segment.take().bytes > 0);
        assert!(unsent() > 900_000);
        io.idle();
        assert_eq!(unsent(), MAX_UNSENT);
        drop(client);
    }

    #[tokio::test]
    async fn a_unix_socket_gets_what_is_buffered_and_then_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_be_bytes).collect();
        let path = folder.path().join("a");
        std::fs::write(&path, &content).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(old).unwrap();
        let (ours, mut client) = UnixStream::pair().unwrap();
        let connection = Connection::new(ListenerFacts::test(), ConnectionFacts::test());
        let connection = Arc::new(connection);
        let transport = Transport::Plain(Socket::unix(ours));
        let mut io = ConnIo::new(transport, Arc::clone(&connection));
        let mut body = body(folder.path()).await;
        let reader = async {
            let mut seen = vec![0; 4 + content.len()];
            client.read_exact(&mut seen).await.unwrap();
            (client, seen)
        };
        let writer = async {
            io.write_all(b"head").await.unwrap();
            let mut waits = 0;
            let now = Clock::machine().now();
            while let Some(segment) = body.segment(now).await.unwrap() {
                let whole = segment.left();
                connection.segment.put(segment);
                io.flush().await.unwrap();
                let sent = connection.segment.take();
                assert!(!sent.is_refused);
                waits += usize::from(sent.bytes < whole);
                body.sent(sent).unwrap();
            }
            while body.left() > 0 {
                let chunk = body.next().await.unwrap();
                io.write_all(&chunk).await.unwrap();
            }
            io.flush().await.unwrap();
            waits
        };
        let (waits, (client, seen)) = tokio::join!(writer, reader);
        assert!(waits > 0, "the socket took all of it at once");
        assert!(seen[..4] == *b"head" && seen[4..] == content);
        // The client is gone.
        drop(client);
        let mut again = self::body(folder.path()).await;
        let segment = again.segment(Clock::machine().now()).await.unwrap();
        connection.segment.put(segment.unwrap());
        let error = io.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(connection.segment.take().bytes, 0);
    }
}
