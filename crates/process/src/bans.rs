//! Operator actions on bans, and their display.

use std::time::{Duration, UNIX_EPOCH};

use edgeway_base::clock::rfc3339;
use edgeway_core::limits::{
    Address, Ban, BanOrigin,
    bans::{MAX_DURATION, MIN_DURATION},
};
use edgeway_gateway::Gateway;
use edgeway_status::{
    actions::{ActionError, NewBan},
    snapshot::BanStatus,
};

/// Size limit of a reason: a few words in a table.
const MAX_REASON_LEN: usize = 200;

/// Default reason of an operator's ban.
const REASON: &str = "operator";

/// Bans a client on behalf of an operator.
pub(super) fn ban(gateway: &Gateway, new: &NewBan) -> Result<BanStatus, ActionError> {
    let address = address(&new.address)?;
    if gateway.trusted.trusts(address.ip()) {
        let message = format!(
            "`{address}` is one of `trusted_proxies`: a ban would lock out all clients behind it; \
             ban its clients instead"
        );
        return Err(ActionError::new(409, "trusted_proxy", message));
    }
    let lasts = new.lasts.0;
    if !(MIN_DURATION..=MAX_DURATION).contains(&lasts) {
        let message = format!("invalid ban time `{}`: 1s to 366d", new.lasts);
        return Err(ActionError::new(422, "bad_time", message));
    }
    let reason = new.reason.as_deref().map_or(REASON, str::trim);
    let is_plain = !reason.is_empty() && !reason.chars().any(char::is_control);
    if !is_plain || reason.chars().count() > MAX_REASON_LEN {
        let message = format!("a reason is one line of up to {MAX_REASON_LEN} characters");
        return Err(ActionError::new(422, "bad_reason", message));
    }
    let ban = gateway
        .bans
        .ban(address, reason.to_owned(), BanOrigin::Operator, lasts, 0);
    Ok(status(&ban))
}

/// Lifts a ban on behalf of an operator.
pub(super) fn unban(gateway: &Gateway, text: &str) -> Result<BanStatus, ActionError> {
    let address = address(text)?;
    let lifted = gateway.bans.lift(address);
    lifted
        .map(|ban| status(&ban))
        .ok_or_else(|| ActionError::new(404, "not_banned", format!("`{address}` is not banned")))
}

fn address(text: &str) -> Result<Address, ActionError> {
    text.parse()
        .map_err(|error: edgeway_core::limits::address::InvalidAddress| {
            ActionError::new(422, "bad_address", error.to_string())
        })
}

/// A ban in the form of the status API.
pub(super) fn status(ban: &Ban) -> BanStatus {
    let text = |millis| rfc3339(UNIX_EPOCH + Duration::from_millis(millis));
    BanStatus {
        address: ban.address.to_string(),
        reason: ban.reason.clone(),
        by: match ban.by {
            BanOrigin::Rule => "rule".to_owned(),
            BanOrigin::Operator => "operator".to_owned(),
        },
        since: text(ban.since),
        until: text(ban.until),
        strikes: ban.strikes,
    }
}
