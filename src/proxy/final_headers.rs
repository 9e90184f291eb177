//! Headers of a response from a backend by HTTP/2, just before they are written.
//!
//! Pingora sets the framing of these after the response phase, and only then says whether
//! the response ends with its headers. A module of Pingora's hears of both; it costs an
//! allocation or two, so only these responses have it.

use std::{any::Any, sync::LazyLock};

use async_trait::async_trait;
use http::{HeaderValue, Method, Version, header};
use pingora::{
    Result,
    http::ResponseHeader,
    modules::http::{HttpModule, HttpModuleBuilder, HttpModules, Module},
};
use pingora_proxy::Session;

static MODULES: LazyLock<HttpModules> = LazyLock::new(|| {
    let mut modules = HttpModules::new();
    modules.add_module(Box::new(Builder));
    modules
});

#[derive(Debug, Default)]
struct FinalHeaders {
    /// The client speaks HTTP/1.0.
    is_http10: bool,
    /// A filter has announced a body in an encoding of its own.
    is_encoded: bool,
}

struct Builder;

impl HttpModuleBuilder for Builder {
    fn init(&self) -> Module {
        Box::new(FinalHeaders::default())
    }
}

/// Puts the module into a request that goes to a backend by HTTP/2.
pub(super) fn install(session: &mut Session) {
    session.downstream_modules_ctx = MODULES.build_ctx();
}

/// Tells the module what the response phase came to.
pub(super) fn expect(session: &mut Session, is_encoded: bool) {
    let request = session.req_header();
    let is_http10 = request.version == Version::HTTP_10;
    let has_body = request.method != Method::HEAD;
    if let Some(module) = session.downstream_modules_ctx.get_mut::<FinalHeaders>() {
        module.is_http10 = is_http10;
        module.is_encoded = is_encoded && has_body;
    }
}

#[async_trait]
impl HttpModule for FinalHeaders {
    async fn response_header_filter(&mut self, head: &mut ResponseHeader, end: bool) -> Result<()> {
        if head.status.is_informational() {
            return Ok(());
        }
        if self.is_http10 {
            // RFC 9112, 6.1: it knows no chunks.
            head.remove_header(&header::TRANSFER_ENCODING);
        }
        if self.is_encoded && end {
            // There is no body, not even an empty one in this encoding.
            head.remove_header(&header::CONTENT_ENCODING);
            head.remove_header(&header::TRANSFER_ENCODING);
            head.insert_header(header::CONTENT_LENGTH, HeaderValue::from_static("0"))?;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
