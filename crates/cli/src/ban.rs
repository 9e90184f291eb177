//! `edgeway bans`, `edgeway ban` and `edgeway unban`: lists, sets and lifts bans of clients.

use edgeway_base::units::Span;
use edgeway_core::limits::Address;
use edgeway_status::{
    actions::{NewBan, ban_time},
    client::ACTION,
    snapshot::BanStatus,
    table,
};
use serde::{Deserialize, Serialize};

use super::{Failure, admin::AdminOption, out, path::segment};

#[derive(Debug, clap::Args)]
pub struct ListOptions {
    #[command(flatten)]
    admin: AdminOption,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct BanOptions {
    /// The client's address, such as 192.0.2.7; an IPv6 address stands for its /64
    #[arg(value_name = "ADDRESS")]
    address: Address,
    /// Duration of the ban
    #[arg(long = "for", value_name = "TIME", default_value_t = ban_time())]
    lasts: Span,
    /// The reason, shown in the list of bans
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    admin: AdminOption,
}

#[derive(Debug, clap::Args)]
pub struct LiftOptions {
    /// The client's address
    #[arg(value_name = "ADDRESS")]
    address: Address,
    #[command(flatten)]
    admin: AdminOption,
}

/// Response of `/v1/bans`.
#[derive(Serialize, Deserialize)]
pub struct Bans {
    pub bans: Vec<BanStatus>,
}

pub fn run_list(options: &ListOptions) -> Result<(), Failure> {
    options.admin.print(
        options.json,
        async |client| client.get("/v1/bans").await,
        |Bans { bans }: &Bans| match bans.as_slice() {
            [] => out::note("no client is banned"),
            some => out::data(&table::render_bans(some)),
        },
    )
}

pub fn run(options: &BanOptions) -> Result<(), Failure> {
    let new = NewBan {
        address: options.address.to_string(),
        lasts: options.lasts,
        reason: options.reason.clone(),
    };
    options.admin.print(
        false,
        async |client| client.post("/v1/bans", &new, ACTION).await,
        |ban: &BanStatus| {
            out::note(&format!("{} is banned until {}", ban.address, ban.until));
        },
    )
}

pub fn run_lift(options: &LiftOptions) -> Result<(), Failure> {
    let path = format!("/v1/bans/{}", segment(&options.address.to_string()));
    options.admin.print(
        false,
        async |client| client.delete(&path, ACTION).await,
        |ban: &BanStatus| out::note(&format!("{} may pass again", ban.address)),
    )
}
