//! Long runs against the real binary, too slow for every test run:
//! `cargo test --release --features jemalloc --test drills -- NAME…`, or all of them without a name. Each prints its
//! measurements, and the run fails if a limit is exceeded.
#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a drill reports to the terminal"
)]

mod all_down;
mod balance;
mod bodies;
mod cache_memory;
mod canary;
mod crawl;
mod floods;
mod hang;
mod idle_close;
mod kill;
mod level2;
mod memory;
mod overload;
mod plugin_attacks;
mod plugin_reload;
mod plugin_soak;
mod purge_races;
mod redis_lost;
mod releases;
mod reload_storm;
mod rollout;
mod shared_limits;
mod slow_clients;
mod slow_readers;
#[path = "../it/support/mod.rs"]
mod support;
mod testssl;
mod upgrade_storm;
mod websocket;
mod wrk;

use std::{fmt::Display, process::ExitCode};

const DRILLS: [&str; 27] = [
    "balance",
    "kill9",
    "idle-close",
    "bodies",
    "websocket",
    "testssl",
    "hang",
    "floods",
    "slow-clients",
    "slow-readers",
    "reload-storm",
    "all-down",
    "rollout",
    "upgrade-storm",
    "overload",
    "shared-limits",
    "redis-lost",
    "level2",
    "purge-races",
    "crawl",
    "cache-memory",
    "memory",
    "plugin-attacks",
    "plugin-reload",
    "plugin-soak",
    "canary",
    "releases",
];

/// Outcome of one drill: it prints each check and counts the failed ones.
#[derive(Debug, Default)]
struct Report {
    broken: usize,
}

impl Report {
    fn check(&mut self, holds: bool, message: impl Display) {
        let mark = if holds { "ok    " } else { "BROKEN" };
        println!("  {mark} {message}");
        self.broken += usize::from(!holds);
    }

    fn note(message: impl Display) {
        println!("         {message}");
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|name| !DRILLS.contains(&name.as_str())) {
        println!("no drill `{unknown}`; there are {}", DRILLS.join(", "));
        return ExitCode::FAILURE;
    }
    let mut report = Report::default();
    for name in DRILLS {
        if !asked.is_empty() && !asked.iter().any(|a| a == name) {
            continue;
        }
        println!("{name}");
        match name {
            "balance" => balance::run(&mut report).await,
            "kill9" => kill::run(&mut report).await,
            "idle-close" => idle_close::run(&mut report).await,
            "bodies" => bodies::run(&mut report).await,
            "testssl" => testssl::run(&mut report).await,
            "websocket" => websocket::run(&mut report).await,
            "floods" => floods::run(&mut report).await,
            "slow-clients" => slow_clients::run(&mut report).await,
            "slow-readers" => slow_readers::run(&mut report).await,
            "reload-storm" => reload_storm::run(&mut report).await,
            "rollout" => rollout::run(&mut report).await,
            "upgrade-storm" => upgrade_storm::run(&mut report).await,
            "overload" => overload::run(&mut report).await,
            "shared-limits" => shared_limits::run(&mut report).await,
            "redis-lost" => redis_lost::run(&mut report).await,
            "level2" => level2::run(&mut report).await,
            "purge-races" => purge_races::run(&mut report).await,
            "crawl" => crawl::run(&mut report).await,
            "plugin-attacks" => plugin_attacks::run(&mut report).await,
            "plugin-reload" => plugin_reload::run(&mut report).await,
            "plugin-soak" => plugin_soak::run(&mut report).await,
            "canary" => canary::run(&mut report).await,
            "releases" => releases::run(&mut report).await,
            "cache-memory" => cache_memory::run(&mut report).await,
            "memory" => memory::run(&mut report).await,
            "all-down" => all_down::run(&mut report).await,
            _ => hang::run(&mut report).await,
        }
    }
    if report.broken > 0 {
        println!("{} checks broken", report.broken);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
