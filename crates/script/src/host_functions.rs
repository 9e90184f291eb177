//! Host functions of `ctx.kv` and `fetch`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use rquickjs::{Array, Ctx, Exception, Object, Result, Value, function::Opt};
use serde_json::json;

use super::{
    capabilities::{Capabilities, SharedCapabilities},
    host::{MAX_HEADER_LEN, State, add, bounded_bytes, flat, map},
    kv,
    usv_string::{self, UsvString, length},
};

/// Longest request body. It is held until the request is sent, and a hook may wait for many.
const MAX_BODY_LEN: usize = 256 << 10;

/// Methods that the Fetch standard refuses.
const FORBIDDEN_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];
/// Headers that control how a request is sent, which the gateway decides: setting them has no
/// effect, as the Fetch standard has it. Headers that it keeps from scripts to protect a browser's
/// user (`cookie`, `origin`, `referer`) may be passed on here.
const GATEWAY_HEADERS: &str = "accept-encoding connection content-length expect host keep-alive \
    proxy-authorization proxy-connection te trailer transfer-encoding upgrade";

/// Adds these functions to `host`.
pub(super) fn functions<'js>(
    host: &Object<'js>,
    state: &Arc<State>,
    capabilities: &SharedCapabilities,
) -> Result<()> {
    let (s, shared) = (Arc::clone(state), Arc::clone(capabilities));
    let kv = move |ctx: Ctx<'js>,
                   what: String,
                   key: rquickjs::String<'js>,
                   value: Opt<Option<rquickjs::String<'js>>>,
                   by: Opt<i64>,
                   millis: Opt<f64>| {
        if shared.kv.is_none() {
            let why =
                "this plugin has no kv: write `kv: memory` or `kv: redis` in its configuration";
            return Err(Exception::throw_type(&ctx, why));
        }
        let capabilities = Arc::clone(&shared);
        let value = value.0.flatten();
        // Before they are copied out of its own heap.
        let (long, more) = (length(&key), value.as_ref().map_or(0, length));
        s.charge(&ctx, long.saturating_add(more))?;
        kv::fits(long, more).map_err(|why| Exception::throw_message(&ctx, &why))?;
        let key = usv_string::read(&key)?;
        let value = value.map_or_else(|| Ok(String::new()), |value| usv_string::read(&value))?;
        let time = millis.0.filter(|millis| *millis > 0.0);
        let time = time.and_then(|millis| Duration::try_from_secs_f64(millis / 1000.0).ok());
        let by = by.0.unwrap_or(1);
        s.wait(&ctx, async move {
            kv_operation(&capabilities, &what, &key, value, by, time).await
        })
    };
    add(host, "kv", kv)?;
    let (s, capabilities) = (Arc::clone(state), Arc::clone(capabilities));
    let fetch = move |ctx: Ctx<'js>,
                      UsvString(method): UsvString,
                      url: rquickjs::String<'js>,
                      headers: Array<'js>,
                      body: Value<'js>| {
        if capabilities.fetch.is_none() {
            let why = "this plugin may not fetch: list origins in `fetch` of its configuration";
            return Err(Exception::throw_type(&ctx, why));
        }
        let long = length(&url);
        s.charge(&ctx, long)?;
        if long > MAX_HEADER_LEN {
            let why = format!("a URL to fetch can have at most {MAX_HEADER_LEN} bytes");
            return Err(Exception::throw_type(&ctx, &why));
        }
        let url = usv_string::read(&url)?;
        let method = Method::from_bytes(method.as_bytes())
            .ok()
            .filter(|method| !FORBIDDEN_METHODS.contains(&method.as_str()))
            .ok_or_else(|| Exception::throw_type(&ctx, "invalid method to fetch with"))?;
        let mut headers = map(&ctx, &s.texts(&ctx, &headers)?)?;
        for name in GATEWAY_HEADERS.split(' ') {
            headers.remove(name);
        }
        s.continue_request(&ctx, &mut headers)?;
        // The body is processed even if it is too long.
        s.charge(&ctx, MAX_BODY_LEN)?;
        let body = bounded_bytes(&body, MAX_BODY_LEN).map_err(|()| {
            let why = format!("a body to fetch with can have at most {MAX_BODY_LEN} bytes");
            Exception::throw_type(&ctx, &why)
        })?;
        let capabilities = Arc::clone(&capabilities);
        s.wait(&ctx, async move {
            send(&capabilities, method, &url, headers, body).await
        })
    };
    add(host, "fetch", fetch)
}

async fn kv_operation(
    capabilities: &Capabilities,
    what: &str,
    key: &str,
    value: String,
    by: i64,
    time: Option<Duration>,
) -> std::result::Result<String, String> {
    let Some(kv) = &capabilities.kv else {
        return Err("this plugin has no kv".to_owned());
    };
    let json = match what {
        "get" => kv.get(key).await?.map_or(json!(null), |text| json!(text)),
        "put" => {
            kv.put(key, value, time).await?;
            json!(null)
        }
        "increment" => json!(kv.increment(key, by, time).await?),
        _ => {
            kv.delete(key).await?;
            json!(null)
        }
    };
    Ok(json.to_string())
}

async fn send(
    capabilities: &Capabilities,
    method: Method,
    url: &str,
    headers: http::HeaderMap,
    body: Bytes,
) -> std::result::Result<String, String> {
    let Some(origins) = &capabilities.fetch else {
        return Err("this plugin may not fetch".to_owned());
    };
    let fetched = origins.fetch(method, url, headers, body).await?;
    // As text: JSON cannot carry bytes, and base64 of large responses costs more than it helps.
    let text = String::from_utf8(fetched.body.to_vec())
        .map_err(|_| format!("the response of `{url}` is not UTF-8 text"))?;
    let response = json!({
        "status": fetched.status.as_u16(),
        "headers": flat(&fetched.headers),
        "body": text,
    });
    Ok(response.to_string())
}
