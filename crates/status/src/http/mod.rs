//! The admin listener over TCP and a unix socket: `/metrics`, `/healthz` and `/readyz` for reading,
//! the status page for people, and the API below `/v1` for programs.

/// Lists routes: each has its method, its path and its handler.
macro_rules! routes {
    ($($method:ident $path:expr => $handler:expr,)+) => {
        vec![$({
            let filter = axum::routing::MethodFilter::$method;
            (stringify!($method), $path, axum::routing::on(filter, $handler))
        }),+]
    };
}

mod access;
mod bounded;
mod extract;
mod guard;
mod page;
mod pages;
mod requests;
mod stream;
mod v1;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, connect_info::Connected},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::MethodRouter,
    serve::IncomingStream,
};
use edgeway_net::tasks::Tasks;
use edgeway_proxy::live::audit::Actor;

pub use self::access::{RejectionMetrics, RejectionReason};
use self::{
    access::Reachability,
    bounded::{BoundedConnection, BoundedListener, ConnectionLifetime},
    guard::Guard,
    page::SharedSections,
};
pub use self::{bounded::Connections, page::ICON as PAGE_ICON};
use super::{
    actions::{ActionError, Actions},
    sessions::Sessions,
    snapshot::Source,
};

/// Size limit of a body. The API takes a few words, never a document.
const MAX_BODY_LEN: usize = 16 * 1024;

/// State and actions of an admin listener. Cloning shares it.
#[derive(Clone)]
pub struct AdminState {
    pub source: Arc<dyn Source>,
    pub actions: Arc<dyn Actions>,
    /// Sessions of the status page.
    pub sessions: Arc<Sessions>,
    /// Sections of the page that its readers share.
    pub sections: Arc<SharedSections>,
    /// Owner of the actions that have begun, so that neither a client that disconnects nor a
    /// listener that closes aborts them.
    pub tasks: Tasks,
    /// File of the configuration, if there is one.
    pub configuration: Option<PathBuf>,
}

/// Header with the file of the configuration that a request is about, in hexadecimal digits.
pub const CONFIGURATION: &str = "edgeway-configuration";

/// Serves on a TCP listener until the future is dropped, or until `open` is closed.
///
/// # Errors
///
/// If the listener cannot be registered with the runtime.
pub async fn serve_tcp(
    listener: std::net::TcpListener,
    served: AdminState,
    open: &Connections,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let reach = if listener.local_addr()?.ip().to_canonical().is_loopback() {
        Reachability::Loopback
    } else {
        Reachability::Network
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = router(served, reach).into_make_service_with_connect_info::<PeerAddress>();
    axum::serve(BoundedListener::new(listener, open), service).await
}

/// Same as [`serve_tcp`], on a unix socket.
///
/// # Errors
///
/// If the listener cannot be registered with the runtime.
pub async fn serve_unix(
    listener: std::os::unix::net::UnixListener,
    served: AdminState,
    open: &Connections,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let service =
        router(served, Reachability::Socket).into_make_service_with_connect_info::<PeerAddress>();
    axum::serve(BoundedListener::new(listener, open), service).await
}

/// Every path with its methods other than HEAD and OPTIONS.
pub fn paths() -> Vec<(&'static str, &'static str)> {
    let routes = routes().into_iter();
    routes.map(|(method, path, _)| (method, path)).collect()
}

type Route = (&'static str, &'static str, MethodRouter<AdminState>);

fn routes() -> Vec<Route> {
    let mut routes = pages::routes();
    routes.extend(requests::routes());
    routes.extend(page::routes());
    routes.extend(v1::routes());
    routes
}

fn router(served: AdminState, reach: Reachability) -> Router {
    let guard = Guard {
        reach,
        actions: Arc::clone(&served.actions),
        sessions: Arc::clone(&served.sessions),
        configuration: served.configuration.clone(),
    };
    routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, route)| {
            router.route(path, route)
        })
        .fallback(|| async {
            ActionError::new(
                404,
                "not_found",
                "only /metrics, /healthz, /readyz, /status and the API below /v1 are here",
            )
        })
        .method_not_allowed_fallback(|| async {
            ActionError::new(
                405,
                "method",
                "this path accepts only the methods of the `Allow` header",
            )
        })
        .with_state(served)
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::pass))
}

/// The peer of a connection.
#[derive(Clone, Debug)]
struct PeerAddress {
    who: Actor,
    life: Arc<ConnectionLifetime>,
    open: Connections,
}

impl PeerAddress {
    fn new<T>(who: Actor, connection: &BoundedConnection<T>) -> Self {
        Self {
            who,
            life: Arc::clone(&connection.life),
            open: connection.open().clone(),
        }
    }
}

impl Connected<IncomingStream<'_, BoundedListener<tokio::net::TcpListener>>> for PeerAddress {
    fn connect_info(stream: IncomingStream<'_, BoundedListener<tokio::net::TcpListener>>) -> Self {
        let address: &SocketAddr = stream.remote_addr();
        Self::new(Actor::Peer(*address), stream.io())
    }
}

impl Connected<IncomingStream<'_, BoundedListener<tokio::net::UnixListener>>> for PeerAddress {
    fn connect_info(stream: IncomingStream<'_, BoundedListener<tokio::net::UnixListener>>) -> Self {
        // SO_PEERCRED: the process that opened the connection, as reported by the kernel.
        let credentials = stream.io().inner().peer_cred().ok();
        let who = Actor::Unix {
            uid: credentials.map(|credentials| credentials.uid()),
            pid: credentials.and_then(|credentials| credentials.pid()),
        };
        Self::new(who, stream.io())
    }
}

/// Does work of some milliseconds on a thread that may block: the thread of the admin listener has
/// the deadlines of all connections.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ActionError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ActionError::new(503, "stopping", "the gateway stops"))
}

/// A refusal in the common format of errors.
impl IntoResponse for ActionError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(serde_json::json!({ "error": self }))).into_response()
    }
}
