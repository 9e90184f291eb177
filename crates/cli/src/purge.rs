//! `edgeway purge`: purges stored responses, and prints which gateways have completed it.

use edgeway_status::receipt::receipt_text;
use serde_json::{Value, json};

use super::{
    Failure,
    admin::{AdminOption, OutputFormat},
    out,
};

#[derive(Debug, clap::Args)]
pub struct PurgeOptions {
    #[command(flatten)]
    arguments: PurgeArguments,
    /// Mark matching responses as stale instead of dropping them
    #[arg(long)]
    soft: bool,
    /// Do not notify the instances of the app, even if the configuration has `fan_out`
    #[arg(long)]
    no_fan_out: bool,
    #[command(flatten)]
    admin: AdminOption,
    /// Print the receipt as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct PurgeArguments {
    /// A URL with all its variants, such as /blog, or with scheme and host
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// Every URL with this prefix
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// Every stored response with exactly this tag
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Everything
    #[arg(long)]
    all: bool,
}

impl PurgeOptions {
    fn order(&self) -> Value {
        let arguments = &self.arguments;
        let named = [
            ("url", &arguments.urls),
            ("prefix", &arguments.prefixes),
            ("tag", &arguments.tags),
        ];
        let named = named.into_iter().flat_map(|(key, values)| {
            let purge = move |value| json!({ key: value, "soft": self.soft });
            values.iter().map(purge)
        });
        let all = arguments
            .all
            .then(|| json!({ "all": true, "soft": self.soft }));
        let purges: Vec<Value> = named.chain(all).collect();
        json!({ "purges": purges, "fan_out": !self.no_fan_out })
    }
}

pub fn run(options: &PurgeOptions) -> Result<(), Failure> {
    let order = options.order();
    let form = OutputFormat::from_flag(options.json);
    let outcome = options
        .admin
        .ask(form, async |client| client.purge(&order).await);
    let receipt = outcome?;
    form.print(&receipt, |receipt| out::data(&receipt_text(receipt)));
    Failure::unless(receipt.is_over())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use edgeway_cache::purge::{
        AppliedGateway, Instance, PeerStates, Purge, PurgeRequest, Receipt,
    };

    #[derive(Debug, Parser)]
    struct OutputLine {
        #[command(flatten)]
        options: PurgeOptions,
    }

    fn order(arguments: &[&str]) -> Result<PurgeRequest, String> {
        let line = OutputLine::try_parse_from([&["purge"], arguments].concat());
        let line = line.map_err(|error| error.to_string())?;
        Ok(PurgeRequest::from_json(&line.options.order()).unwrap())
    }

    fn receipt(others: PeerStates) -> Receipt {
        Receipt {
            purges: vec![
                Purge::from_json(&json!({ "url": "/blog" })).unwrap(),
                Purge::from_json(&json!({ "tag": "posts", "soft": true })).unwrap(),
            ],
            gateway: "web-1/4f2a91c3".to_owned(),
            id: None,
            others,
            applied: vec![AppliedGateway {
                gateway: "web-1/4f2a91c3".to_owned(),
                objects: Some(2),
            }],
            lapsed: vec![],
            pending: vec![],
            instances: vec![],
            took_ms: 61.24,
        }
    }

    #[test]
    fn several_things_are_purged_at_once() {
        let order = order(&[
            "--tag", "a", "--url", "/b", "--url", "/c", "--prefix", "/d/", "--soft",
        ]);
        let order = order.unwrap();
        let shown: Vec<String> = order.purges.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "url /b (soft)",
                "url /c (soft)",
                "prefix /d/ (soft)",
                "tag a (soft)"
            ]
        );
        assert!(order.fan_out);
    }

    #[test]
    fn a_purge_of_all_is_explicit() {
        assert_eq!(order(&["--all"]).unwrap().purges, [Purge::ALL]);
        assert!(!order(&["--all", "--no-fan-out"]).unwrap().fan_out);
        let error = order(&[]).unwrap_err();
        assert!(error.contains("--url <URL>"), "{error}");
    }

    #[test]
    fn a_receipt_names_every_gateway() {
        let mut receipt = receipt(PeerStates::Waiting);
        receipt.applied.push(AppliedGateway {
            gateway: "web-2/90ab33d0".to_owned(),
            objects: None,
        });
        receipt.lapsed.push("web-3/00000001".to_owned());
        receipt.pending.push("web-4/00000002".to_owned());
        receipt.instances = vec![
            Instance {
                address: "10.0.0.1:3000".to_owned(),
                status: Some(200),
                error: None,
            },
            Instance {
                address: "10.0.0.2:3000".to_owned(),
                status: None,
                error: Some("no response within 2s".to_owned()),
            },
        ];
        insta::assert_snapshot!(receipt_text(&receipt), @r"
        purged    url /blog
        purged    tag posts (soft)
        notified  10.0.0.1:3000: 200
        failed    10.0.0.2:3000: no response within 2s
        applied   web-1/4f2a91c3 (asked, 2 objects)
        applied   web-2/90ab33d0 (number of objects not known)
        lapsed    web-3/00000001 (cut off: it applies this purge as soon as it is linked again)
        pending   web-4/00000002 (not confirmed yet)
        others    not all of them are done after 61 ms: try again
        ");
    }

    #[test]
    fn each_outcome_is_printed() {
        for (others, last) in [
            (PeerStates::Alone, "none: no `redis` is configured"),
            (PeerStates::Reached, "all of them are done, after 61 ms"),
            (
                PeerStates::Linked,
                "all that are linked are done, after 61 ms; those cut off may still serve older \
                 responses",
            ),
            (
                PeerStates::Unreached,
                "not reached: Redis is lost or rejects it; sent once it takes it",
            ),
        ] {
            let text = receipt_text(&receipt(others));
            assert_eq!(text.lines().last(), Some(&*format!("others    {last}")));
        }
    }
}
