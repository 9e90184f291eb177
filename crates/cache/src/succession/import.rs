//! Reading end of the pipe.

use std::{collections::HashMap, io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use super::{BATCH, FIXED, TransferTotals};
use crate::{
    base::clock::Clock,
    store::{EntryRules, LogMark, Store},
    tier::codec,
};

const BUFFER: usize = 1 << 16;

/// Returns the settings of the route with this name; `None` if it stores no responses.
pub(super) type RouteRulesLookup = Arc<dyn Fn(&str) -> Option<EntryRules> + Send + Sync>;

/// Store that takes over the entries of a predecessor.
#[derive(Clone, Copy, Debug)]
pub struct InheritingStore {
    store: &'static Store,
    mark: LogMark,
}

impl InheritingStore {
    /// Takes the store's mark: later purges win over entries from the pipe. The caller creates
    /// the heir before this process can receive any purge.
    pub fn new(store: &'static Store) -> Self {
        Self {
            store,
            mark: store.mark(),
        }
    }

    /// Reads until the end, until the pipe breaks, or until memory is full. Returns the totals in
    /// every case.
    pub async fn take(
        self,
        clock: &Clock,
        pipe: impl AsyncRead + Unpin,
        abouts: RouteRulesLookup,
    ) -> (TransferTotals, io::Result<()>) {
        let start = clock.now();
        let mut moved = TransferTotals::default();
        // Small entries are common, hence the buffer.
        let pipe = BufReader::with_capacity(BUFFER, pipe);
        let outcome = self.take_all(clock, pipe, &abouts, &mut moved).await;
        moved.took = clock.now() - start;
        (moved, outcome)
    }

    async fn take_all(
        self,
        clock: &Clock,
        mut pipe: impl AsyncRead + Unpin,
        abouts: &RouteRulesLookup,
        moved: &mut TransferTotals,
    ) -> io::Result<()> {
        loop {
            let mut batch = Vec::new();
            let has_more = self.read(&mut pipe, &mut batch).await;
            let (watch, abouts) = (clock.clone(), Arc::clone(abouts));
            let bytes: usize = batch.iter().map(Bytes::len).sum();
            let putting = tokio::task::spawn_blocking(move || {
                let start = watch.now();
                let entries = batch.len() as u64;
                let (stored, has_room) = self.put(batch, &abouts);
                (stored, entries - stored, has_room, watch.now() - start)
            });
            let (stored, left_out, has_room, took) = putting.await?;
            moved.entries += stored;
            moved.left_out += left_out;
            moved.bytes += bytes as u64;
            if !has_more? || !has_room {
                return Ok(());
            }
            tokio::time::sleep(took).await;
        }
    }

    /// Reads the next entries. Returns true if more follow.
    async fn read(
        self,
        pipe: &mut (impl AsyncRead + Unpin),
        batch: &mut Vec<Bytes>,
    ) -> io::Result<bool> {
        let mut bytes = 0;
        while bytes < BATCH {
            let Some(entry) = self.entry(pipe).await? else {
                return Ok(false);
            };
            bytes += entry.len();
            batch.push(entry);
        }
        Ok(true)
    }

    async fn entry(self, pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
        let len = pipe.read_u32().await? as usize;
        if len == 0 {
            return Ok(None);
        }
        // An entry is never larger than the memory that it must fit into.
        if len < FIXED || len as u64 > self.store.budget() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut entry = BytesMut::zeroed(len);
        pipe.read_exact(&mut entry).await?;
        Ok(Some(entry.freeze()))
    }

    /// Stores a batch. Returns the number of stored entries, and true if there is room for more.
    fn put(self, batch: Vec<Bytes>, abouts: &RouteRulesLookup) -> (u64, bool) {
        let mut routes = HashMap::new();
        let mut stored = 0;
        for entry in batch {
            if !self.store.has_room_for(entry.len() as u64) {
                return (stored, false);
            }
            stored += u64::from(self.put_one(entry, &mut routes, abouts).is_some());
        }
        (stored, true)
    }

    fn put_one(
        self,
        mut bytes: Bytes,
        routes: &mut HashMap<Bytes, Option<EntryRules>>,
        abouts: &RouteRulesLookup,
    ) -> Option<()> {
        let hits = bytes.get_u8();
        let name_len = usize::from(bytes.get_u16());
        if bytes.len() < name_len {
            return None;
        }
        let name = bytes.split_to(name_len);
        let about = || abouts(std::str::from_utf8(&name).ok()?);
        let here = routes.entry(name.clone()).or_insert_with(about).as_ref()?;
        let decoded = codec::decode(bytes, None).ok()?;
        let (draft, body) = decoded.draft(here, self.mark);
        self.store.take_over(&draft, &[body], hits)
    }
}
