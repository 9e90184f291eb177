//! Secret of the fleet: it signs data that gateways read from one another in Redis.

use edgeway_base::secret::Secret;
use edgeway_config::{model::RedisConfig, tree::Spanned};
use edgeway_net::redis::MIN_SECRET_LEN;

use super::compile::Compiler;

const MAKE_A_SECRET: &str = "run `openssl rand -base64 32 > /etc/edgeway/redis-secret` once, copy the \
                             file to every gateway, and write `redis: { url: redis://HOST:PORT, \
                             secret: file:/etc/edgeway/redis-secret }`";

impl Compiler<'_> {
    /// Returns the secrets of the fleet, and reports those that are too short.
    pub(super) fn redis_secrets(&mut self, config: &RedisConfig) -> Vec<Secret> {
        for Spanned { value, place } in &config.secret.0 {
            if value.reveal().len() < MIN_SECRET_LEN {
                self.at(*place, "edgeway::redis::secret").error(
                    "this secret is shorter than 32 characters: it could be guessed",
                    MAKE_A_SECRET,
                );
            }
        }
        let secrets = config.secret.0.iter();
        secrets.map(|secret| secret.value.clone()).collect()
    }

    /// Requires a secret for a cache in Redis: gateways trust what they read of one another there.
    pub(super) fn signed_redis(&mut self) -> Option<()> {
        let Some(Spanned { value, place }) = self.file.redis.as_ref() else {
            return Some(());
        };
        if !value.secret.is_empty() {
            return Some(());
        }
        self.at(*place, "edgeway::redis::secret").refuse(
            "`redis` has no `secret`: anyone who can write there could change any stored response",
            MAKE_A_SECRET,
        )
    }
}
