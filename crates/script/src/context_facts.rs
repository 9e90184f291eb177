//! Facts about the client: the claims of its token, and the location of its address.

use std::sync::Arc;

use rquickjs::{Ctx, Object, Result};
use serde_json::{Map, Value};

use super::host::{State, add};
use crate::base::geo::ClientLocation;

/// Facts that a hook can read from its context; neither costs anything before it is read.
#[derive(Clone, Debug, Default)]
pub struct ContextFacts {
    /// Claims of a verified token.
    pub claims: Option<Arc<Map<String, Value>>>,
    pub location: Option<ClientLocation>,
}

/// Adds the functions that read these facts to `host`.
pub(super) fn functions<'js>(host: &Object<'js>, state: &Arc<State>) -> Result<()> {
    let s = Arc::clone(state);
    add(host, "claims", move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            let claims = call.input.known.claims.as_ref();
            Ok(claims.and_then(|claims| serde_json::to_string(&**claims).ok()))
        })
    })?;
    let s = Arc::clone(state);
    add(host, "location", move |ctx: Ctx<'js>, call: u32| {
        s.with(&ctx, call, |call| {
            let location = call.input.known.location.as_ref();
            Ok(location.and_then(|location| location.json().map(str::to_owned)))
        })
    })
}
