//! Pebble, Let's Encrypt's own test CA, on loopback, and clients that trust it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use edgeway_base::clock::Clock;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    certificates::Ca,
    files::{read_text, tail},
    ports::free_port,
    wait::{until, wait_for},
};

const READY_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a response, far more than any has.
const LARGEST: u64 = 1 << 20;

/// Running CA, for which every name is at 127.0.0.1. It ends with the test.
#[derive(Debug)]
pub(crate) struct Pebble {
    ca: Child,
    names: Child,
    folder: TempDir,
    port: u16,
    root: CertificateDer<'static>,
}

impl Pebble {
    /// Starts a CA that validates HTTP-01 and TLS-ALPN-01 at these ports.
    pub(crate) async fn start(http: u16, tls: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test can be made");
        let own = Ca::new();
        own.site(&["127.0.0.1"]).write(folder.path(), "pebble");
        let at = |file: &str| folder.path().join(file);
        fs::write(at("ca.pem"), own.pem()).expect("the folder takes files");
        let (port, management, dns) = (free_port(), free_port(), free_port());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": at("pebble.pem"),
            "privateKey": at("pebble.key"),
            "httpPort": http,
            "tlsPort": tls,
        }});
        fs::write(at("config.json"), config.to_string()).expect("the folder takes files");
        let run = |program: &str, arguments: &[String]| {
            let log = File::create(at(&format!("{program}.log"))).expect("it takes files");
            Command::new(program)
                .args(arguments)
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_AUTHZREUSE", "0")
                .env("PEBBLE_WFE_NONCEREJECT", "0")
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a file has another handle"))
                .stderr(log)
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}; run `make setup-tests`"))
        };
        let off = |option: &str| [option.to_owned(), String::new()];
        let names = run(
            "pebble-challtestsrv",
            &[
                ["-dns01".to_owned(), format!("127.0.0.1:{dns}")],
                [
                    "-management".to_owned(),
                    format!("127.0.0.1:{}", free_port()),
                ],
                off("-http01"),
                off("-https01"),
                off("-tlsalpn01"),
                off("-defaultIPv6"),
            ]
            .concat(),
        );
        let ca = run(
            "pebble",
            &[
                "-config".to_owned(),
                at("config.json").display().to_string(),
                "-dnsserver".to_owned(),
                format!("127.0.0.1:{dns}"),
            ],
        );
        let trust = own.trust();
        let mut ask = async || {
            // It responds once it can sign.
            let management = local(management);
            let root = get(management, "127.0.0.1", &trust, "/roots/0")
                .await
                .ok()?;
            get(local(port), "127.0.0.1", &trust, "/dir").await.ok()?;
            CertificateDer::from_pem_slice(root.body.as_bytes()).ok()
        };
        let root = until(READY_WITHIN, &mut ask).await;
        let mut pebble = Self {
            ca,
            names,
            port,
            root: root
                .clone()
                .unwrap_or_else(|| CertificateDer::from(Vec::new())),
            folder,
        };
        assert!(root.is_some(), "pebble is not ready: {}", pebble.stopped());
        pebble
    }

    /// Returns the section `acme` of a gateway that uses this CA.
    pub(crate) fn section(&self, folder: &Path, more: &str) -> String {
        format!(
            "acme: {{ directory: \"https://127.0.0.1:{}/dir\", ca: \"{}\", folder: \"{}\"{more} }}\n",
            self.port,
            self.folder.path().join("ca.pem").display(),
            folder.display(),
        )
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// Returns the configuration of a client that trusts only this CA.
    pub(crate) fn trust(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("it is a CA");
        client().with_root_certificates(roots).with_no_client_auth()
    }

    /// Returns the number of orders.
    pub(crate) fn orders(&self) -> usize {
        self.log().matches("POST /order-plz").count()
    }

    /// Returns the number of accounts that were created.
    pub(crate) fn accounts(&self) -> usize {
        self.log().matches("POST /sign-me-up").count()
    }

    pub(crate) fn log(&self) -> String {
        read_text(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("pebble.log")
    }

    fn stopped(&mut self) -> String {
        for child in [&mut self.ca, &mut self.names] {
            // It may have ended by itself; both calls then fail, which is fine.
            drop(child.kill());
            drop(child.wait());
        }
        tail(&self.log_file())
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let log = self.stopped();
        if std::thread::panicking() {
            eprintln!("--- pebble logged:\n{log}");
        }
    }
}

/// Puts an untrusted certificate into the folder that is due for renewal `after` from now.
pub(crate) fn put_ageing(folder: &Path, name: &str, directory: &str, after: Duration) -> String {
    let lifetime = Duration::from_secs(45);
    let now = Clock::machine().wall();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    let from = now - lifetime.mul_f64(2.0 / 3.0) + after;
    params.not_before = from.into();
    params.not_after = (from + lifetime).into();
    let key = KeyPair::generate().unwrap();
    let signed = params.self_signed(&key).unwrap();
    let of_name = folder.join("certificates").join(name);
    fs::create_dir_all(&of_name).unwrap();
    fs::write(of_name.join("fullchain.pem"), signed.pem()).unwrap();
    fs::write(of_name.join("privkey.pem"), key.serialize_pem()).unwrap();
    let obtained = from.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let state = serde_json::json!({ "directory": directory, "obtained": obtained });
    fs::write(of_name.join("state.json"), state.to_string()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(signed.der()).unwrap();
    parsed.raw_serial_as_string().replace(':', "")
}

/// Response over TLS.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Status line of the response.
    pub(crate) status: String,
    pub(crate) body: String,
    /// Certificate that the server presented.
    pub(crate) leaf: CertificateDer<'static>,
}

impl Fetched {
    /// Returns the certificate's serial number and subject.
    pub(crate) fn names(&self) -> (String, String) {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.leaf).expect("it is X.509");
        (
            parsed.raw_serial_as_string().replace(':', ""),
            parsed.subject().to_string(),
        )
    }

    pub(crate) fn serial(&self) -> String {
        self.names().0
    }
}

/// Requests `path` as a client that calls the server `name`.
pub(crate) async fn get(
    address: SocketAddr,
    name: &str,
    config: &ClientConfig,
    path: &str,
) -> std::io::Result<Fetched> {
    let socket = TcpStream::connect(address).await?;
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let mut stream = connector.connect(server, socket).await?;
    let leaf = stream.get_ref().1.peer_certificates();
    let leaf = leaf.and_then(|chain| chain.first()).cloned();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = Vec::new();
    let mut stream = stream.take(LARGEST);
    let read = timeout(READY_WITHIN, stream.read_to_end(&mut text));
    read.await.map_err(std::io::Error::other)??;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(Fetched {
        status: head.lines().next().unwrap_or_default().to_owned(),
        body: body.to_owned(),
        leaf: leaf.expect("a server shows a certificate"),
    })
}

/// Calls [`get`] repeatedly until the handshake satisfies the client.
pub(crate) async fn get_when_trusted(port: u16, name: &str, config: &ClientConfig) -> Fetched {
    wait_for(
        &format!("a certificate for {name} is served that clients trust"),
        Duration::from_secs(15),
        async || get(local(port), name, config, "/").await.ok(),
    )
    .await
}

pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Returns the configuration of a client that accepts any certificate.
pub(crate) fn trusting() -> ClientConfig {
    client()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth()
}

fn client() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("both versions have suites")
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
