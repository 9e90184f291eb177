//! Sets of hooks that a filter wants called, each synchronous or asynchronous.

use std::ops::BitOr;

/// A hook of [`Filter`](super::Filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Request,
    Authorized,
    Upstream,
    UpstreamResponse,
    Response,
    Error,
    Route,
    CacheKey,
    RequestBody,
    ResponseBody,
    Log,
}

impl Phase {
    /// Every phase, in the order in which a request meets them.
    pub const ALL: [Self; 11] = [
        Self::Request,
        Self::Authorized,
        Self::CacheKey,
        Self::Route,
        Self::Upstream,
        Self::RequestBody,
        Self::UpstreamResponse,
        Self::Error,
        Self::Response,
        Self::ResponseBody,
        Self::Log,
    ];

    /// Returns the name of the phase in `edgeway explain`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Authorized => "authorized",
            Self::Upstream => "upstream",
            Self::UpstreamResponse => "upstream_response",
            Self::Response => "response",
            Self::Error => "error",
            Self::Route => "route",
            Self::CacheKey => "cache_key",
            Self::RequestBody => "request_body",
            Self::ResponseBody => "response_body",
            Self::Log => "log",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A set of hooks, each synchronous or asynchronous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    wanted: u16,
    asynchronous: u16,
}

impl Phases {
    pub const NONE: Self = Self {
        wanted: 0,
        asynchronous: 0,
    };
    pub const REQUEST: Self = Self::of(Phase::Request);
    pub const AUTHORIZED: Self = Self::of(Phase::Authorized);
    pub const UPSTREAM: Self = Self::of(Phase::Upstream);
    pub const UPSTREAM_RESPONSE: Self = Self::of(Phase::UpstreamResponse);
    pub const RESPONSE: Self = Self::of(Phase::Response);
    pub const ERROR: Self = Self::of(Phase::Error);
    pub const ROUTE: Self = Self::of(Phase::Route);
    pub const CACHE_KEY: Self = Self::of(Phase::CacheKey);
    pub const REQUEST_BODY: Self = Self::of(Phase::RequestBody);
    pub const RESPONSE_BODY: Self = Self::of(Phase::ResponseBody);
    pub const LOG: Self = Self::of(Phase::Log);

    const fn of(phase: Phase) -> Self {
        Self {
            wanted: phase.bit(),
            asynchronous: 0,
        }
    }

    /// Returns the same phases with their asynchronous twins. Only the request, authorized,
    /// upstream, upstream-response, response and error hooks have one.
    #[must_use]
    pub const fn asynchronous(self) -> Self {
        const TWINS: u16 = Phase::Request.bit()
            | Phase::Authorized.bit()
            | Phase::Upstream.bit()
            | Phase::UpstreamResponse.bit()
            | Phase::Response.bit()
            | Phase::Error.bit();
        Self {
            wanted: self.wanted,
            asynchronous: self.wanted & TWINS,
        }
    }

    pub fn wants(self, phase: Phase) -> bool {
        self.wanted & phase.bit() != 0
    }

    pub fn is_async(self, phase: Phase) -> bool {
        self.asynchronous & phase.bit() != 0
    }
}

impl BitOr for Phases {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            wanted: self.wanted | other.wanted,
            asynchronous: self.asynchronous | other.asynchronous,
        }
    }
}
