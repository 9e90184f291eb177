//! Origin that sends scripted bytes.

use std::io;

use async_trait::async_trait;

use super::{Exchange, Origin, Serve, Then};

/// Writes the bytes for the request's path, whatever they are, and closes.
pub(crate) struct ScriptedOrigin {
    answers: Vec<(String, String)>,
}

impl ScriptedOrigin {
    pub(crate) async fn start(answers: &[(&str, &str)]) -> Origin<Self> {
        let owned = |(path, answer): &(&str, &str)| ((*path).to_owned(), (*answer).to_owned());
        Origin::listen(Self {
            answers: answers.iter().map(owned).collect(),
        })
        .await
    }
}

#[async_trait]
impl Serve for ScriptedOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let target = &exchange.request.target;
        let found = self.answers.iter().find(|(path, _)| path == target);
        let (_, answer) = found.unwrap_or_else(|| panic!("nothing was written for {target}"));
        exchange.write(answer.as_bytes()).await?;
        Ok(Then::Close)
    }
}
