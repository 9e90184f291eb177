//! Connections that stand, and which parts of Redis they reach.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use redis::{
    Cmd, PushKind, RedisError, Value, aio::MultiplexedConnection, cluster_async::ClusterConnection,
};
use tokio::sync::Notify;

use super::settings::{Maker, Settings, connection_config};
use super::slots::{SLOTS, slot};

/// Failures in a row after which nobody but the supervisor asks.
pub(super) const STRIKES: u32 = 3;
/// Into how many ranges of slots a cluster is parted: its machines fail one by one, and the
/// client does not tell which one a command went to.
pub(super) const PARTS: u16 = 16;

/// One set of connections, made together and given up together.
pub(super) struct Links {
    links: Box<[Link]>,
    /// One, or [`PARTS`] in a cluster.
    pub(super) parts: Box<[Part]>,
}

/// Cloned for each command, which locks nothing.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What fails and comes back as one.
#[derive(Default)]
pub(super) struct Part {
    /// Failures since the last success.
    strikes: AtomicU32,
    /// Only the supervisor asks, and closes it.
    pub(super) is_open: AtomicBool,
}

impl Part {
    pub(super) fn passed(&self) {
        // Read first: as long as all is well nobody writes to what all share.
        if self.strikes.load(Ordering::Relaxed) != 0 {
            self.strikes.store(0, Ordering::Relaxed);
        }
    }

    /// How many have failed in a row now.
    pub(super) fn struck(&self) -> u32 {
        self.strikes.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Links {
    /// Connects. `lost` is woken when one of them is closed.
    pub(super) async fn make(settings: &Settings, lost: &Arc<Notify>) -> Result<Self, RedisError> {
        let mut maker = settings.maker()?;
        let mut links = Vec::with_capacity(settings.connections);
        for _ in 0..settings.connections {
            links.push(Link::make(&mut maker, lost).await?);
        }
        let parts = match maker {
            Maker::Cluster(_) => PARTS,
            Maker::Single(_) | Maker::Sentinel(_) => 1,
        };
        Ok(Self {
            links: links.into(),
            parts: (0..parts).map(|_| Part::default()).collect(),
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Link> {
        self.links.iter().cloned()
    }

    /// One for a command: each by chance, so that nobody has to count.
    pub(super) fn pick(&self) -> Link {
        self.links[fastrand::usize(..self.links.len())].clone()
    }

    /// Where `key` lies.
    pub(super) fn part_of(&self, key: &[u8]) -> usize {
        if self.parts.len() == 1 {
            return 0;
        }
        usize::from(slot(key) / (SLOTS / PARTS))
    }

    pub(super) fn is_whole(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|part| !part.is_open.load(Ordering::Relaxed))
    }
}

impl Link {
    async fn make(maker: &mut Maker, lost: &Arc<Notify>) -> Result<Self, RedisError> {
        let lost = Arc::clone(lost);
        let config = connection_config().set_push_sender(move |push: redis::PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost.notify_one();
            }
            Ok::<_, redis::aio::SendError>(())
        });
        Ok(match maker {
            Maker::Single(client) => Self::One(
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?,
            ),
            Maker::Sentinel(client) => {
                Self::One(client.get_async_connection_with_config(&config).await?)
            }
            Maker::Cluster(client) => Self::Cluster(client.get_async_connection().await?),
        })
    }

    pub(super) async fn send(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::One(connection) => cmd.query_async(connection).await,
            Self::Cluster(connection) => cmd.query_async(connection).await,
        }
    }
}
