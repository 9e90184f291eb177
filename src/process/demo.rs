//! The demonstration: a gateway in front of three small apps in the same process.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::Request,
    http::HeaderMap,
    response::{
        Html,
        sse::{Event, Sse},
    },
    routing::{any, get},
};
use serde_json::json;

use super::{
    boot::{self, BootError, BootOptions},
    handover::LaunchState,
};
use crate::{base::tasks::Tasks, edge::worker, gateway, status::admin_socket};

/// The demonstration's own configuration, with placeholders for the real addresses.
const CONFIG: &str = include_str!("demo.yaml");

const PAGE: &str = include_str!("demo.html");

/// Serves the demonstration until a stop signal.
pub(crate) fn serve(
    birth: LaunchState,
    address: SocketAddr,
    admin: SocketAddr,
) -> Result<u8, BootError> {
    let runtime = worker::runtime(Some(1)).map_err(BootError::Runtime)?;
    let apps = Tasks::default();
    let started = runtime.block_on(async {
        let mut addresses = Vec::new();
        for name in ["shop-1", "shop-2", "api"] {
            addresses.push(start(&apps, name).await?);
        }
        Ok::<_, std::io::Error>(addresses)
    });
    let addresses = started.map_err(BootError::Runtime)?;
    let text = CONFIG
        .replace("{listen}", &address.to_string())
        .replace("{admin}", &admin.to_string())
        .replace("{shop-1}", &addresses[0].to_string())
        .replace("{shop-2}", &addresses[1].to_string())
        .replace("{api}", &addresses[2].to_string());
    let loaded = gateway::load_text("demo.yaml", &text);
    let Some(file) = loaded.file else {
        return Err(BootError::Config {
            diagnostics: loaded.diagnostics,
        });
    };
    let socket = admin_socket::usual();
    let socket = socket.display();
    let hello = format!(
        r"
Edgeway serves on http://{address}, before two instances of a small shop and an API.
Try:

  # a page, with security headers and a request id
  curl -i http://{address}/
  # what the app receives: our forwarding headers, no forged ones
  curl -s http://{address}/api/echo -H 'X-Real-IP: 6.6.6.6'
  # a body over this route's 4 KiB is refused: 413
  head -c 5000 /dev/zero | curl -i --data-binary @- http://{address}/api/echo
  # server-sent events, each as it happens
  curl -N http://{address}/api/events
  # routes, upstreams, health; http://{admin}/metrics is for Prometheus
  curl -s --unix-socket {socket} http://localhost/status

The configuration is src/process/demo.yaml. Ctrl-C ends it.
"
    );
    let outcome = boot::serve(BootOptions {
        birth,
        file,
        path: None,
        threads: None,
        hello: hello.lines().map(str::to_owned).collect(),
        sources: None,
        overlay: None,
        // The configuration is ours, and a test checks it.
        warn: Box::new(|_| {}),
        hangup: boot::Hangup::Stop,
    });
    apps.stop();
    runtime.shutdown_background();
    outcome
}

async fn start(apps: &Tasks, name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    apps.spawn(name, async move {
        if let Err(error) = axum::serve(listener, app(name)).await {
            log::error!(app = name, error:%; "demo app ended");
        }
    });
    Ok(address)
}

fn app(name: &'static str) -> Router {
    Router::new()
        .route(
            "/",
            get(move || async move { Html(PAGE.replace("{name}", name)) }),
        )
        .route(
            "/api/health",
            get(|| async { Json(json!({ "status": "ok" })) }),
        )
        .route("/api/echo", any(echo))
        .route("/api/events", get(events))
        .layer(axum::middleware::map_response(
            move |mut response: axum::response::Response| async move {
                response
                    .headers_mut()
                    .insert("x-served-by", axum::http::HeaderValue::from_static(name));
                response
            },
        ))
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

/// Sends ten events, one every half second.
async fn events() -> Sse<impl futures_core::Stream<Item = Result<Event, Infallible>>> {
    Sse::new(Ticks {
        interval: tokio::time::interval(Duration::from_millis(500)),
        left: 10,
    })
}

struct Ticks {
    interval: tokio::time::Interval,
    left: u32,
}

impl futures_core::Stream for Ticks {
    type Item = Result<Event, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        self.interval.poll_tick(cx).map(|_| {
            self.left -= 1;
            Some(Ok(Event::default().data(format!("{} to go", self.left))))
        })
    }
}
