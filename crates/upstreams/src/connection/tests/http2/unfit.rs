//! Apps that do not speak HTTP/2, or that are silent.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

/// App of which each connection is served by the test itself.
struct RawApp {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    bench: Bench,
    _folder: tempfile::TempDir,
}

impl RawApp {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, certificate) = app_config();
        write_cas(folder.path(), "ca.pem", &[&certificate]);
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            bench: Bench {
                folder: folder.path().to_owned(),
                ..Bench::default()
            },
            _folder: folder,
        }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Opens a stream to what `accept` makes of its connection.
    async fn open<T>(
        &self,
        more: &str,
        time: Duration,
        accept: impl Future<Output = T>,
    ) -> (Result<BackendStream>, T) {
        let address = self.listener.local_addr().unwrap();
        let upstream = self.bench.upstream(&format!(
            "{{ backends: ['{address}'], protocol: h2, {more} }}"
        ));
        let lease = take(&upstream, &[]).unwrap();
        tokio::join!(upstream.open_stream(&lease, false, time), accept)
    }
}

const TLS: &str = "tls: { ca: ca.pem, name: a.test }";

#[tokio::test]
async fn a_backend_that_negotiates_another_protocol_is_refused() {
    let app = RawApp::start().await;
    let accept = async { app.acceptor.accept(app.accept().await).await.unwrap() };
    let (opened, _theirs) = app.open(TLS, LONG, accept).await;
    let error = opened.unwrap_err();
    assert_eq!(*error.etype(), ErrorType::H2Downgrade);
    assert_eq!(*error.esource(), pingora::ErrorSource::Upstream);
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let app = RawApp::start().await;
    let short = Duration::from_millis(50);
    let (opened, _theirs) = app.open(TLS, short, app.accept()).await;
    let error = opened.unwrap_err();
    assert_eq!(*error.etype(), ErrorType::ConnectTimedout);
    assert_eq!(*error.esource(), pingora::ErrorSource::Upstream);
}

#[tokio::test]
async fn an_app_that_speaks_http1_is_recognised_by_its_bytes() {
    let app = RawApp::start().await;
    let (opened, mut theirs) = app.open("", LONG, app.accept()).await;
    let mut stream = opened.unwrap();
    send(&mut stream, "/", true);
    theirs
        .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let error = response(&mut stream).await.unwrap_err();
    assert_eq!(*error.esource(), pingora::ErrorSource::Upstream);
    let root = error.root_cause().downcast_ref::<h2::Error>().unwrap();
    assert!(root.is_go_away() && root.is_library());
}

#[tokio::test]
async fn an_app_that_does_not_respond_to_pings_loses_its_connection() {
    let app = RawApp::start().await;
    let (opened, mut theirs) = app.open("", LONG, app.accept()).await;
    let mut stream = opened.unwrap();
    send(&mut stream, "/", true);
    // From here on, time passes whenever there is nothing to do.
    tokio::time::pause();
    let error = response(&mut stream).await.unwrap_err();
    assert_eq!(*error.etype(), ErrorType::ReadError);
    theirs.read_to_end(&mut Vec::new()).await.unwrap();
}
