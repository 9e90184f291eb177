//! A status with one of everything, for tests here and of `edgeway top`.

#![allow(
    clippy::unwrap_used,
    reason = "a failure here fails the test that uses it"
)]

use serde_json::json;

use super::{
    BansStatus, CacheDiskStatus, Predecessor, PurgeLinkStatus, RedisStatus, Snapshot, State,
};
use crate::snapshot::{
    CacheStatus, CertificateExpiry, CertificateStatus, ConfigStatus, LimitStatus, ListenerStatus,
    OtherGateway, PluginRouteStatus, PluginStatus, ProcessStatus, ReloadStatus, RouteStatus,
    RouteTraffic, TrafficFigures, TrafficPoint,
};

/// A refused reload after one that was taken.
fn reloads() -> Vec<ReloadStatus> {
    vec![
        ReloadStatus {
            at: "2027-01-16T09:45:00.000Z".into(),
            generation: 3,
            changes: vec![],
            error: Some("edgeway.yaml:3:1: error: unknown key `route`".into()),
        },
        ReloadStatus {
            at: "2027-01-16T09:00:00.000Z".into(),
            generation: 3,
            changes: vec!["+ route api".into(), "~ upstream web".into()],
            error: None,
        },
    ]
}

fn purges() -> PurgeLinkStatus {
    PurgeLinkStatus {
        gateway: "web-1/4f2a91c3".into(),
        shared: true,
        lost_since: Some("2027-01-16T09:30:03.000Z".into()),
        last_error: Some("no response within 20ms".into()),
        applied: Some("1768555000000-0".into()),
        unsent: 2,
        losses: 1,
        others: vec![OtherGateway {
            gateway: "web-2/90ab33d0".into(),
            leased: true,
            applied: "1768555000000-0".into(),
        }],
        ..PurgeLinkStatus::default()
    }
}

/// Creates a gateway with one of everything.
pub fn full() -> Snapshot {
    Snapshot {
        version: "0.1.0".into(),
        pid: 4242,
        at: "2027-01-16T10:03:04.000Z".into(),
        started: "2027-01-15T08:00:00Z".into(),
        uptime_seconds: 93_784,
        state: State::Serving,
        not_ready: vec![],
        traffic: traffic(),
        process: ProcessStatus {
            cpu: 0.35,
            memory_bytes: 80 << 20,
            ..ProcessStatus::default()
        },
        reloads: reloads(),
        expiries: vec![CertificateExpiry {
            expires: "2027-04-15T08:00:00.000Z".into(),
            listener: "public".into(),
            name: "shop.example.com".into(),
        }],
        limits: vec![LimitStatus {
            name: "per_client".into(),
            passed: 8000,
            delayed: 20,
            refused: 3,
            exempt: 0,
            without_redis: 0,
        }],
        cache: Some(CacheStatus {
            objects: 120,
            bytes: 3 << 20,
            budget_bytes: 64 << 20,
            evictions: 2,
        }),
        config: ConfigStatus {
            file: "edgeway.yaml".into(),
            generation: 3,
            loaded_at: "2027-01-16T09:00:00Z".into(),
            last_error: None,
            profile: Some("peak".into()),
            profiles: vec!["calm".into(), "peak".into()],
            ..ConfigStatus::default()
        },
        bans: BansStatus {
            active: 1,
            struck: 12,
        },
        predecessors: vec![Predecessor {
            pid: 1234,
            version: "0.0.9".into(),
            connections: 3,
            in_flight: [("web/127.0.0.1:3000".to_owned(), 2)].into(),
            commands: 0,
            since: "2027-01-16T09:59:00Z".into(),
        }],
        listeners: vec![ListenerStatus {
            name: "public".into(),
            address: "127.0.0.1:8080".into(),
            connections: 12,
            accepted: 3400,
        }],
        certificates: vec![
            CertificateStatus {
                name: "shop.example.com".into(),
                expires: Some("2027-04-15T08:00:00.000Z".into()),
                next: Some("2027-03-15T20:10:00.000Z".into()),
                ..CertificateStatus::default()
            },
            CertificateStatus {
                name: "www.example.com".into(),
                next: Some("2027-01-16T10:10:00.000Z".into()),
                failures: 1,
                problem: Some("no such host (dns)".into()),
                ..CertificateStatus::default()
            },
        ],
        redis: Some(RedisStatus {
            mode: "single".into(),
            address: "10.0.0.5:6379".into(),
            up: false,
            since: "2027-01-16T09:30:00.000Z".into(),
            last_error: Some("no response within 20ms".into()),
            rejection: None,
        }),
        purges: Some(purges()),
        cache_disk: Some(CacheDiskStatus {
            folder: "/var/cache/edgeway".into(),
            state: "full".into(),
            since: "2027-01-16T09:31:00.000Z".into(),
            last_error: Some("No space left on device (os error 28)".into()),
            objects: 5120,
            bytes: 1 << 30,
            budget_bytes: 2 << 30,
        }),
        plugins: vec![plugin()],
        routes: vec![RouteStatus {
            name: "api".into(),
            matches: "shop.example.com/api/*".into(),
            action: "upstream api".into(),
            filters: vec!["request_id".into(), "access_log".into()],
            traffic: RouteTraffic {
                requests: 90_000,
                server_errors: 12,
                rate: 120.5,
                client_error_rate: 2.5,
                server_error_rate: 0.5,
                hit_ratio: Some(0.82),
                p50_ms: Some(3.2),
                p95_ms: Some(41.7),
                p99_ms: Some(120.0),
                ..RouteTraffic::default()
            },
            upstream: Some("api".into()),
        }],
        unsaved_decisions: None,
        unusable_certificates: Vec::new(),
        failing_logs: Vec::new(),
        problem_onsets: Vec::new(),
        upstreams: vec![
            serde_json::from_value(json!({
                "name": "web",
                "balance": "least_conn",
                "queue": 0,
                "panic": false,
                "backends": [
                    {
                        "address": "127.0.0.1:3000", "weight": 1, "state": "healthy",
                        "in_flight": 2, "requests": 3100, "failures": 0, "ewma_ms": 4.25,
                        "recent_failures": 0,
                        "node": {
                            "utilisation": 0.42, "delay_ms": 7.4, "heap_bytes": 94_371_840,
                            "rss_bytes": 188_743_680, "age": 0.1,
                        },
                        "probe": { "passed": true, "text": "200", "took_ms": 0.4, "ago": 2.0 },
                    },
                    {
                        "address": "127.0.0.1:3001", "weight": 2, "state": "ejected",
                        "in_flight": 0, "requests": 120, "failures": 9,
                        "recent_failures": 3, "out_for": 65.8,
                        "ejected_for": 4.2, "ejected_because": "errors",
                        "probe": {
                            "passed": false, "text": "connection refused", "took_ms": 0.1,
                            "ago": 1.0,
                        },
                    },
                ],
            }))
            .unwrap(),
        ],
    }
}

fn traffic() -> TrafficFigures {
    let point = |rate, error_share| TrafficPoint {
        rate,
        error_share: Some(error_share),
        p95_ms: Some(21.5),
        hit_ratio: Some(0.93),
    };
    TrafficFigures {
        now: point(12.0, 0.004),
        minute: vec![point(10.0, 0.0), point(40.0, 0.02), point(12.0, 0.0)],
        hour: vec![point(20.0, 0.001)],
    }
}

/// Creates a plugin on two routes.
pub fn plugin() -> PluginStatus {
    PluginStatus {
        name: "ab-split".into(),
        file: "plugins/ab-split/plugin.js".into(),
        version: "0f1e2d3c4b5a".into(),
        loaded_at: "2027-01-16T09:00:00.000Z".into(),
        isolates: 2,
        heap_bytes: 300 << 10,
        routes: vec![
            PluginRouteStatus {
                route: "api".into(),
                calls: 3000,
                failures: [("cpu".into(), 2), ("script".into(), 4)].into(),
                left_out: true,
                ..PluginRouteStatus::default()
            },
            PluginRouteStatus {
                route: "web".into(),
                calls: 400,
                failures: [("script".into(), 1)].into(),
                left_out: false,
                ..PluginRouteStatus::default()
            },
        ],
    }
}
