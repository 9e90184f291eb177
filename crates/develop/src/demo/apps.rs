//! The apps of the demonstration: a shop twice, one of which can be stopped, and its page with an
//! API.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::{Html, Response},
    routing::{any, get, post},
};
use edgeway_net::tasks::Tasks;
use edgeway_proxy::edge::worker::Workers;
use edgeway_status::http::PAGE_ICON;
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};

/// Time for which `shop-2` refuses connections after it was stopped.
const STOPPED_FOR: Duration = Duration::from_secs(8);
/// Time between attempts to listen again.
const AGAIN: Duration = Duration::from_millis(200);
/// Time that the page of a product takes.
const RENDER: Duration = Duration::from_millis(500);
/// The page runs only what is served beside it, and no page of another site frames it.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; \
    frame-ancestors 'none'";

const NAMES: [&str; 4] = ["shop-1", "shop-2", "demo", "switch"];

/// The apps, on ports of their own.
pub(super) struct DemoApps {
    listeners: Vec<(&'static str, TcpListener)>,
    tasks: Tasks,
    workers: Workers,
}

impl DemoApps {
    /// Listens, so that addresses are known.
    pub(super) fn listen() -> io::Result<Self> {
        let workers = Workers::start(Some(1))?;
        let listeners = workers.handle().block_on(async {
            let mut listeners = Vec::new();
            for name in NAMES {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                listeners.push((name, listener));
            }
            io::Result::Ok(listeners)
        })?;
        Ok(Self {
            listeners,
            tasks: Tasks::default(),
            workers,
        })
    }

    pub(super) fn addresses(&self) -> io::Result<Vec<(&'static str, SocketAddr)>> {
        let listeners = self.listeners.iter();
        listeners
            .map(|(name, listener)| Ok((*name, listener.local_addr()?)))
            .collect()
    }

    /// Returns addresses as they might be, without apps.
    pub(super) fn sample() -> Vec<(&'static str, SocketAddr)> {
        let ports = NAMES.into_iter().zip(4001..);
        ports
            .map(|(name, port)| (name, (Ipv4Addr::LOCALHOST, port).into()))
            .collect()
    }

    /// Serves all apps, with this page.
    pub(super) fn start(&mut self, page: &str) {
        let _entered = self.workers.handle().enter();
        let stop = Arc::new(Notify::new());
        for (name, listener) in self.listeners.drain(..) {
            let (app, stop) = match name {
                "demo" => (demo(page.to_owned()), Arc::default()),
                "switch" => (switch(&stop), Arc::default()),
                "shop-2" => (shop(name), Arc::clone(&stop)),
                _ => (shop(name), Arc::default()),
            };
            self.tasks.spawn(name, async move {
                if let Err(error) = serve(listener, app, stop).await {
                    log::error!(app = name, error:%; "demo app ended");
                }
            });
        }
    }
}

/// Serves an app; each time that it is stopped, its port refuses connections for a while.
async fn serve(mut listener: TcpListener, app: Router, stop: Arc<Notify>) -> io::Result<()> {
    let address = listener.local_addr()?;
    loop {
        let stopped = Arc::clone(&stop).notified_owned();
        axum::serve(listener, app.clone())
            .with_graceful_shutdown(stopped)
            .await?;
        tokio::time::sleep(STOPPED_FOR).await;
        listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                // A connection of another program may have the port for now.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
    }
}

/// The app that visitors see: it adds its name to each response.
fn shop(name: &'static str) -> Router {
    let product = move || async move {
        tokio::time::sleep(RENDER).await;
        let now = chrono::Local::now().format("%H:%M:%S");
        let cache = [(header::CACHE_CONTROL, "public, max-age=20")];
        (
            cache,
            Html(format!(
                "<h1>A teapot</h1><p>Rendered by {name} at {now}.</p>\n"
            )),
        )
    };
    let split = |headers: HeaderMap| async move {
        let variant = headers
            .get("x-variant")
            .and_then(|value| value.to_str().ok());
        format!("variant {}\n", variant.unwrap_or("none"))
    };
    let stock = move || async move { format!("7 teapots, says {name}\n") };
    Router::new()
        .route("/health", get(|| async {}))
        .route("/product", get(product))
        .route("/limited", get(|| async { "welcome\n" }))
        .route("/split", get(split))
        .route("/stock", get(stock))
        .layer(axum::middleware::map_response(
            move |mut response: Response| async move {
                let name = HeaderValue::from_static(name);
                response.headers_mut().insert("x-served-by", name);
                response
            },
        ))
}

/// The page with its files, and an API that shows what it receives.
fn demo(page: String) -> Router {
    let page = move || async move {
        (
            [(header::CONTENT_SECURITY_POLICY, CONTENT_POLICY)],
            Html(page),
        )
    };
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
    };
    let style = include_str!("page.css");
    let script = include_str!("page.js");
    Router::new()
        .route("/", get(page))
        .route("/demo.css", file("text/css; charset=utf-8", style))
        .route("/demo.js", file("text/javascript; charset=utf-8", script))
        .route("/icon.svg", file("image/svg+xml", PAGE_ICON))
        .route("/api/echo", any(echo))
}

/// Stops `shop-2`.
fn switch(stop: &Arc<Notify>) -> Router {
    let stop = Arc::clone(stop);
    let begin = move || async move {
        // Has no effect while it is stopped.
        stop.notify_waiters();
        format!(
            "shop-2 refuses connections for {} s\n",
            STOPPED_FOR.as_secs()
        )
    };
    Router::new().route("/stop", post(begin))
}

async fn echo(headers: HeaderMap, request: Request) -> Json<serde_json::Value> {
    let mut seen = serde_json::Map::new();
    for (name, value) in &headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        seen.insert(name.to_string(), value.into());
    }
    Json(json!({
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": seen,
    }))
}
