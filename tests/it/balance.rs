//! Requests are distributed as the configuration says.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    client::get,
    gateway::Gateway,
    load::{Tally, lanes},
    origins::SlowOrigin,
};

async fn front(backends: &[(SocketAddr, u16)], balance: &str) -> Gateway {
    let mut yaml =
        format!("upstreams:\n  web:\n    app: node\n    balance: {balance}\n    backends:\n");
    for (address, weight) in backends {
        let line = format!("      - {{ address: \"{address}\", weight: {weight} }}\n");
        yaml.push_str(&line);
    }
    yaml.push_str("routes:\n  - match: { path: /* }\n    upstream: web\n");
    Gateway::start(&yaml).await
}

fn shares(tally: &Tally, backends: &[(SocketAddr, u16)]) -> Vec<u64> {
    let shares = backends
        .iter()
        .map(|(address, _)| tally.served_by(address.port()));
    shares.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_equal_instances_serve_equal_shares() {
    let mut origins = Vec::new();
    for _ in 0..4 {
        origins.push(SlowOrigin::start(Duration::from_millis(5)).await);
    }
    let equal: Vec<(SocketAddr, u16)> = origins.iter().map(|o| (o.address(), 1)).collect();
    let is_even = |shares: &[u64]| shares.iter().all(|share| (80..=120).contains(share));
    for balance in ["least_conn", "round_robin"] {
        let gateway = front(&equal, balance).await;
        for at_once in [1, 8] {
            let shares = shares_of(&gateway, &equal, at_once).await;
            assert!(is_even(&shares), "{balance} at {at_once}: {shares:?}");
        }
    }
    // The control: unequal weights give unequal shares.
    let mut unequal = equal;
    unequal[0].1 = 3;
    let gateway = front(&unequal, "round_robin").await;
    let shares = shares_of(&gateway, &unequal, 8).await;
    assert!(
        !is_even(&shares) && (195..=205).contains(&shares[0]),
        "{shares:?}"
    );
}

async fn shares_of(gateway: &Gateway, backends: &[(SocketAddr, u16)], at_once: usize) -> Vec<u64> {
    let tally = lanes(gateway.address(), at_once, 400, |_| get("/")).await;
    assert_eq!(tally.status(200), 400, "{tally:?}");
    shares(&tally, backends)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_instance_of_four_gets_little_of_the_load() {
    let quick = Duration::from_millis(20);
    let mut origins = Vec::new();
    for delay in [Duration::from_secs(2), quick, quick, quick] {
        origins.push(SlowOrigin::start(delay).await);
    }
    let backends: Vec<(SocketAddr, u16)> = origins.iter().map(|o| (o.address(), 1)).collect();
    let share_of_slow = async |balance: &str, count: u64| {
        let gateway = front(&backends, balance).await;
        let tally = lanes(gateway.address(), 20, count, |_| get("/")).await;
        assert_eq!(tally.status(200), count, "{tally:?}");
        tally.served_by(backends[0].0.port()) * 100 / count
    };
    let share = share_of_slow("least_conn", 200).await;
    assert!(share < 15, "{share} % went to the slow instance");
    // The control: `round_robin` sends the slow instance as many requests as the others.
    let share = share_of_slow("round_robin", 80).await;
    assert!(share >= 20, "{share} % went to the slow instance");
}
