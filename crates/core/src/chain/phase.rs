//! Sets of hooks that a filter wants called.

use std::ops::BitOr;

edgeway_base::enum_table! {
    /// A hook of [`Filter`](super::Filter). Those of responses are the last ones.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Phase => name {
        Request = "request",
        Authorized = "authorized",
        CacheKey = "cache_key",
        Route = "route",
        Upstream = "upstream",
        RequestBody = "request_body",
        UpstreamResponse = "upstream_response",
        Error = "error",
        Response = "response",
        ResponseBody = "response_body",
        Log = "log",
    }
}

impl Phase {
    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A set of hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases(u16);

impl Phases {
    pub const NONE: Self = Self(0);
    pub const REQUEST: Self = Self(Phase::Request.bit());
    pub const AUTHORIZED: Self = Self(Phase::Authorized.bit());
    pub const UPSTREAM: Self = Self(Phase::Upstream.bit());
    pub const UPSTREAM_RESPONSE: Self = Self(Phase::UpstreamResponse.bit());
    pub const RESPONSE: Self = Self(Phase::Response.bit());
    pub const ERROR: Self = Self(Phase::Error.bit());
    pub const ROUTE: Self = Self(Phase::Route.bit());
    pub const CACHE_KEY: Self = Self(Phase::CacheKey.bit());
    pub const REQUEST_BODY: Self = Self(Phase::RequestBody.bit());
    pub const RESPONSE_BODY: Self = Self(Phase::ResponseBody.bit());
    pub const LOG: Self = Self(Phase::Log.bit());

    /// Returns these phases if `is_wanted`, or none.
    #[must_use]
    pub const fn when(self, is_wanted: bool) -> Self {
        if is_wanted { self } else { Self::NONE }
    }

    pub fn wants(self, phase: Phase) -> bool {
        self.0 & phase.bit() != 0
    }
}

impl BitOr for Phases {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
