//! The admin listener: `/metrics`, `/healthz`, `/readyz` and `/status`, over loopback TCP
//! and a unix socket. Read-only.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use minijinja::Environment;
use serde_json::json;

use super::{bounded::Bounded, snapshot::Source};
use crate::base::{accept, loopback::is_loopback_host};

/// Which `Host` headers are answered.
///
/// A web page can make a browser on this machine ask `http://its-own-name:9900/`, with a
/// name that it then resolves to 127.0.0.1 (DNS rebinding), and read the answer. The
/// `Host` header gives it away.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// This machine's loopback names and addresses, and the names given.
    Loopback(Vec<String>),
    /// Any: for unix sockets, which no browser can reach.
    Any,
}

impl Hosts {
    fn allow(&self, host: Option<&HeaderValue>) -> bool {
        match (self, host) {
            // Browsers always send one; HTTP/1.0 tools need not.
            (Self::Any, _) | (Self::Loopback(_), None) => true,
            (Self::Loopback(names), Some(host)) => host.to_str().is_ok_and(|host| {
                let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
                is_loopback_host(host) || names.iter().any(|n| n.eq_ignore_ascii_case(bare))
            }),
        }
    }
}

/// Serves on a TCP listener until the future is dropped.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub async fn serve_tcp(
    listener: std::net::TcpListener,
    source: Arc<dyn Source>,
    hosts: Hosts,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(Bounded::new(listener), router(source, hosts)).await
}

/// Serves on a unix socket until the future is dropped.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub async fn serve_unix(
    listener: std::os::unix::net::UnixListener,
    source: Arc<dyn Source>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    axum::serve(Bounded::new(listener), router(source, Hosts::Any)).await
}

/// Why the admin socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot listen on {}: another gateway answers there", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: there is a file that is no socket", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot listen on {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Listens on a unix socket that only this user may open, taking the place of one that a
/// process left behind.
///
/// # Errors
/// When something else is there, or the folder cannot be written.
pub fn bind_unix(path: &Path) -> Result<std::os::unix::net::UnixListener, SocketError> {
    use std::os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    };

    let fail = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(SocketError::InUse(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    // Made under another name and moved: at no moment is it open to others, and at no
    // moment is there a socket that nobody listens on.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(fail)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    std::fs::rename(&draft, path).map_err(fail)?;
    Ok(listener)
}

fn router(source: Arc<dyn Source>, hosts: Hosts) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .fallback(|| async {
            error(
                StatusCode::NOT_FOUND,
                "not_found",
                "there are /metrics, /healthz, /readyz and /status here",
            )
        })
        .method_not_allowed_fallback(|| async {
            error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "only GET and HEAD are taken here",
            )
        })
        .with_state(source)
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard))
}

/// What holds for each answer: the host check, and headers that keep it out of caches,
/// frames and reused connections.
async fn guard(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let mut response = if hosts.allow(request.headers().get(header::HOST)) {
        next.run(request).await
    } else {
        error(
            StatusCode::MISDIRECTED_REQUEST,
            "host",
            "the admin listener answers to localhost and loopback addresses only",
        )
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        // Connections have a short life here, so none is promised for a next request.
        (header::CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> Response {
    const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], source.metrics_text()).into_response()
}

async fn ready(State(source): State<Arc<dyn Source>>) -> Response {
    match source.ready() {
        Ok(()) => Json(json!({ "ready": true, "reasons": [] })).into_response(),
        Err(reasons) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "ready": false, "reasons": reasons })),
        )
            .into_response(),
    }
}

async fn status(State(source): State<Arc<dyn Source>>, headers: HeaderMap) -> Response {
    let wants_html = headers.get(header::ACCEPT).is_some_and(|value| {
        accept::preferred(value.as_bytes(), &["application/json", "text/html"]) == Some(1)
    });
    let snapshot = source.snapshot();
    let mut response = if wants_html {
        page(&snapshot)
    } else {
        Json(snapshot).into_response()
    };
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn error(status: StatusCode, reason: &str, message: &str) -> Response {
    let body = json!({
        "error": { "status": status.as_u16(), "reason": reason, "message": message },
    });
    (status, Json(body)).into_response()
}

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    // The name's ending switches escaping on.
    pages
        .add_template("status.html", include_str!("status.html"))
        .expect("a template of ours, loaded by a test");
    pages
});

fn page(snapshot: &super::Snapshot) -> Response {
    let rendered = PAGES
        .get_template("status.html")
        .and_then(|template| template.render(minijinja::value::Serde(snapshot)));
    match rendered {
        Ok(body) => axum::response::Html(body).into_response(),
        Err(problem) => {
            log::error!(error:% = problem; "cannot render the status page");
            error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "page",
                "the page could not be made; ask for application/json",
            )
        }
    }
}
