//! Established connections, and the parts of Redis that they reach.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use redis::{
    Client, Cmd, ConnectionAddr, ErrorKind, PushKind, RedisError, Value,
    aio::MultiplexedConnection, cluster_async::ClusterConnection,
};
use tokio::sync::Notify;

use super::settings::{ClientFactory, RedisSettings, at, connection_config};
use super::slots::{SLOTS, slot};

/// Failures in a row after which only the supervisor sends commands.
pub(super) const MAX_FAILURES: u32 = 3;
/// Number of slot ranges that a cluster is divided into: its nodes fail one by one, and the client
/// does not report which node a command went to.
pub(super) const PARTS: u16 = 16;

/// A set of connections, opened together and given up together.
pub(super) struct Connections {
    links: Box<[RedisConnection]>,
    /// A single part, or [`PARTS`] parts in a cluster.
    pub(super) parts: Box<[RedisNode]>,
    /// Address of the instance; `None` for a cluster.
    pub(super) master: Option<ConnectionAddr>,
}

/// A connection. It is cloned for each command, which needs no lock.
#[derive(Clone)]
pub(super) enum RedisConnection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A part of Redis that fails and recovers as a unit.
#[derive(Default)]
pub(super) struct RedisNode {
    /// Number of failures since the last success.
    strikes: AtomicU32,
    /// Set while only the supervisor sends commands; only the supervisor clears it.
    pub(super) is_open: AtomicBool,
}

impl RedisNode {
    pub(super) fn passed(&self) {
        // Read first: as long as nothing fails, no thread writes to the shared value.
        if self.strikes.load(Ordering::Relaxed) != 0 {
            self.strikes.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure; returns the number of failures in a row.
    pub(super) fn struck(&self) -> u32 {
        self.strikes.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Connections {
    /// Connects. `lost` is woken when a connection closes.
    pub(super) async fn make(
        settings: &RedisSettings,
        lost: &Arc<Notify>,
    ) -> Result<Self, RedisError> {
        let mut maker = settings.maker()?;
        let instance = maker.instance(None).await?;
        let mut links = Vec::with_capacity(settings.connections);
        for _ in 0..settings.connections {
            let link = RedisConnection::make(&maker, instance.as_ref(), lost);
            links.push(link.await?);
        }
        let parts = if instance.is_some() { 1 } else { PARTS };
        Ok(Self {
            links: links.into(),
            parts: (0..parts).map(|_| RedisNode::default()).collect(),
            master: instance.as_ref().map(|instance| at(instance).clone()),
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = RedisConnection> {
        self.links.iter().cloned()
    }

    /// Picks a connection for a command at random, which needs no shared counter.
    pub(super) fn pick(&self) -> RedisConnection {
        self.links[fastrand::usize(..self.links.len())].clone()
    }

    /// Returns the part that holds `key`.
    pub(super) fn part_of(&self, key: &[u8]) -> usize {
        if self.parts.len() == 1 {
            return 0;
        }
        usize::from(slot(key) / (SLOTS / PARTS))
    }

    pub(super) fn is_complete(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|part| !part.is_open.load(Ordering::Relaxed))
    }
}

impl RedisConnection {
    async fn make(
        maker: &ClientFactory,
        instance: Option<&Client>,
        lost: &Arc<Notify>,
    ) -> Result<Self, RedisError> {
        let lost = Arc::clone(lost);
        let config = connection_config().set_push_sender(move |push: redis::PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        });
        if let ClientFactory::Cluster(client) = maker {
            return Ok(Self::Cluster(client.get_async_connection().await?));
        }
        let instance = instance.ok_or((ErrorKind::Client, "no instance"))?;
        let opened = instance.get_multiplexed_async_connection_with_config(&config);
        Ok(Self::One(opened.await?))
    }

    pub(super) async fn send(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::One(connection) => cmd.query_async(connection).await,
            Self::Cluster(connection) => cmd.query_async(connection).await,
        }
    }
}
