//! `edgeway page`: prints a link that opens the status page once.

use std::process::{Command, Stdio};

use edgeway_status::{actions::PageLink, client::READ_TIMEOUT};
use serde_json::json;

use super::{Failure, admin::AdminOption, out};

#[derive(Debug, clap::Args)]
pub struct PageOptions {
    #[command(flatten)]
    admin: AdminOption,
    /// Open it in the browser of this machine
    #[arg(long)]
    open: bool,
    /// Print it as JSON
    #[arg(long, conflicts_with = "open")]
    json: bool,
}

pub fn run(options: &PageOptions) -> Result<(), Failure> {
    let mut is_opened = true;
    options.admin.print(
        options.json,
        async |client| client.post("/v1/page-link", &json!({}), READ_TIMEOUT).await,
        |link: &PageLink| {
            out::data(&link.url);
            out::note(&format!(
                "it opens the page once, within {} s",
                link.seconds
            ));
            if options.open {
                is_opened = open(&link.url);
            }
        },
    )?;
    Failure::unless(is_opened)
}

/// Program that opens an address in the browser.
const OPENER: &str = "xdg-open";

/// Starts the browser; prints why it cannot be started.
fn open(url: &str) -> bool {
    // Browsers print messages of their own.
    let started = Command::new(OPENER)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let why = match started {
        Ok(status) if status.success() => return true,
        Ok(status) => format!("{OPENER} failed: {status}"),
        Err(error) => format!("cannot start {OPENER}: {error}"),
    };
    out::note(&format!("edgeway: {why}; open the link by hand"));
    false
}
