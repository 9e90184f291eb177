//! An origin whose responses tell what it was asked, and whose headers are chosen by the path.

use std::io;

use async_trait::async_trait;
use serde_json::json;

use super::{Exchange, Origin, Serve, Then};

/// Answers with the request as it came. The last segment of the path, `N-M`, chooses among the
/// headers that it was started with.
pub(crate) struct ReflectingOrigin {
    name: &'static str,
    headers: [Vec<String>; 2],
}

impl ReflectingOrigin {
    pub(crate) async fn start(
        name: &'static str,
        cache_control: &[&str],
        vary: &[&str],
    ) -> Origin<Self> {
        let lines = |name: &str, values: &[&str]| {
            let values = values.iter().map(|value| match *value {
                "" => String::new(),
                value => format!("{name}: {value}\r\n"),
            });
            values.collect()
        };
        Origin::listen(Self {
            name,
            headers: [lines("cache-control", cache_control), lines("vary", vary)],
        })
        .await
    }
}

#[async_trait]
impl Serve for ReflectingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let request = &exchange.request;
        let path = request.target.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let chosen = last.split('-').zip(&self.headers);
        let lines: String = chosen
            .filter_map(|(number, lines)| lines.get(number.parse::<usize>().ok()?).cloned())
            .collect();
        let body = json!({
            "origin": self.name,
            "target": request.target,
            "headers": request.headers,
        });
        exchange
            .reply(200, &lines, body.to_string().as_bytes())
            .await
    }
}
