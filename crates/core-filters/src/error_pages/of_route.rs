//! Pages that another route has: the proxy leads the request there.

use std::sync::Arc;

use edgeway_config::diagnostic::Place;
use edgeway_core::chain::{Exchange, PageOfError, RouteRequest, RouteTarget};
use edgeway_routes::values::{Template, Values};
use http::StatusCode;

use super::ErrorPage;

/// Route of a page.
#[derive(Debug)]
pub(super) enum PageRoute {
    /// Name of the route, and the place where it is written.
    Named(Arc<str>, Place),
    Path(Template),
}

impl PageRoute {
    /// Returns the request for the page of an error with this status.
    pub(super) fn request(
        &self,
        page: &ErrorPage,
        ex: &Exchange<'_>,
        status: StatusCode,
    ) -> RouteRequest {
        let to = match self {
            Self::Named(name, _) => RouteTarget::Named(Arc::clone(name)),
            Self::Path(path) => {
                let mut target = String::new();
                let _undecided = path.write_with(&Values::of_status(ex, status), None, &mut target);
                RouteTarget::Path(target.into_bytes().into())
            }
        };
        let of = status;
        let status = (!page.has_own_status).then(|| page.status.unwrap_or(status));
        RouteRequest {
            to,
            page: Some(PageOfError { of, status }),
            kept: Vec::new(),
        }
    }
}
