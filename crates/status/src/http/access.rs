//! Rules of access to the admin listener: which proof each kind of path needs from which client.

use crate::actions::{ActionError, TOKEN_MISSING};

/// Reachability of an admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reachability {
    /// Any user who may open the socket's file, as the file system decides. No token is required.
    Socket,
    /// Any user of this machine, including browsers with foreign pages and apps that can be made to
    /// send requests.
    Loopback,
    /// Any client that the network lets through.
    Network,
}

edgeway_base::enum_table! {
    /// Why a request was rejected.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum RejectionReason => word {
        LongHead = "long_head",
        Host = "host",
        CrossSite = "cross_site",
        TokenMissing = TOKEN_MISSING,
        TokenWrong = "token_wrong",
        SocketOnly = "socket_only",
        SessionMissing = "session_missing",
        Csrf = "csrf",
        LinkUnknown = "link_unknown",
        LoginRate = "login_rate",
    }
}

edgeway_base::metric_handles! {
    /// Counters of refused requests.
    #[derive(Debug)]
    pub struct RejectionMetrics() {
        pub by_reason: [IntCounter; reason: RejectionReason::word] = "edgeway_admin_refused_total",
            "Requests to the admin listener that were refused.";
    }
}

impl RejectionReason {
    pub(super) fn refused(self) -> ActionError {
        let (status, message) = match self {
            Self::LongHead => (
                431,
                "a request here has at most 128 headers, in a header section of at most 32 KiB",
            ),
            Self::Host => (
                421,
                "the admin listener accepts localhost and loopback addresses only",
            ),
            Self::CrossSite => (403, "a page of another site may not act or read here"),
            Self::TokenMissing => (401, "this needs `Authorization: Bearer TOKEN`"),
            Self::TokenWrong => (401, "this is not the token of the gateway"),
            Self::SocketOnly => (
                403,
                "over TCP without a token, only /metrics, /healthz and /readyz are open: use the \
                 admin socket, as the gateway's own user or the group `edgeway`, or write a \
                 `token` beside `admin.address`; for the page, use the link of `edgeway page`",
            ),
            Self::SessionMissing => (401, "the session has ended: log in again"),
            Self::Csrf => (
                403,
                "this form belongs to another session: load the page again and repeat the action",
            ),
            Self::LinkUnknown => (
                401,
                "a link opens the page once, within a minute: run `edgeway page` again",
            ),
            Self::LoginRate => (
                429,
                "there were too many failed logins from this address: wait a minute, or use the \
                 link of `edgeway page`",
            ),
        };
        ActionError::new(status, self.word(), message)
    }
}

/// Kinds of paths, by the proof that they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathKind {
    /// State of the process, and nothing of what it serves.
    Health,
    Metrics,
    /// The login and its style and script, which are the same for all gateways.
    Login,
    /// The status page. A browser without a session is sent to the login.
    Page,
    /// Forms of the status page.
    Form,
    Other,
}

/// Facts of a request that decide about it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Claim {
    pub(super) reach: Reachability,
    pub(super) path: PathKind,
    /// True for GET and HEAD, which change nothing.
    pub(super) is_safe: bool,
    /// True if a page of another site sent it.
    pub(super) is_cross_site: bool,
    pub(super) wants_html: bool,
    /// True if the configuration has a token.
    pub(super) has_token: bool,
    /// The token in the request, compared with that of the configuration.
    pub(super) bearer: Bearer,
    /// True if the request has the cookie of a session that has not ended.
    pub(super) has_session: bool,
}

/// Token of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bearer {
    Absent,
    Wrong,
    Right,
}

/// Proof that counts for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    NotNeeded,
    Socket,
    Token,
    Session,
}

/// Decision against a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    Rejected(RejectionReason),
    /// A browser opens the page without a session: it gets the login.
    Login,
}

/// Decides about a request. All rules of access are here.
pub(super) fn decide(claim: Claim) -> Result<Proof, Denial> {
    let reject = |reason| Err(Denial::Rejected(reason));
    if !claim.is_safe && claim.is_cross_site {
        return reject(RejectionReason::CrossSite);
    }
    if matches!(claim.path, PathKind::Health | PathKind::Login) {
        return Ok(Proof::NotNeeded);
    }
    if claim.reach == Reachability::Socket {
        // A socket may be forwarded to a machine with a browser, where any page could hold streams
        // open until there is none left.
        let is_foreign_read = claim.is_cross_site && claim.path == PathKind::Other;
        if is_foreign_read && claim.bearer != Bearer::Right {
            return reject(RejectionReason::CrossSite);
        }
        return Ok(Proof::Socket);
    }
    let without = match (claim.has_token, claim.reach) {
        (false, Reachability::Loopback) => RejectionReason::SocketOnly,
        // The configuration requires a token there. If there is none all the same, every request
        // is rejected.
        _ => RejectionReason::TokenMissing,
    };
    match claim.bearer {
        Bearer::Right => return Ok(Proof::Token),
        Bearer::Wrong if claim.has_token => return reject(RejectionReason::TokenWrong),
        Bearer::Wrong | Bearer::Absent => {}
    }
    let is_open_metrics = claim.path == PathKind::Metrics
        && !claim.has_token
        && claim.reach == Reachability::Loopback;
    if is_open_metrics {
        return Ok(Proof::NotNeeded);
    }
    if claim.has_session {
        return match claim.path {
            // A link on another page may lead here.
            PathKind::Page if claim.is_safe => Ok(Proof::Session),
            PathKind::Form => Ok(Proof::Session),
            // Browsers share cookies between all ports of a host, so a page of an app on this
            // machine could hold streams open.
            _ if claim.is_safe && claim.is_cross_site => reject(RejectionReason::CrossSite),
            _ if claim.is_safe => Ok(Proof::Session),
            // Programs act by the token or the socket; the page has its forms.
            _ => reject(without),
        };
    }
    match claim.path {
        PathKind::Page if claim.is_safe && claim.wants_html => Err(Denial::Login),
        PathKind::Form => reject(RejectionReason::SessionMissing),
        _ => reject(without),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns every claim.
    fn claims() -> Vec<Claim> {
        let mut claims = Vec::new();
        let flags = [false, true];
        for reach in [
            Reachability::Socket,
            Reachability::Loopback,
            Reachability::Network,
        ] {
            for path in PATHS {
                for bearer in [Bearer::Absent, Bearer::Wrong, Bearer::Right] {
                    for bits in 0..32_u8 {
                        let flag = |at: u8| flags[usize::from(bits >> at & 1)];
                        claims.push(Claim {
                            reach,
                            path,
                            bearer,
                            is_safe: flag(0),
                            is_cross_site: flag(1),
                            wants_html: flag(2),
                            has_token: flag(3),
                            has_session: flag(4),
                        });
                    }
                }
            }
        }
        // Without a token in the configuration none can be right.
        claims.retain(|claim| claim.has_token || claim.bearer != Bearer::Right);
        claims
    }

    const PATHS: [PathKind; 6] = [
        PathKind::Health,
        PathKind::Metrics,
        PathKind::Login,
        PathKind::Page,
        PathKind::Form,
        PathKind::Other,
    ];

    #[test]
    fn every_combination_is_decided_as_the_documentation_says() {
        let mut allowed = 0;
        for claim in claims() {
            let found = decide(claim);
            let is_allowed = found.is_ok();
            allowed += usize::from(is_allowed);
            let is_open = matches!(claim.path, PathKind::Health | PathKind::Login);
            let is_local_metrics = claim.path == PathKind::Metrics
                && claim.reach == Reachability::Loopback
                && !claim.has_token;
            let has_token_shown = claim.bearer == Bearer::Right;
            let may_session = claim.path == PathKind::Form
                || claim.is_safe && (!claim.is_cross_site || claim.path == PathKind::Page);
            let is_session_left = claim.bearer != Bearer::Wrong || !claim.has_token;
            let expected = (claim.is_safe || !claim.is_cross_site)
                && (is_open
                    || claim.reach == Reachability::Socket
                        && (!claim.is_cross_site || claim.path != PathKind::Other)
                    || has_token_shown
                    || is_local_metrics
                    || claim.has_session && is_session_left && may_session);
            assert_eq!(is_allowed, expected, "{claim:?}: {found:?}");
        }
        assert!(allowed > 100);
    }

    #[test]
    fn a_page_of_another_site_never_acts_and_no_proof_is_invented() {
        for claim in claims() {
            let found = decide(claim);
            if claim.is_cross_site && !claim.is_safe {
                let expected = Denial::Rejected(RejectionReason::CrossSite);
                assert_eq!(found, Err(expected), "{claim:?}");
            }
            match found {
                Ok(Proof::Token) => assert_eq!(claim.bearer, Bearer::Right, "{claim:?}"),
                Ok(Proof::Session) => assert!(claim.has_session, "{claim:?}"),
                Ok(Proof::Socket) => assert_eq!(claim.reach, Reachability::Socket, "{claim:?}"),
                Ok(Proof::NotNeeded) => assert!(
                    !matches!(
                        claim.path,
                        PathKind::Page | PathKind::Form | PathKind::Other
                    ),
                    "{claim:?}"
                ),
                // A program never gets a page in place of a refusal.
                Err(Denial::Login) => assert!(claim.wants_html && claim.is_safe, "{claim:?}"),
                Err(Denial::Rejected(_)) => {}
            }
            // A session acts by the forms of the page alone, which have a token against forgery.
            if found == Ok(Proof::Session) && !claim.is_safe {
                assert_eq!(claim.path, PathKind::Form, "{claim:?}");
            }
        }
    }
}
