//! Reasons why we close a connection, each with a fixed word.

edgeway_base::enum_table! {
    /// Close reason of a connection or a part of it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum CloseReason => reason {
        /// A request's header section took too long.
        HeaderTimeout = "header_timeout",
        /// No data arrived for too long.
        IdleTimeout = "idle_timeout",
        /// A response was not read for too long.
        SendTimeout = "send_timeout",
        /// A request's body arrived too slowly.
        BodyTimeout = "body_timeout",
        /// A WebSocket is closed with a close frame.
        GoingAway = "going_away",
        /// The client is banned.
        Banned = "banned",
        /// HTTP/2: too many frames of a kind.
        Resets = "h2_resets",
        Pings = "h2_pings",
        Settings = "h2_settings",
        Continuations = "h2_continuations",
        EmptyData = "h2_empty_data",
        Priorities = "h2_priorities",
        WindowUpdates = "h2_window_updates",
        UnknownFrames = "h2_unknown_frames",
        /// HTTP/2: too many malformed requests.
        Malformed = "h2_malformed",
    }
}

impl CloseReason {
    /// Returns the number of the reason, which is never zero.
    pub(super) const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// Returns the reason with this number.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Returns true if the request in flight ends for this reason, and its log line names it.
    pub(super) fn is_of_request(self) -> bool {
        matches!(
            self,
            Self::SendTimeout | Self::BodyTimeout | Self::GoingAway
        )
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
