//! Reasons why we close a connection, each with a fixed word.

/// Close reason of a connection or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseReason {
    /// A request's header section took too long.
    HeaderTimeout = 1,
    /// No data arrived for too long.
    IdleTimeout = 2,
    /// A response was not read for too long.
    SendTimeout = 3,
    /// A request's body arrived too slowly.
    BodyTimeout = 4,
    /// A WebSocket is closed with a close frame.
    GoingAway = 5,
    /// The client is banned.
    Banned = 6,
    /// HTTP/2: too many frames of a kind.
    Resets = 32,
    Pings = 33,
    Settings = 34,
    Continuations = 35,
    EmptyData = 36,
    Priorities = 37,
    WindowUpdates = 38,
    UnknownFrames = 39,
    /// HTTP/2: too many malformed requests.
    Malformed = 40,
}

impl CloseReason {
    pub(super) const ALL: [Self; 15] = [
        Self::HeaderTimeout,
        Self::IdleTimeout,
        Self::SendTimeout,
        Self::BodyTimeout,
        Self::GoingAway,
        Self::Banned,
        Self::Resets,
        Self::Pings,
        Self::Settings,
        Self::Continuations,
        Self::EmptyData,
        Self::Priorities,
        Self::WindowUpdates,
        Self::UnknownFrames,
        Self::Malformed,
    ];

    /// Returns the reason with this number.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == code)
    }

    /// Returns true if the request in flight ends for this reason, and its log line names it.
    pub(super) fn is_of_request(self) -> bool {
        matches!(
            self,
            Self::SendTimeout | Self::BodyTimeout | Self::GoingAway
        )
    }

    pub fn reason(self) -> &'static str {
        match self {
            Self::HeaderTimeout => "header_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::SendTimeout => "send_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::GoingAway => "going_away",
            Self::Banned => "banned",
            Self::Resets => "h2_resets",
            Self::Pings => "h2_pings",
            Self::Settings => "h2_settings",
            Self::Continuations => "h2_continuations",
            Self::EmptyData => "h2_empty_data",
            Self::Priorities => "h2_priorities",
            Self::WindowUpdates => "h2_window_updates",
            Self::UnknownFrames => "h2_unknown_frames",
            Self::Malformed => "h2_malformed",
        }
    }

    /// Returns true if the client did too much of something, and not too little.
    pub fn is_flood(self) -> bool {
        match self {
            Self::HeaderTimeout
            | Self::IdleTimeout
            | Self::SendTimeout
            | Self::BodyTimeout
            | Self::GoingAway => false,
            Self::Banned
            | Self::Resets
            | Self::Pings
            | Self::Settings
            | Self::Continuations
            | Self::EmptyData
            | Self::Priorities
            | Self::WindowUpdates
            | Self::UnknownFrames
            | Self::Malformed => true,
        }
    }
}
