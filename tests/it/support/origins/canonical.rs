//! Origin of a site with a canonical host, to which it redirects every request for another one.

use std::io;

use async_trait::async_trait;

use super::{Exchange, Origin, Serve, Then};

/// Serves the requests that name its host exactly, and redirects all others to it. Each response
/// may be stored by everybody.
pub(crate) struct CanonicalOrigin {
    host: &'static str,
}

impl CanonicalOrigin {
    pub(crate) async fn start(host: &'static str) -> Origin<Self> {
        Origin::listen(Self { host }).await
    }
}

#[async_trait]
impl Serve for CanonicalOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let request = &exchange.request;
        let names = ["host", "x-forwarded-host"];
        let is_own = names
            .iter()
            .all(|name| request.header(name) == Some(self.host));
        let location = format!("location: //{}{}\r\n", self.host, request.target);
        let (status, location) = if is_own { (200, "") } else { (301, &*location) };
        let headers = format!("cache-control: public, max-age=600\r\n{location}");
        exchange.reply(status, &headers, b"page").await
    }
}
