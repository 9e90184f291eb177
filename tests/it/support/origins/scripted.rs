//! Origin that sends scripted bytes.

use std::io;

use async_trait::async_trait;

use super::{Exchange, Origin, Serve, Then};

/// Writes the bytes for the request's path, whatever they are, and closes.
pub(crate) struct ScriptedOrigin {
    responses: Vec<(String, String)>,
}

impl ScriptedOrigin {
    pub(crate) async fn start(responses: &[(&str, &str)]) -> Origin<Self> {
        let owned = |(path, response): &(&str, &str)| ((*path).to_owned(), (*response).to_owned());
        Origin::listen(Self {
            responses: responses.iter().map(owned).collect(),
        })
        .await
    }
}

#[async_trait]
impl Serve for ScriptedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let target = &exchange.request.target;
        let found = self.responses.iter().find(|(path, _)| path == target);
        let (_, response) = found.unwrap_or_else(|| panic!("nothing was written for {target}"));
        exchange.write(response.as_bytes()).await?;
        Ok(Then::Close)
    }
}
