//! The apps of the demonstration: a shop twice, a stock service that can be made slow, an API, and
//! a WebSocket server.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::{
        Html,
        sse::{Event, Sse},
    },
    routing::{any, get, post},
};
use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_tungstenite::tungstenite::Message;

use super::Page;
use crate::{
    base::{clock::Clock, tasks::Tasks},
    cli::program::shown,
    edge::worker,
};

const PAGE: &str = include_str!("page.html");

/// Time that `stock-2` is slow for, and how slow.
const SLOW_FOR: Duration = Duration::from_secs(15);
const SLOW: Duration = Duration::from_secs(3);
/// Time that the page of a product takes.
const RENDER: Duration = Duration::from_millis(500);

/// The apps, on ports of their own.
pub(super) struct DemoApps {
    pub(super) addresses: Vec<(&'static str, SocketAddr)>,
    tasks: Tasks,
    runtime: Option<Runtime>,
}

/// When `stock-2` is fast again.
type SlowUntil = Arc<Mutex<Option<Instant>>>;

impl DemoApps {
    pub(super) fn start(page: &Page) -> io::Result<Self> {
        let runtime = worker::runtime(Some(1))?;
        let mut apps = Self {
            addresses: Vec::new(),
            tasks: Tasks::default(),
            runtime: None,
        };
        let slow = SlowUntil::default();
        runtime.block_on(async {
            for name in ["shop-1", "shop-2"] {
                apps.serve(name, shop(name, page)).await?;
            }
            for name in ["stock-1", "stock-2"] {
                apps.serve(name, stock(name, &slow)).await?;
            }
            apps.serve("api", api()).await?;
            apps.chat().await
        })?;
        apps.runtime = Some(runtime);
        Ok(apps)
    }

    /// Returns addresses as they might be, without apps.
    pub(super) fn sample() -> Vec<(&'static str, SocketAddr)> {
        let names = ["shop-1", "shop-2", "stock-1", "stock-2", "api", "chat"];
        let ports = names.into_iter().zip(4001..);
        ports
            .map(|(name, port)| (name, (Ipv4Addr::LOCALHOST, port).into()))
            .collect()
    }

    pub(super) fn stop(mut self) {
        self.tasks.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    async fn listen(&mut self, name: &'static str) -> io::Result<TcpListener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        self.addresses.push((name, listener.local_addr()?));
        Ok(listener)
    }

    async fn serve(&mut self, name: &'static str, app: Router) -> io::Result<()> {
        let listener = self.listen(name).await?;
        self.tasks.spawn(name, async move {
            if let Err(error) = axum::serve(listener, app).await {
                log::error!(app = name, error:%; "demo app ended");
            }
        });
        Ok(())
    }

    /// Serves WebSockets that repeat what they get.
    async fn chat(&mut self) -> io::Result<()> {
        let listener = self.listen("chat").await?;
        let connections = self.tasks.clone();
        self.tasks.spawn("chat", async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                connections.spawn("chat connection", async move {
                    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                        return;
                    };
                    let greeting = Message::text("welcome to the chat of one");
                    let mut sent = socket.send(greeting).await;
                    while let (Ok(()), Some(Ok(message))) = (&sent, socket.next().await) {
                        if let Message::Text(text) = message {
                            sent = socket
                                .send(Message::text(format!("you wrote: {text}")))
                                .await;
                        }
                    }
                });
            }
        });
        Ok(())
    }
}

fn shop(name: &'static str, page: &Page) -> Router {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = shown(&[program.to_string_lossy().into_owned()]);
    let html = PAGE
        .replace("{name}", name)
        .replace("{base}", &page.base)
        .replace("{program}", &program)
        .replace("{socket}", &page.socket);
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
    let app = Router::new()
        .route("/", get(move || async move { Html(html) }))
        .route("/product", get(product))
        .route("/limited", get(|| async { "welcome\n" }))
        .route("/split", get(split));
    served_by(app, name)
}

fn stock(name: &'static str, slow: &SlowUntil) -> Router {
    let wait = {
        let slow = Arc::clone(slow);
        move || {
            let slow = Arc::clone(&slow);
            async move {
                let until = *slow.lock();
                let is_slow = until.is_some_and(|until| Clock::machine().now() < until);
                if is_slow && name == "stock-2" {
                    tokio::time::sleep(SLOW).await;
                }
            }
        }
    };
    let begin = {
        let slow = Arc::clone(slow);
        move || async move {
            *slow.lock() = Some(Clock::machine().now() + SLOW_FOR);
            format!("stock-2 is slow for {} s\n", SLOW_FOR.as_secs())
        }
    };
    let items = wait.clone();
    let app = Router::new()
        .route("/health", get(move || async move { wait().await }))
        .route("/stock/slow", post(begin))
        .route(
            "/stock/items",
            get(move || async move {
                items().await;
                format!("7 teapots, says {name}\n")
            }),
        );
    served_by(app, name)
}

fn api() -> Router {
    let app = Router::new()
        .route("/api/echo", any(echo))
        .route("/api/events", get(events));
    served_by(app, "api")
}

/// Adds the name of the app to each of its responses.
fn served_by(app: Router, name: &'static str) -> Router {
    app.layer(axum::middleware::map_response(
        move |mut response: axum::response::Response| async move {
            let name = HeaderValue::from_static(name);
            response.headers_mut().insert("x-served-by", name);
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
