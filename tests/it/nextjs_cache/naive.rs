//! Caches as they are usually configured in front of an app, as the tests' controls: each case must
//! fail with one of these, or it proves nothing.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::{self, Request, Response, ResponseHeaders},
    server::Server,
};

/// Caching rule of such a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipe {
    /// Stores every response by its target as sent, whatever the headers say.
    Everything,
    /// Stores responses with `s-maxage` or `public`, by their decoded path.
    DecodedPath,
    /// Stores nothing, and requests without the query.
    NoQuery,
}

/// Running naive cache; it stops when dropped.
pub(super) struct Naive(Server);

impl Naive {
    pub(super) async fn start(recipe: Recipe, origin: SocketAddr) -> Self {
        let store: Arc<Mutex<HashMap<String, Response>>> = Arc::default();
        let server = Server::start(move |stream| {
            let store = Arc::clone(&store);
            async move { serve(stream, recipe, origin, &store).await }
        });
        Self(server.await)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// Serves one request without a body, and closes the connection.
async fn serve(
    mut stream: TcpStream,
    recipe: Recipe,
    origin: SocketAddr,
    store: &Mutex<HashMap<String, Response>>,
) -> Option<()> {
    let mut head = Vec::new();
    while client::find(&head, b"\r\n\r\n").is_none() {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let path = target.split('?').next()?;
    let asked = if recipe == Recipe::NoQuery {
        path
    } else {
        target
    };
    let mut request = Request::new(method, asked);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    let key = match recipe {
        Recipe::DecodedPath => percent_decode_str(path).decode_utf8_lossy().into_owned(),
        Recipe::Everything | Recipe::NoQuery => target.to_owned(),
    };
    let found = store.lock().get(&key).cloned();
    let response = if let Some(found) = found {
        found
    } else {
        let response = client::send(origin, &request).await.ok()?;
        if keeps(recipe, &response.headers) {
            store.lock().insert(key, response.clone());
        }
        response
    };
    stream.write_all(&written(&response)).await.ok()?;
    stream.shutdown().await.ok()
}

fn keeps(recipe: Recipe, headers: &ResponseHeaders) -> bool {
    let cache_control = headers.header("cache-control").unwrap_or_default();
    match recipe {
        Recipe::Everything => true,
        Recipe::DecodedPath => {
            cache_control.contains("s-maxage") || cache_control.contains("public")
        }
        Recipe::NoQuery => false,
    }
}

fn written(response: &Response) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {} X\r\n", response.status());
    for (name, value) in &response.headers.fields {
        let is_framing = [
            "content-length",
            "transfer-encoding",
            "connection",
            "keep-alive",
        ]
        .iter()
        .any(|framing| name.eq_ignore_ascii_case(framing));
        if !is_framing {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    bytes.push_str(&format!(
        "content-length: {}\r\nconnection: close\r\n\r\n",
        response.body.len()
    ));
    [bytes.as_bytes(), &response.body].concat()
}
