//! A proxy on plain Pingora, the baseline for measuring Edgeway's cost.
//!
//! `bare LISTEN ORIGIN [TLS-LISTEN CERT KEY]` forwards each request to ORIGIN through Pingora's own
//! `Server` with one worker thread. The allocator and the release profile are Edgeway's, so that
//! the difference is Edgeway's own work.

use async_trait::async_trait;
use pingora::Result;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use std::net::SocketAddr;
use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Bare {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(Ok(origin))) = (args.next(), args.next().map(|text| text.parse()))
    else {
        return ExitCode::from(2);
    };
    let tls: Vec<String> = args.collect();
    let conf = ServerConf {
        threads: 1,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { origin });
    service.add_tcp(&listen);
    if let [listen, cert, key] = tls.as_slice() {
        // The stock listener, with HTTP/2 offered as Edgeway does.
        let Ok(mut settings) = TlsSettings::intermediate(cert, key) else {
            return ExitCode::from(2);
        };
        settings.enable_h2();
        service.add_tls_with_settings(listen, None, settings);
    }
    server.add_service(service);
    server.run_forever();
}
