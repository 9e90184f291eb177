//! Origin whose responses describe the request, and whose headers the path selects.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use serde_json::json;

use super::{Exchange, Origin, Received, Serve, Then};

/// Echoes the received request. The last segment of the path, `N-M`, selects among the headers that
/// it was started with; with `N-M-K-L` each response has either the first two or the last two. With
/// `-e` at the end it has an `ETag`, and a request with that tag gets 304.
pub(crate) struct ReflectingOrigin {
    name: &'static str,
    cache_control: Vec<String>,
    vary: Vec<String>,
    asked: AtomicU64,
}

impl ReflectingOrigin {
    pub(crate) async fn start(
        name: &'static str,
        cache_control: &[&str],
        vary: &[&str],
    ) -> Origin<Self> {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        Origin::listen(Self {
            name,
            cache_control: owned(cache_control),
            vary: owned(vary),
            asked: AtomicU64::new(0),
        })
        .await
    }

    /// Returns the pairs of `Cache-Control` and `Vary` that the path allows.
    fn choices(&self, last: &str) -> Vec<(&str, &str)> {
        let numbers: Vec<usize> = last
            .split('-')
            .filter_map(|number| number.parse().ok())
            .collect();
        let pairs = numbers.chunks_exact(2);
        let pair = |pair: &[usize]| {
            let cache_control = self.cache_control.get(pair[0])?;
            Some((cache_control.as_str(), self.vary.get(pair[1])?.as_str()))
        };
        pairs.filter_map(pair).collect()
    }

    /// Returns the tag of the response to this request: it depends on everything that responses may
    /// vary by.
    fn tag(&self, request: &Received, choices: &[(&str, &str)]) -> String {
        let mut hasher = DefaultHasher::new();
        (self.name, &request.target, request.header("host")).hash(&mut hasher);
        let names = choices.iter().flat_map(|(_, vary)| vary.split(','));
        let names: BTreeSet<String> = names.map(|name| name.trim().to_ascii_lowercase()).collect();
        for (name, value) in &request.headers {
            if names.contains(&name.to_ascii_lowercase()) {
                (name.to_ascii_lowercase(), value).hash(&mut hasher);
            }
        }
        format!("\"{:x}\"", hasher.finish())
    }
}

#[async_trait]
impl Serve for ReflectingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let request = &exchange.request;
        let path = request.target.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let choices = self.choices(last);
        // A pseudo-random order, so that no sequence of requests can match it.
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let chosen = usize::try_from(random).unwrap_or_default() % choices.len().max(1);
        let (cache_control, vary) = choices.get(chosen).copied().unwrap_or_default();
        let mut lines = String::new();
        for (name, value) in [("cache-control", cache_control), ("vary", vary)] {
            if !value.is_empty() {
                lines.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if last.ends_with("-e") {
            let tag = self.tag(request, &choices);
            lines.push_str(&format!("etag: {tag}\r\n"));
            if request.header("if-none-match") == Some(tag.as_str()) {
                let head = format!("HTTP/1.1 304 Not Modified\r\n{lines}\r\n");
                exchange.write(head.as_bytes()).await?;
                return Ok(Then::Keep);
            }
        }
        let body = json!({
            "origin": self.name,
            "target": request.target,
            "headers": request.headers,
            "cache_control": cache_control,
            "vary": vary,
        });
        exchange
            .reply(200, &lines, body.to_string().as_bytes())
            .await
    }
}
