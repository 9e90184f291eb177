//! Tests of the terminal table, and a snapshot with one of everything.

use serde_json::json;

use super::*;
use crate::status::snapshot::{
    CacheStatus, CertificateExpiry, CertificateStatus, ConfigStatus, LimitStatus, ListenerStatus,
    OtherGateway, ProcessStatus, ReloadStatus, RestartAt, RouteStatus, RouteTraffic,
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
pub(crate) fn full() -> Snapshot {
    Snapshot {
        version: "0.1.0".into(),
        pid: 4242,
        at: "2027-01-16T10:03:04.000Z".into(),
        started: "2027-01-15T08:00:00Z".into(),
        uptime_seconds: 93_784,
        state: State::Serving,
        not_ready: vec![],
        process: ProcessStatus {
            cpu: 0.35,
            memory_bytes: 80 << 20,
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
                failures: 2,
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
        plugins: vec![plugins::example()],
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
            },
        }],
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

#[test]
fn columns_line_up() {
    insta::assert_snapshot!(render_text(&full()), @r"
    edgeway    0.1.0 (pid 4242)
    state      serving, up 1d 2h
    config     edgeway.yaml, generation 3, loaded 2027-01-16T09:00:00Z
    error      backend web/127.0.0.1:3001 is ejected for 1min 5s (errors); 1 of 2 in rotation
    error      Redis at 10.0.0.5:6379 is down since 2027-01-16T09:30:00.000Z: no response within 20ms
    warning    purges of other gateways may not reach this one since 2027-01-16T09:30:03.000Z
    warning    the cache folder /var/cache/edgeway is unused (full): No space left on device (os error 28)
    warning    certificate www.example.com: 2 failed orders in a row: no such host (dns)
    warning    plugin ab-split (plugins/ab-split/plugin.js) failed too often on route api and is suspended there
    profile    peak (there is calm, peak)
    older      process 1234 (0.0.9): 3 connections, draining since 2027-01-16T09:59:00Z
    bans       1 client banned, 12 refused recently

    LISTENER  ADDRESS         OPEN  ACCEPTED
    public    127.0.0.1:8080  12    3400

    CERTIFICATE       EXPIRES                   NEXT                      NOTES
    shop.example.com  2027-04-15T08:00:00.000Z  2027-03-15T20:10:00.000Z
    www.example.com   -                         2027-01-16T10:10:00.000Z  stand-in, failed 2 times: no such host (dns)

    REDIS   ADDRESS        STATE  SINCE                     NOTES
    single  10.0.0.5:6379  down   2027-01-16T09:30:00.000Z  no response within 20ms

    GATEWAY         PURGES  APPLIED          NOTES
    web-1/4f2a91c3  lost    1768555000000-0  this one, lost since 2027-01-16T09:30:03.000Z, no response within 20ms, 2 unsent
    web-2/90ab33d0  leased  1768555000000-0

    CACHE FOLDER        STATE  SINCE                     OBJECTS  USED              NOTES
    /var/cache/edgeway  full   2027-01-16T09:31:00.000Z  5120     1024 of 2048 MiB  No space left on device (os error 28)

    UPSTREAM  BACKEND         STATE    IN FLIGHT  REQUESTS  FAILED  LAST MIN  AVERAGE  NOTES
    web       127.0.0.1:3000  healthy  2          3100      0       0         4.2ms    loop 42 % busy, 7ms late; heap 90 MiB, rss 180 MiB
    web       127.0.0.1:3001  ejected  0          120       9       3         -        weight 2, ejected for 1min 5s, for 4s more (errors), check 1s ago: connection refused

    PLUGIN    FILE                        VERSION       LOADED                    ROUTES   CALLS  FAILED  HEAP          NOTES
    ab-split  plugins/ab-split/plugin.js  0f1e2d3c4b5a  2027-01-16T09:00:00.000Z  api web  3400   7       300 KiB in 2  cpu 2, script 5, left out on api

    ROUTE  MATCH                   ACTION        RATE     5XX    P95     P99      HITS  FILTERS
    api    shop.example.com/api/*  upstream api  120.5/s  0.5/s  41.7ms  120.0ms  82%   request_id access_log
    ");
}

#[test]
fn an_app_that_has_reached_its_limit_has_a_note() {
    let mut snapshot = full();
    snapshot.upstreams[0].restart_at = Some(RestartAt {
        rss_bytes: Some(181 << 20),
        heap_bytes: Some(90 << 20),
    });
    let excess = "rss 180 MiB, `restart_at` reached: heap 90 MiB, limit 90MiB";
    let text = render_text(&snapshot);
    assert!(text.contains(excess), "{text}");
    snapshot.upstreams[0]
        .restart_at
        .as_mut()
        .unwrap()
        .heap_bytes = None;
    assert!(!render_text(&snapshot).contains("restart_at"));
}

#[test]
fn trouble_stands_at_the_top() {
    let mut snapshot = full();
    snapshot.config.last_error = Some("unknown key `lisen`".into());
    snapshot.not_ready = vec!["no backend of `web` is healthy".into()];
    let text = render_text(&snapshot);
    let head: Vec<&str> = text.lines().skip(3).take(2).collect();
    assert_eq!(
        head,
        [
            "error      not ready: no backend of `web` is healthy",
            "error      backend web/127.0.0.1:3001 is ejected for 1min 5s (errors); 1 of 2 in rotation",
        ]
    );
    let refused = "warning    the last reload was refused at ";
    let refused = text.lines().find(|line| line.starts_with(refused));
    assert!(
        refused.unwrap().ends_with(": unknown key `lisen`"),
        "{text}"
    );
}

#[test]
fn no_name_steers_the_terminal() {
    let mut snapshot = full();
    snapshot.routes[0].name = "a\u{1b}[2Jb".into();
    let text = render_text(&snapshot);
    assert!(text.contains("a\\u{1b}[2Jb"), "{text}");
}

#[test]
fn an_empty_gateway_prints_its_header_only() {
    assert_eq!(render_text(&Snapshot::default()).lines().count(), 3);
}

#[test]
fn uptimes_show_two_parts() {
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1min 0s"),
        (3_661, "1h 1min"),
        (90_061, "1d 1h"),
    ] {
        assert_eq!(uptime(seconds), text);
    }
}
