//! WebSocket echo: a large message, a long silence, many sockets at once.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::{
    Report,
    support::{
        apps::ExpressApp,
        client::Connection,
        gateway::Gateway,
        wait::{pass, until},
    },
};

type Socket = WebSocketStream<TcpStream>;

const SOCKETS: usize = 1000;

pub(crate) async fn run(report: &mut Report) {
    let app = ExpressApp::start().await;
    let gateway = Gateway::start(&format!(
        "
upstreams:
  api:
    app: node
    backends: [\"{}\"]
    health: {{ path: /health }}
routes:
  - match: {{ path: /* }}
    upstream: api
  - match: {{ path: /ws }}
    upstream: api
    websocket: true
",
        app.address()
    ))
    .await;
    let mut quiet = open(&gateway)
        .await
        .expect("the gateway passes the upgrade");

    let large = Message::binary(vec![b'l'; 16 << 20]);
    let same = echo(&mut quiet, large).await;
    report.check(same, "a message of 16 MiB came back the same");

    let mut opening = JoinSet::new();
    let address = gateway.address();
    for _ in 0..SOCKETS {
        opening.spawn(async move { open_at(address).await });
    }
    let mut sockets: Vec<Socket> = opening.join_all().await.into_iter().flatten().collect();
    let counted = app.stats().await["openSockets"].clone();
    report.check(
        sockets.len() == SOCKETS,
        format!(
            "{} sockets at once, the app counts {counted}",
            sockets.len()
        ),
    );
    let mut same = 0;
    for (number, socket) in sockets.iter_mut().enumerate() {
        same += usize::from(echo(socket, Message::text(format!("socket {number}"))).await);
    }
    report.check(same == SOCKETS, format!("{same} of them echo"));
    Report::note(format!(
        "the gateway holds {} MiB with them",
        gateway.rss() >> 20
    ));
    drop(sockets);
    let closed = until(Duration::from_secs(5), &mut async || {
        (app.stats().await["openSockets"] == 1).then_some(())
    })
    .await;
    report.check(closed.is_some(), "the app knows that they are gone");

    pass(Duration::from_secs(75)).await;
    let same = echo(&mut quiet, Message::text("still here")).await;
    report.check(same, "a socket echoes after 75 s of silence");
}

async fn open(gateway: &Gateway) -> Option<Socket> {
    open_at(gateway.address()).await
}

async fn open_at(address: std::net::SocketAddr) -> Option<Socket> {
    let stream = Connection::open(address).await.ok()?.into_stream();
    let largest = Some(64 << 20);
    let config = WebSocketConfig::default()
        .max_message_size(largest)
        .max_frame_size(largest);
    let opened = client_async_with_config("ws://shop.test/ws", stream, Some(config)).await;
    opened.ok().map(|(socket, _)| socket)
}

async fn echo(socket: &mut Socket, message: Message) -> bool {
    if socket.send(message.clone()).await.is_err() {
        return false;
    }
    let back = tokio::time::timeout(Duration::from_secs(30), socket.next()).await;
    matches!(back, Ok(Some(Ok(back))) if back == message)
}
