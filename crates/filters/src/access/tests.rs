//! Clients that pass.

use edgeway_core::chain::testkit::{FilterCheck, check, refused};

use super::Access;

fn from(check: FilterCheck, ip: &str) -> FilterCheck {
    check
        .client(|client| client.ip = ip.parse().unwrap())
        .get("/")
}

#[track_caller]
fn statuses<const N: usize>(yaml: &str, clients: [(&str, u16); N]) {
    let mut bench = check::<Access>(yaml);
    for (ip, status) in clients {
        bench = from(bench, ip);
        assert_eq!(bench.last().status, status, "{ip}");
    }
}

#[test]
fn only_allowed_networks_pass() {
    statuses(
        "{ allow: [10.0.0.0/8, 192.0.2.7, 'fd00::/8'] }",
        [
            ("10.1.2.3", 200),
            ("::ffff:10.1.2.3", 200),
            ("192.0.2.7", 200),
            ("192.0.2.8", 403),
            ("fd12::1", 200),
            ("2001:db8::1", 403),
        ],
    );
}

#[test]
fn deny_wins_over_allow() {
    statuses(
        "{ allow: [10.0.0.0/8], deny: [10.6.6.0/24] }",
        [("10.6.5.1", 200), ("10.6.6.1", 403), ("11.0.0.1", 403)],
    );
}

#[test]
fn all_others_pass_where_only_some_are_denied() {
    statuses(
        "{ deny: [192.0.2.0/24] }",
        [("192.0.2.1", 403), ("198.51.100.1", 200), ("::1", 200)],
    );
}

#[test]
fn the_clients_address_counts_and_not_the_proxys() {
    let check = check::<Access>("{ allow: [10.0.0.0/8] }")
        .client(|client| {
            client.peer = "10.0.0.1".parse().unwrap();
            client.ip = "203.0.113.9".parse().unwrap();
        })
        .get("/");
    assert_eq!(check.last().reason, Some("access"));
    check.expect([403]);
}

#[test]
fn invalid_lists_are_reported_with_a_remedy() {
    assert_eq!(
        refused::<Access>("{ allow: [10.0.0.1/8, example.com] }"),
        [
            "invalid network `10.0.0.1/8`: bits are set beyond the prefix; \
             help: write `10.0.0.0/8` for the network, or `10.0.0.1` for the one address",
            "invalid network `example.com`: it does not begin with an address; help: write an address such as `10.0.0.1`, \
             or a network such as `10.0.0.0/8`",
        ]
    );
    assert!(refused::<Access>("{ allow: [] }")[0].starts_with("`allow` is empty"));
    assert!(refused::<Access>("{}")[0].starts_with("`access` has neither"));
}
