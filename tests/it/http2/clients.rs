//! Clients that confirm each frame. Invariant: a client that sends one `WINDOW_UPDATE` for its
//! stream and one for its connection after each DATA frame is never cut, whatever the sizes of
//! frames and windows; one that sends frames without being sent anything is.

use fastrand::Rng;

use super::{CLEARTEXT, MIB, until_refused, yaml};
use crate::support::{
    gateway::Gateway,
    http2::{
        DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, block, frame,
    },
    origins::BigOrigin,
    seed,
};

/// Bound on the DATA frames of one case.
const MAX_FRAMES: u64 = 6000;
/// Initial window of a connection (RFC 9113, 6.9.2).
const CONNECTION_WINDOW: u64 = 65_535;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Habits of one client.
#[derive(Debug)]
struct Habits {
    /// Window of its stream.
    window: u32,
    /// Bytes that it reads at once.
    room: usize,
    /// Number of DATA frames that it confirms together, each with two frames.
    batch: usize,
    /// Number of confirmations of each, of which only one is honest.
    times: usize,
    /// True if it confirms the connection before the stream.
    connection_first: bool,
    /// Number of DATA frames to one PING, as clients send that measure the way (0 for none).
    frames_to_ping: usize,
    /// Length of the response's body.
    length: u64,
    chunked: bool,
}

impl Habits {
    fn draw(random: &mut Rng) -> Self {
        let windows = [64, 100, 333, 512, 1000, 2048, 4096, 16_384, 65_535, 1 << 20];
        let window = windows[random.usize(..windows.len())];
        let lengths = [MIB / 16, MIB, 8 * MIB];
        Self {
            window,
            room: [100, 1500, 16_384, 1 << 20][random.usize(..4)],
            batch: [1, 1, 2, 7, 50][random.usize(..5)],
            times: 1,
            connection_first: random.bool(),
            frames_to_ping: [0, 0, 1, 5][random.usize(..4)],
            length: lengths[random.usize(..3)].min(u64::from(window) * MAX_FRAMES),
            chunked: random.bool(),
        }
    }
}

/// Confirms a DATA frame of this length.
fn confirmation(length: usize, connection_first: bool) -> Vec<u8> {
    let length = u32::try_from(length)
        .expect("a frame is short")
        .to_be_bytes();
    let mut both = [1, 0].map(|stream| frame(WINDOW_UPDATE, 0, stream, &length));
    if connection_first {
        both.reverse();
    }
    both.concat()
}

/// Downloads a body with these habits. Returns how much of it came, and how it ended.
async fn download(gateway: &Gateway, habits: &Habits) -> (u64, String) {
    let mut frames = Frames::open(gateway.address()).await;
    frames.room = habits.room;
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend(habits.window.to_be_bytes());
    let target = format!("/large?bytes={}", habits.length);
    let target = format!("{target}{}", if habits.chunked { "&chunked" } else { "" });
    let start = [
        frame(SETTINGS, 0, 0, &settings),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", &target)),
    ];
    let started = frames.write(&start.concat()).await;
    started.expect("the gateway reads");
    let window = u64::from(habits.window).min(CONNECTION_WINDOW);
    let (mut received, mut unconfirmed, mut count) = (0, Vec::new(), 0);
    loop {
        let Some(next) = frames.next().await else {
            return (received, "closed".to_owned());
        };
        match next.kind {
            DATA => {
                let length = next.payload.len();
                received += length as u64;
                assert!(next.payload.iter().all(|byte| *byte == b'b'), "{habits:?}");
                if next.flags & END_STREAM != 0 {
                    return (received, "ended".to_owned());
                }
                if length > 0 {
                    unconfirmed.push(length);
                }
                count += 1;
            }
            GOAWAY | RST_STREAM => return (received, format!("{next:?}")),
            _ => continue,
        }
        let mut sent = Vec::new();
        if habits.frames_to_ping > 0 && count % habits.frames_to_ping == 0 {
            sent.extend(frame(PING, 0, 0, b"measured"));
        }
        let is_needed = unconfirmed.iter().sum::<usize>() as u64 * 2 > window;
        if is_needed || unconfirmed.len() >= habits.batch {
            for length in unconfirmed.drain(..) {
                sent.extend(confirmation(length, habits.connection_first));
                // Of one byte, so that the gateway's frames stay small.
                let again = confirmation(1, habits.connection_first);
                sent.extend(again.repeat(habits.times - 1));
            }
        }
        // The gateway may have closed the connection: the next read shows it.
        drop(frames.write(&sent).await);
    }
}

#[tokio::test]
async fn clients_that_confirm_each_frame_get_everything() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let origin = BigOrigin::start().await;
    let yaml = yaml(CLEARTEXT, origin.address(), "");
    let gateway = Gateway::start(&yaml).await;
    let mut cut = Vec::new();
    let count = seed::cases(8, 40);
    for _ in 0..count {
        let habits = Habits::draw(&mut random);
        let (received, end) = download(&gateway, &habits).await;
        if received != habits.length || end != "ended" {
            cut.push(format!("{received} bytes, {end}: {habits:?}"));
        }
    }
    let all = format!("{} of {count}: {cut:#?}", cut.len());
    assert!(cut.is_empty(), "seed {seed}: {all}");
    assert_eq!(gateway.refused("h2_window_updates").await, 0);
    // The control: confirmations of what was never sent.
    let habits = Habits {
        window: 333,
        room: 16_384,
        batch: 1,
        times: 10,
        connection_first: true,
        frames_to_ping: 0,
        length: MIB,
        chunked: false,
    };
    let (received, end) = download(&gateway, &habits).await;
    assert!(received < MIB / 2, "{received} bytes, {end}");
    until_refused(&gateway, "h2_window_updates").await;
}
