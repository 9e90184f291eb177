//! Request smuggling: an origin that records the bytes it gets sees nothing, or unambiguous
//! requests only; requests that are merely odd pass.

mod corpus;
mod recorder;
mod sound;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use self::{
    corpus::{Case, corpus},
    recorder::{Reading, Recorder},
};
use crate::support::{front::Front, gateway::Gateway};

const PATIENCE: Duration = Duration::from_secs(20);

async fn gateway_before(origin: SocketAddr, listener: &str) -> Gateway {
    Front::to(origin).listener(listener).start().await
}

/// Returns all bytes that come back until the other side closes.
async fn exchange(to: SocketAddr, raw: &[u8]) -> Vec<u8> {
    let sent = raw;
    let raw = &raw[..raw.len().min(200)].escape_ascii().to_string();
    let mut stream = TcpStream::connect(to).await.expect("it listens");
    // The other side may close before it has read all of it.
    drop(stream.write_all(sent).await);
    let mut response = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut response)).await;
    let shown = response.escape_ascii();
    assert!(matches!(ended, Ok(Ok(_))), "{raw}: {ended:?} after {shown}");
    response
}

fn statuses(response: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(response);
    let responses = text.split("HTTP/1.1 ").skip(1);
    // A page may contain the version too.
    responses
        .filter_map(|response| response.get(..3)?.parse().ok())
        .collect()
}

/// Sends the next request of another client, over a pooled connection to the origin.
async fn ask_after(gateway: &Gateway) {
    let response = gateway.get("/after").await;
    assert_eq!(
        (response.status(), response.text().as_str()),
        (200, "/after")
    );
}

/// Returns what is wrong with the requests that the origin saw, if anything.
fn fault(seen: &[Vec<u8>]) -> Option<String> {
    let mut targets = Vec::new();
    for bytes in seen {
        match Reading::of(bytes) {
            Ok(reading) => {
                // A truncated request does not count as one, but nothing may follow it.
                targets.extend(reading.requests.into_iter().map(|request| request.target));
            }
            Err(problem) => return Some(problem),
        }
    }
    targets.retain(|target| target != "/after");
    match targets.as_slice() {
        [] => None,
        [one] if one != "/smuggled" => None,
        more => Some(format!("saw {more:?}")),
    }
}

#[tokio::test]
async fn an_ambiguous_request_never_reaches_an_origin() {
    let origin = Recorder::start().await;
    let gateway = gateway_before(origin.address(), "").await;
    let cases = corpus();
    assert!(cases.len() >= 120, "{}", cases.len());
    let mut wrong = Vec::new();
    for Case {
        name, status, raw, ..
    } in &cases
    {
        let response = exchange(gateway.address(), raw.as_bytes()).await;
        if statuses(&response) != [*status] {
            wrong.push(format!(
                "{name}: {}, not {status}",
                String::from_utf8_lossy(&response)
            ));
        }
        ask_after(&gateway).await;
        if let Some(fault) = fault(&origin.take()) {
            wrong.push(format!("{name}: {fault}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        cases.len()
    );
}

/// The control: behind a relay without checks, the same check fails for each.
#[tokio::test]
async fn a_relay_without_checks_forwards_each_of_them() {
    let mut let_through = 0;
    for Case {
        name,
        raw,
        is_ambiguous,
        ..
    } in corpus()
    {
        if !is_ambiguous {
            continue;
        }
        let origin = Recorder::start().await;
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay.local_addr().unwrap();
        let target = origin.address();
        let mut relaying = JoinSet::new();
        relaying.spawn(async move {
            let (mut client, _) = relay.accept().await.unwrap();
            let mut upstream = TcpStream::connect(target).await.unwrap();
            // Either side may close while the other still sends.
            drop(copy_bidirectional(&mut client, &mut upstream).await);
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(raw.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut response = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut response))
            .await
            .unwrap()
            .unwrap();
        relaying.join_next().await;
        assert!(fault(&origin.take()).is_some(), "{name}");
        let_through += 1;
    }
    assert!(let_through >= 100, "{let_through}");
}

#[tokio::test]
async fn a_refusal_has_an_id_a_log_line_and_a_count() {
    let origin = Recorder::start().await;
    let gateway = gateway_before(origin.address(), "").await;
    let raw = b"POST /pay?x=1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = String::from_utf8(exchange(gateway.address(), raw).await).unwrap();
    assert!(
        response.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{response}"
    );
    let id = response
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .unwrap_or_else(|| panic!("no id in {response}"));
    let lines = gateway.log_lines(1).await;
    assert_eq!(lines[0]["id"], id, "{}", lines[0]);
    assert_eq!(lines[0]["status"], 400);
    assert_eq!(lines[0]["method"], "POST");
    assert_eq!(lines[0]["reason"], "bad_framing");
    let refused = gateway.refused("bad_framing").await;
    assert_eq!(refused, 1);
    assert!(origin.take().is_empty());
}

#[tokio::test]
async fn a_client_that_continues_to_send_can_read_the_refusal() {
    let origin = Recorder::start().await;
    let gateway = gateway_before(origin.address(), "").await;
    let head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1, 1\r\n\r\n";
    for extra in [0, 10_000, 150_000] {
        let raw = [head.as_slice(), &vec![b'x'; extra]].concat();
        let response = exchange(gateway.address(), &raw).await;
        assert_eq!(statuses(&response), [400], "{extra}");
    }
}
