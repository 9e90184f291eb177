//! Origin with numbered responses, whose headers a test selects by letters.

use std::{
    fmt::Write as _,
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;

use super::{Exchange, Origin, Serve, Then};

/// Origin with numbered responses, whose headers the letters in the path select.
#[derive(Default)]
pub(crate) struct LetteredOrigin(AtomicU64);

impl LetteredOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self::default()).await
    }
}

#[async_trait]
impl Serve for LetteredOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        let target = &exchange.request.target;
        let path = target.split('?').next().unwrap_or_default();
        let letters = path.rsplit('/').next().unwrap_or_default();
        let mut lines = String::new();
        for letter in letters.chars() {
            lines.push_str(match letter {
                'n' => "cache-control: no-store\r\n",
                'p' => "cache-control: private, max-age=60\r\n",
                'm' => "cache-control: max-age=60\r\n",
                'e' => "expires: Thu, 01 Jan 1970 00:00:01 GMT\r\n",
                'v' => "vary: x-lang\r\n",
                'w' => "vary: *\r\n",
                'r' => "accept-ranges: bytes\r\n",
                _ => "",
            });
            if letter == 's' {
                write!(lines, "set-cookie: sid={number}\r\n").expect("a string takes text");
            }
        }
        // A part of the body does not say it.
        write!(lines, "x-number: {number}\r\n").expect("a string takes text");
        let body = format!("{number}");
        exchange.reply(200, &lines, body.as_bytes()).await
    }
}
