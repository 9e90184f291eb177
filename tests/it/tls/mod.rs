//! TLS to clients: certificate selection, session resumption, and client certificates.
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "tests: what goes wrong here fails them, and says so"
)]

mod certificates;
mod clients;
mod handshake;
mod identities;
mod names;
mod reload;
mod replaced;

use std::{path::Path, sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{
    certificates::Ca,
    client::{ClientError, Connection},
    front::Front,
    gateway::Gateway,
    origins::{EchoOrigin, Origin},
};

const SOON: Duration = Duration::from_secs(5);
/// Longer than two checks of a changed file take, which wait fifty times as long as one of them took
/// on a busy machine.
const WATCHED: Duration = Duration::from_mins(1);

type Tls = Connection<TlsStream<TcpStream>>;

/// Gateway with TLS listeners, in front of an echo origin.
struct Site {
    gateway: Gateway,
    ca: Ca,
    _origin: Origin<EchoOrigin>,
}

impl Site {
    /// Starts a site with one listener. `prepare` writes the files that `tls` names into the
    /// folder.
    async fn start(tls: &str, prepare: impl FnOnce(&Ca, &Path)) -> Self {
        Self::start_with(&[("web", tls)], prepare).await
    }

    async fn start_with(listeners: &[(&str, &str)], prepare: impl FnOnce(&Ca, &Path)) -> Self {
        let ca = Ca::new();
        let origin = EchoOrigin::start().await;
        let mut yaml = "listeners:\n".to_owned();
        for (name, tls) in listeners {
            yaml.push_str(&format!(
                "  - {{ address: \"127.0.0.1:0\", name: {name}, tls: {tls} }}\n"
            ));
        }
        yaml.push_str(&Front::to(&origin).yaml());
        let gateway = Gateway::start_in(&yaml, |folder| prepare(&ca, folder)).await;
        Self {
            gateway,
            ca,
            _origin: origin,
        }
    }

    fn trust(&self) -> Arc<ClientConfig> {
        Arc::new(self.ca.trust())
    }

    async fn connect(&self, site: &str, config: &Arc<ClientConfig>) -> Result<Tls, ClientError> {
        Connection::open_tls(self.gateway.address(), site, config).await
    }

    /// Connects to the listener with this name.
    async fn connect_to(
        &self,
        listener: &str,
        site: &str,
        config: &Arc<ClientConfig>,
    ) -> Result<Tls, ClientError> {
        let address = self.gateway.listener(listener).parse().expect("an address");
        Connection::open_tls(address, site, config).await
    }

    /// Returns the serial of the certificate that is presented for `site`.
    async fn serial(&self, site: &str) -> u64 {
        let open = self.connect(site, &self.trust()).await;
        serial(&open.expect("the certificate is good"))
    }

    async fn refused(&self, reason: &str) -> u64 {
        self.gateway.refused(reason).await
    }

    /// Waits until `times` handshakes were refused: a client learns of it before it is counted.
    async fn refuses(&self, reason: &str, times: u64) {
        self.gateway.refuses(reason, times).await;
    }
}

/// Returns the serial of the certificate that was presented.
fn serial(connection: &Tls) -> u64 {
    let chain = connection.tls().peer_certificates().expect("it showed one");
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("it is X.509");
    let bytes = leaf.raw_serial().iter();
    bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Returns the configuration of a client without SNI.
fn without_names(mut config: ClientConfig) -> ClientConfig {
    config.enable_sni = false;
    config
}
