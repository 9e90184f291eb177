//! Body of a response, which is waited for without a buffer.

use std::future::{self, poll_fn};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{pair, secure::App, *};

/// Writes `content` in drawn pieces, each after the reader waits for it, or before.
async fn write(theirs: &mut (impl AsyncWrite + Unpin), content: &[u8], dice: &mut fastrand::Rng) {
    let mut rest = content;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(dice.usize(1..=rest.len().min(40_000)));
        theirs.write_all(piece).await.unwrap();
        theirs.flush().await.unwrap();
        rest = after;
        if dice.bool() {
            tokio::task::yield_now().await;
        }
    }
    theirs.shutdown().await.unwrap();
}

/// Reads to the end. Returns the content, and how often there was nothing.
async fn read(ours: &mut BackendConnection, room: usize) -> (Vec<u8>, usize) {
    let (mut content, mut waits) = (Vec::new(), 0);
    loop {
        let count = poll_fn(|cx| {
            let read = ours.poll_body(room, cx);
            if read.is_pending() {
                assert_eq!(ours.input.capacity(), 0, "nothing came yet");
                waits += 1;
            }
            read
        });
        if count.await.unwrap() == 0 {
            return (content, waits);
        }
        content.extend_from_slice(&ours.input.split());
    }
}

#[tokio::test]
async fn a_body_arrives_whole_and_waits_without_a_buffer() {
    let app = App::start().await;
    let seed = edgeway_testkit::drawn();
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut waits = 0;
    for turn in 0..40 {
        let length = dice.usize(1..200_000);
        let content: Vec<u8> = (0..length).map(|_| dice.u8(..)).collect();
        let room = dice.usize(1..70_000);
        let (seen, waited) = if turn % 2 == 0 {
            let (mut ours, mut theirs) = app.secure().await;
            let write = write(&mut theirs, &content, &mut dice);
            tokio::join!(read(&mut ours, room), write).0
        } else {
            let (mut ours, theirs) = pair().await;
            theirs.set_nonblocking(true).unwrap();
            let mut theirs = tokio::net::TcpStream::from_std(theirs).unwrap();
            let write = write(&mut theirs, &content, &mut dice);
            tokio::join!(read(&mut ours, room), write).0
        };
        assert!(seen == content, "seed {seed}");
        waits += waited;
    }
    assert!(waits > 40, "{waits}");
}

#[tokio::test]
async fn bytes_that_are_not_used_yet_stay() {
    let (mut ours, mut app) = pair().await;
    app.write_all(b"1F").unwrap();
    let count = poll_fn(|cx| ours.poll_body(1000, cx)).await.unwrap();
    assert_eq!(count, 2);
    let mut next = std::pin::pin!(poll_fn(|cx| ours.poll_body(1000, cx)));
    let is_waiting =
        poll_fn(|cx| Poll::Ready(future::Future::poll(next.as_mut(), cx).is_pending()));
    assert!(is_waiting.await);
    app.write_all(b"\r\n").unwrap();
    assert_eq!(next.await.unwrap(), 2);
    assert_eq!(&ours.input[..], b"1F\r\n");
}
