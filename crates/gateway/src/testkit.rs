//! Values of compiled types for the tests of crates above.

use edgeway_config::model::{Http2Config, LimitsConfig, UnderscoresConfig};

use super::{ListenAddress, Listener};

impl Listener {
    /// Returns a listener with all defaults.
    pub fn test() -> Self {
        Self {
            name: "test".into(),
            address: ListenAddress::All(0),
            tls: None,
            redirect: None,
            proxy_protocol: None,
            http2: Http2Config::default(),
            limits: LimitsConfig::default(),
            underscores: UnderscoresConfig::default(),
        }
    }
}
