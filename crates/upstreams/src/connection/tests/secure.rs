//! TLS connections to an app: whose requests use them, and what the pool notices.

use std::{
    collections::HashSet,
    future::poll_fn,
    io::{IoSlice, Write as _},
};

use rcgen::{Certificate, CertificateParams, KeyPair};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, client::ClientSessionStore,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::*;
use crate::{
    client_tls::{client_config, new_sessions},
    wire::ServerName,
};

pub(super) const NAMES: [&str; 2] = ["a.test", "b.test"];

/// App with a certificate for all names, and a gateway that trusts it.
pub(super) struct App {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    config: ClientConfig,
    roots: Arc<RootCertStore>,
}

/// Returns the settings of an app with a certificate for all names, and the certificate.
pub(super) fn app_config() -> (ServerConfig, Certificate) {
    let key = KeyPair::generate().unwrap();
    let names = NAMES.map(str::to_owned).to_vec();
    let certificate = CertificateParams::new(names).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let chain = vec![certificate.der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.serialize_der().try_into().unwrap())
        .unwrap();
    (config, certificate)
}

impl App {
    pub(super) async fn start() -> Self {
        let (config, certificate) = app_config();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let roots = Arc::new(roots);
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            config: client_config(Arc::clone(&roots), None).unwrap(),
            roots,
        }
    }

    fn tls(&self, name: &str, trust: u8, sessions: &Arc<dyn ClientSessionStore>) -> BackendTls {
        let identity = TlsIdentity {
            name: ServerName::parse(name).unwrap(),
            trust: [trust; 32],
        };
        BackendTls::new(
            &self.config,
            identity,
            Protocol::Http1,
            Arc::clone(sessions),
        )
        .unwrap()
    }

    async fn connect(
        &self,
        tls: Option<&BackendTls>,
    ) -> (BackendConnection, Option<TlsStream<TcpStream>>) {
        let target = Target::Inet(self.listener.local_addr().unwrap());
        let accept = async {
            let (socket, _) = self.listener.accept().await.unwrap();
            match tls {
                Some(_) => Some(self.acceptor.accept(socket).await.unwrap()),
                None => None,
            }
        };
        let (ours, theirs) = tokio::join!(BackendConnection::new(&target, tls), accept);
        (ours.unwrap(), theirs)
    }

    pub(super) async fn secure(&self) -> (BackendConnection, TlsStream<TcpStream>) {
        let tls = self.tls(NAMES[0], 0, &new_sessions());
        let (ours, theirs) = self.connect(Some(&tls)).await;
        (ours, theirs.unwrap())
    }
}

async fn send(connection: &mut BackendConnection, mut data: &[u8]) {
    while !data.is_empty() {
        let written = poll_fn(|cx| connection.poll_output(cx, &[IoSlice::new(data)])).await;
        data = &data[written.unwrap()..];
    }
    poll_fn(|cx| connection.poll_flush(cx)).await.unwrap();
}

async fn receive(connection: &mut BackendConnection, length: usize) -> Vec<u8> {
    while connection.input.len() < length {
        connection.input.reserve(1000);
        let read = poll_fn(|cx| connection.poll_input(cx)).await.unwrap();
        assert!(read > 0, "the app goes on");
    }
    connection.input.split_to(length).to_vec()
}

/// Passes bytes both ways, which takes in what followed the handshake.
async fn exchange(ours: &mut BackendConnection, theirs: &mut TlsStream<TcpStream>) {
    send(ours, b"ping").await;
    let mut seen = [0; 4];
    theirs.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"ping");
    theirs.write_all(b"pong").await.unwrap();
    theirs.flush().await.unwrap();
    assert_eq!(receive(ours, 4).await, b"pong");
}

/// Returns the pool's connection after the system has reported what the app did.
async fn taken(connection: BackendConnection) -> Option<BackendConnection> {
    let identity = connection.identity().cloned();
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    connection.socket().readable().await.unwrap();
    idle.put((connection, 0), clock.now() + SWEEP, &clock);
    idle.take(identity.as_ref(), clock.now())
}

#[tokio::test]
async fn a_request_gets_a_connection_of_its_own_settings_only() {
    let app = App::start().await;
    let sessions = new_sessions();
    let all: Vec<Option<BackendTls>> = NAMES
        .iter()
        .flat_map(|name| [0, 1].map(|trust| Some(app.tls(name, trust, &sessions))))
        .chain([None])
        .collect();
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    let seed = edgeway_testkit::drawn();
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut apps, mut found) = (Vec::new(), HashSet::new());
    for turn in 0..200 {
        let at = dice.usize(..all.len());
        let tls = all[at].as_ref();
        if dice.bool() {
            let (connection, theirs) = app.connect(tls).await;
            apps.push(theirs);
            idle.put((connection, 0), clock.now() + SWEEP, &clock);
        } else {
            let identity = tls.map(|tls| &tls.identity);
            if let Some(connection) = idle.take(identity, clock.now()) {
                assert_eq!(
                    connection.identity(),
                    identity,
                    "seed {seed}, turn {turn}: connection of another"
                );
                found.insert(at);
            }
        }
    }
    // The control: connections were taken, with TLS and without.
    assert!(found.len() > 2, "seed {seed}: {found:?}");
}

#[tokio::test]
async fn a_backend_that_has_ended_tls_gets_no_request() {
    let app = App::start().await;
    let (mut ours, mut theirs) = app.secure().await;
    exchange(&mut ours, &mut theirs).await;
    // The socket stays open.
    theirs.get_mut().1.send_close_notify();
    theirs.flush().await.unwrap();
    assert!(taken(ours).await.is_none());
}

#[tokio::test]
async fn an_end_in_the_same_packet_as_a_response_is_noticed() {
    let app = App::start().await;
    let (mut ours, mut theirs) = app.secure().await;
    exchange(&mut ours, &mut theirs).await;
    let (socket, session) = theirs.get_mut();
    session.writer().write_all(b"bye").unwrap();
    session.send_close_notify();
    let mut packet = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut packet).unwrap();
    }
    socket.write_all(&packet).await.unwrap();
    assert_eq!(receive(&mut ours, 3).await, b"bye");
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    let identity = ours.identity().cloned();
    idle.put((ours, 0), clock.now() + SWEEP, &clock);
    assert!(idle.take(identity.as_ref(), clock.now()).is_none());
}

#[tokio::test]
async fn a_backend_that_speaks_unasked_or_garbles_gets_no_request() {
    let app = App::start().await;
    let (mut ours, mut theirs) = app.secure().await;
    exchange(&mut ours, &mut theirs).await;
    theirs.write_all(b"HTTP/1.1 408 ").await.unwrap();
    theirs.flush().await.unwrap();
    assert!(taken(ours).await.is_none());

    let (mut ours, mut theirs) = app.secure().await;
    exchange(&mut ours, &mut theirs).await;
    let record = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    theirs.get_mut().0.write_all(&record).await.unwrap();
    assert!(taken(ours).await.is_none());

    let (mut ours, mut theirs) = app.secure().await;
    exchange(&mut ours, &mut theirs).await;
    drop(theirs);
    assert!(taken(ours).await.is_none());
}

#[tokio::test]
async fn new_keys_are_no_reason_to_close() {
    let app = App::start().await;
    let (mut ours, mut theirs) = app.secure().await;
    exchange(&mut ours, &mut theirs).await;
    theirs.get_mut().1.refresh_traffic_keys().unwrap();
    theirs.flush().await.unwrap();
    let mut ours = taken(ours).await.expect("the connection is usable");
    exchange(&mut ours, &mut theirs).await;
}

#[tokio::test]
async fn a_session_is_resumed_with_its_own_backend_under_its_own_trust() {
    let app = App::start().await;
    let sessions = new_sessions();
    let kind = async |tls: &BackendTls| {
        let (mut ours, theirs) = app.connect(Some(tls)).await;
        let mut theirs = theirs.unwrap();
        exchange(&mut ours, &mut theirs).await;
        theirs.get_ref().1.handshake_kind().unwrap()
    };
    let tls = app.tls(NAMES[0], 0, &sessions);
    assert_eq!(kind(&tls).await, HandshakeKind::Full);
    assert_eq!(kind(&tls).await, HandshakeKind::Resumed);
    // The same backend in the next set of members.
    let again = app.tls(NAMES[0], 0, &sessions);
    assert_eq!(kind(&again).await, HandshakeKind::Resumed);
    let other = app.tls(NAMES[0], 0, &new_sessions());
    assert_eq!(kind(&other).await, HandshakeKind::Full);
    let config = client_config(Arc::clone(&app.roots), None).unwrap();
    let identity = tls.identity.clone();
    let reloaded = BackendTls::new(&config, identity, Protocol::Http1, sessions).unwrap();
    assert_eq!(kind(&reloaded).await, HandshakeKind::Full);
}

#[tokio::test]
async fn bytes_arrive_whole_in_whatever_pieces_they_come() {
    let app = App::start().await;
    let seed = edgeway_testkit::drawn();
    let mut dice = fastrand::Rng::with_seed(seed);
    for _ in 0..20 {
        let (mut ours, mut theirs) = app.secure().await;
        let length = dice.usize(1..300_000);
        let content: Vec<u8> = (0..length).map(|_| dice.u8(..)).collect();
        let mut pieces = Vec::new();
        let mut rest = &content[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(dice.usize(1..=rest.len().min(40_000)));
            pieces.push(piece);
            rest = after;
        }
        let write = async {
            for piece in pieces {
                theirs.write_all(piece).await.unwrap();
                theirs.flush().await.unwrap();
            }
        };
        let (seen, ()) = tokio::join!(receive(&mut ours, length), write);
        assert!(seen == content, "seed {seed}");
        let write = send(&mut ours, &content);
        let mut seen = vec![0; length];
        let (read, ()) = tokio::join!(theirs.read_exact(&mut seen), write);
        read.unwrap();
        assert!(seen == content, "seed {seed}");
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_ends_tls_in_order() {
    let app = App::start().await;
    let (mut ours, mut theirs) = app.secure().await;
    exchange(&mut ours, &mut theirs).await;
    drop(ours);
    assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
}
