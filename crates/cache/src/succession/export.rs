//! Writing end of the pipe.

use std::{io, vec::IntoIter};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{BATCH, FIXED, LENGTH, TransferTotals};
use crate::{
    base::clock::Clock,
    store::{Entry, HotEntry, Store},
    tier::codec,
};

/// Writes every complete entry that is stored now, unless it is gone when its turn comes. Has no
/// deadline: the caller decides when to stop.
pub async fn give(
    store: &'static Store,
    clock: &Clock,
    mut pipe: impl AsyncWrite + Unpin,
) -> io::Result<TransferTotals> {
    let start = clock.now();
    let mut moved = TransferTotals::default();
    let entries = tokio::task::spawn_blocking(|| store.warmest_first()).await?;
    let mut entries = entries.into_iter();
    loop {
        let watch = clock.clone();
        let coding = tokio::task::spawn_blocking(move || {
            let batch_start = watch.now();
            let batch = Batch::next(store, &mut entries);
            (batch, entries, watch.now() - batch_start)
        });
        let (batch, left, took) = coding.await?;
        entries = left;
        if batch.entries == 0 {
            break;
        }
        pipe.write_all(&batch.bytes).await?;
        moved.entries += batch.entries;
        moved.bytes += batch.bytes.len() as u64;
        tokio::time::sleep(took).await;
    }
    pipe.write_all(&[0; LENGTH]).await?;
    pipe.flush().await?;
    moved.took = clock.now() - start;
    Ok(moved)
}

#[derive(Default)]
struct Batch {
    entries: u64,
    bytes: Vec<u8>,
}

impl Batch {
    fn next(store: &Store, entries: &mut IntoIter<HotEntry>) -> Self {
        let mut batch = Self::default();
        while batch.bytes.len() < BATCH {
            let Some(warmth) = entries.next() else {
                break;
            };
            let Some(entry) = store.of_warmth(&warmth) else {
                continue;
            };
            if let Some(frame) = frame(&entry, warmth.hits) {
                batch.entries += 1;
                batch.bytes.extend_from_slice(&frame);
            }
        }
        batch
    }
}

/// Encodes one entry for the pipe; `None` for entries that are of no use in another process.
fn frame(entry: &Entry, hits: u8) -> Option<Vec<u8>> {
    let encoded = codec::encode(entry)?;
    let route = entry.route().as_bytes();
    let name_len = u16::try_from(route.len()).ok()?;
    let len = u32::try_from(FIXED + route.len() + encoded.len()).ok()?;
    let mut frame = Vec::with_capacity(LENGTH + FIXED + route.len() + encoded.len());
    frame.extend_from_slice(&len.to_be_bytes());
    frame.push(hits);
    frame.extend_from_slice(&name_len.to_be_bytes());
    frame.extend_from_slice(route);
    frame.extend_from_slice(&encoded);
    Some(frame)
}
