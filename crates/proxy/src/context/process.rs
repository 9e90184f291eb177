//! State that all requests of a process share.

use std::sync::{Arc, OnceLock, Weak};

use futures_util::future::BoxFuture;

use super::Context;
use crate::{live::Live, session::Client};

/// Driver of requests that the gateway makes for itself.
pub(crate) trait ServeOwn: Send + Sync {
    /// Sends a request that has a context already.
    fn serve_own(&self, client: Box<Client>, ctx: Box<Context>) -> BoxFuture<'_, ()>;
}

/// State of a running process, and the driver of the requests that it makes for itself.
pub(crate) struct Shared {
    pub(crate) live: Arc<Live>,
    driver: OnceLock<Weak<dyn ServeOwn>>,
}

impl Shared {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        Self {
            live,
            driver: OnceLock::new(),
        }
    }

    /// Lets this driver send the requests of the gateway itself.
    pub(crate) fn drive_by(&self, driver: Weak<dyn ServeOwn>) {
        let is_first = self.driver.set(driver).is_ok();
        debug_assert!(is_first, "a process has one driver");
    }

    /// Sends a request of the gateway itself.
    pub(crate) async fn serve_own(&self, client: Box<Client>, ctx: Box<Context>) {
        let driver = self.driver.get().and_then(Weak::upgrade);
        if let Some(driver) = driver {
            driver.serve_own(client, ctx).await;
        }
    }
}
