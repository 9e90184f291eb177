//! Access to servers that have images of an app, other than the app.

use std::sync::Arc;

use edgeway_config::model::{ImagesAt, UpstreamConfig};
use edgeway_net::fetch::{self, Trust};
use edgeway_upstreams::{EveryAddress, Resolve};
use rustls::ClientConfig;

use crate::compile::Compiler;

/// Protocol that is offered in the handshake (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// Resolver of names, and the certificates that servers are verified against.
#[derive(Clone)]
pub struct RemoteAccess {
    pub tls: Arc<ClientConfig>,
    pub resolver: Arc<dyn Resolve>,
}

edgeway_base::opaque_debug!(RemoteAccess);

impl Compiler<'_> {
    /// Returns the access to other servers, if images of those are made here.
    pub(super) fn remote_access(&mut self, upstream: &UpstreamConfig) -> Option<RemoteAccess> {
        let images = &upstream.images.as_ref()?.value;
        if images.at == ImagesAt::App || !images.remote.value {
            return None;
        }
        match fetch::tls(&Trust::System) {
            Ok(mut tls) => {
                tls.alpn_protocols = vec![ALPN.to_vec()];
                Some(RemoteAccess {
                    tls: Arc::new(tls),
                    resolver: Arc::new(EveryAddress),
                })
            }
            Err(error) => self
                .at(images.remote.place, "edgeway::upstream::images")
                .refuse(
                    format!("cannot load the system's CA certificates: {error}"),
                    "install the package `ca-certificates`, or remove `remote`",
                ),
        }
    }
}
