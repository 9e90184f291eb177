//! Stored bodies that the kernel sends from a file in memory (`sendfile`). The file is made once a
//! body is requested often, in the background.

use std::{os::fd::OwnedFd, sync::Arc};

use edgeway_cache::{
    WorkKind,
    store::{Body, Entry, WholeBody, may_have_file},
};
use edgeway_files::Segment;
use edgeway_gateway::RouteCache;
use pingora::{Error, ErrorType, Result};

use crate::{connection::Connection, context::Context, live::Live, session::Client};

/// Returns the file of the body of `entry` and the connection that can take it, if there are both. If
/// there is no file yet, one is made for the next client, should the body be worth it.
pub(super) fn find(
    client: &Client,
    ctx: &Context,
    cache: &RouteCache,
    entry: &Arc<Entry>,
) -> Option<(Arc<Connection>, Arc<OwnedFd>)> {
    let length = entry.body.whole().map_or(0, WholeBody::len);
    if !may_have_file(length) || !client.takes_segments() {
        return None;
    }
    let connection = ctx.connection.as_ref();
    // TLS encrypts what it sends, so it has to read it.
    let connection = connection.filter(|connection| connection.tls.is_none())?;
    let file = entry.file();
    if file.is_none() && cache.cache.store().wants_file(entry) {
        make(ctx.live(), cache, entry);
    }
    Some((Arc::clone(connection), file?))
}

/// Sends a stored body from its file.
pub(super) async fn send(
    client: &mut Client,
    (connection, file): (Arc<Connection>, Arc<OwnedFd>),
    body: &Arc<Body>,
) -> Result<()> {
    let length = body.whole().map_or(0, WholeBody::len);
    let mut sent = 0;
    while sent < length {
        let segment = Segment::new(&file, sent, length);
        let part = client.write_segment(&connection.segment, segment).await?;
        sent += part.bytes;
        if part.is_refused {
            return copy(client, body, sent).await;
        }
    }
    Ok(())
}

/// Copies a body from the byte at `start` on, because the kernel sends no file to this socket.
async fn copy(client: &mut Client, body: &Arc<Body>, start: u64) -> Result<()> {
    let broken = || Error::new_in(ErrorType::Custom("a stored response cannot be read"));
    let mut rest = body.reader().ok_or_else(broken)?;
    if !rest.seek(start, None) {
        return Err(broken());
    }
    let mut left = body.whole().map_or(0, WholeBody::len) - start;
    while let Some(piece) = rest.next().await.map_err(|_| broken())? {
        left -= piece.len() as u64;
        client.write(Some(piece), left == 0).await?;
    }
    Ok(())
}

/// Makes the file on a thread that no request waits for.
fn make(live: &Live, cache: &RouteCache, entry: &Arc<Entry>) {
    let Some(claim) = cache
        .cache
        .claim(entry.key(), entry.variance(), WorkKind::File)
    else {
        return;
    };
    let entry = Arc::clone(entry);
    let store = cache.cache.store();
    live.background.spawn("body file", async move {
        let result = tokio::task::spawn_blocking(move || store.add_file(&entry)).await;
        match result {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                log::warn!(error:%; "stored response copied for each client: no file made of it");
            }
            Err(error) => log::warn!(error:%; "making a file of a stored response ended early"),
        }
        drop(claim);
    });
}
