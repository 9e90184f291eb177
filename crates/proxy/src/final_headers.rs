//! Headers of a response from an HTTP/2 backend, just before they are written.
//!
//! Pingora sets the framing of these responses after the response phase, and reports only then if a
//! response ends with its headers. A Pingora module sees both. It costs an allocation or two, so
//! only these responses have it.

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
    /// True if the client uses HTTP/1.0.
    is_http10: bool,
    /// True if a filter has announced a body in a content coding of its own.
    is_encoded: bool,
}

struct Builder;

impl HttpModuleBuilder for Builder {
    fn init(&self) -> Module {
        Box::new(FinalHeaders::default())
    }
}

/// Installs the module in a request that goes to an HTTP/2 backend.
pub(super) fn install(session: &mut Session) {
    session.downstream_modules_ctx = MODULES.build_ctx();
}

/// Passes the result of the response phase to the module.
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
    async fn response_header_filter(
        &mut self,
        response: &mut ResponseHeader,
        end: bool,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        if self.is_http10 {
            // RFC 9112, 6.1: HTTP/1.0 does not support chunked bodies.
            response.remove_header(&header::TRANSFER_ENCODING);
        }
        if self.is_encoded && end {
            // There is no body, not even an empty one in this content coding.
            response.remove_header(&header::CONTENT_ENCODING);
            response.remove_header(&header::TRANSFER_ENCODING);
            response.insert_header(header::CONTENT_LENGTH, HeaderValue::from_static("0"))?;
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
