//! Tests of connections to backends and of the pool of idle ones, without TLS and with it.

mod body;
mod http2;
mod secure;

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use super::{
    idle::{IdleConnection, SWEEP},
    *,
};
use crate::base::clock::Clock;

async fn pair() -> (BackendConnection, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Inet(listener.local_addr().unwrap());
    let connection = BackendConnection::new(&target, None).await.unwrap();
    (connection, listener.accept().unwrap().0)
}

/// Waits until the system has reported what the apps of all idle connections did.
async fn none_is_quiet(idle: &IdleConnections) {
    let take = |lane: &parking_lot::Mutex<Vec<_>>| std::mem::take(&mut *lane.lock());
    let all: Vec<IdleConnection> = idle.lanes.iter().flat_map(take).collect();
    for idle in &all {
        idle.connection.socket().readable().await.unwrap();
    }
    idle.lanes.enter().extend(all);
}

#[tokio::test]
async fn the_connection_used_last_is_taken_first() {
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    let now = clock.now();
    let (first, _app) = pair().await;
    let (second, _other_app) = pair().await;
    let fds = [first.fd(), second.fd()];
    idle.put((first, 0), now + SWEEP, &clock);
    idle.put((second, 0), now + SWEEP, &clock);
    let mut taken = [idle.take(None, now).unwrap(), idle.take(None, now).unwrap()];
    assert_eq!([taken[1].fd(), taken[0].fd()], fds);
    assert!(taken.iter_mut().all(|connection| connection.is_reused()));
    assert!(idle.take(None, now).is_none());
}

#[tokio::test]
async fn a_connection_that_expired_or_that_its_app_used_is_not_taken() {
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    let now = clock.now();
    let (expired, _app) = pair().await;
    idle.put((expired, 0), now + SWEEP, &clock);
    assert!(idle.take(None, now + SWEEP).is_none());
    let (closed, app) = pair().await;
    idle.put((closed, 0), now + SWEEP, &clock);
    drop(app);
    let (chatty, mut app) = pair().await;
    app.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        .unwrap();
    idle.put((chatty, 0), now + SWEEP, &clock);
    none_is_quiet(&idle).await;
    assert!(idle.take(None, now).is_none());
    // The control: a connection to an app that has done nothing.
    let (quiet, _app) = pair().await;
    idle.put((quiet, 0), now + SWEEP, &clock);
    tokio::task::yield_now().await;
    assert!(idle.take(None, now).is_some());
}

#[tokio::test]
async fn a_stopping_app_gets_its_idle_connections_closed_and_then_those_in_use() {
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    let now = clock.now();
    let ((first, mut app), (second, mut other)) = (pair().await, pair().await);
    idle.put((first, 1), now + SWEEP, &clock);
    idle.close(5);
    // Its request began before that.
    idle.put((second, 4), now + SWEEP, &clock);
    assert!(idle.take(None, now).is_none());
    assert_eq!(app.read(&mut [0]).unwrap(), 0, "it is closed");
    assert_eq!(other.read(&mut [0]).unwrap(), 0, "it is closed");
    // The control: a request that began later, as on a new process of the app.
    let (third, _app) = pair().await;
    idle.put((third, 6), now + SWEEP, &clock);
    assert!(idle.take(None, now).is_some());
}

/// A task may poll 128 times before it must yield; what it polls then is pending.
#[tokio::test]
async fn closed_connections_are_recognised_however_many_there_are() {
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    let now = clock.now();
    let mut apps = Vec::new();
    for _ in 0..300 {
        let (connection, app) = pair().await;
        idle.put((connection, 0), now + SWEEP, &clock);
        apps.push(app);
    }
    drop(apps);
    none_is_quiet(&idle).await;
    assert!(idle.take(None, now).is_none());
}

#[tokio::test]
async fn idle_connections_are_closed_when_their_time_is_up() {
    let idle = Arc::<IdleConnections>::default();
    let clock = Clock::test();
    let (connection, mut app) = pair().await;
    idle.put(
        (connection, 0),
        clock.now() + Duration::from_secs(5),
        &clock,
    );
    clock.advance(Duration::from_secs(6));
    let end = tokio::task::spawn_blocking(move || app.read(&mut [0]).unwrap());
    assert_eq!(end.await.unwrap(), 0);
}
