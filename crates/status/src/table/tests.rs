//! Tests of the terminal table.

use super::{testkit::full, *};
use crate::snapshot::RestartAt;

#[test]
fn columns_line_up() {
    insta::assert_snapshot!(render_text(&full(), None), @r"
    edgeway    0.1.0 (pid 4242)
    state      serving, up 1d 2h
    config     edgeway.yaml, generation 3, loaded 2027-01-16T09:00:00Z
    error      backend web/127.0.0.1:3001 is ejected for 1min 5s: errors; 1 of 2 in rotation; look at the log of that app, and if it runs (since 2027-01-16T10:01:59Z)
    error      Redis at 10.0.0.5:6379 is down: no response within 20ms; look at Redis and the network to it; each gateway goes on alone (since 2027-01-16T09:30:00Z)
    warning    purges of other gateways may not reach this one; look at Redis and the network to it (since 2027-01-16T09:30:03Z)
    warning    the cache folder /var/cache/edgeway is unused (full): No space left on device (os error 28); look at the free space there (`df`), and its permissions (since 2027-01-16T09:31:00Z)
    warning    certificate www.example.com: 1 failed order: no such host (dns); look at the name in DNS, and the ports 80 and 443 from outside
    warning    plugin ab-split (plugins/ab-split/plugin.js) failed too often on route api and is suspended there; look at the file, and `edgeway logs --problems`
    profile    peak (there is calm, peak)
    older      process 1234 (0.0.9): 3 connections, draining since 2027-01-16T09:59:00Z
    bans       1 client banned, 12 with strikes

    LISTENER  ADDRESS         OPEN  ACCEPTED
    public    127.0.0.1:8080  12    3400

    CERTIFICATE       EXPIRES                   NEXT                      NOTES
    shop.example.com  2027-04-15T08:00:00.000Z  2027-03-15T20:10:00.000Z
    www.example.com   -                         2027-01-16T10:10:00.000Z  stand-in, 1 failed order: no such host (dns)

    REDIS   ADDRESS        STATE  SINCE                     NOTES
    single  10.0.0.5:6379  down   2027-01-16T09:30:00.000Z  no response within 20ms

    GATEWAY         PURGES  APPLIED          NOTES
    web-1/4f2a91c3  lost    1768555000000-0  this one, lost since 2027-01-16T09:30:03.000Z, no response within 20ms, 2 unsent
    web-2/90ab33d0  leased  1768555000000-0

    CACHE FOLDER        STATE  SINCE                     OBJECTS  USED              NOTES
    /var/cache/edgeway  full   2027-01-16T09:31:00.000Z  5120     1024 of 2048 MiB  No space left on device (os error 28)

    UPSTREAM  BACKEND         STATE    IN FLIGHT  REQUESTS  FAILED TRIES  LAST MIN  AVERAGE  NOTES
    web       127.0.0.1:3000  healthy  2          3100      0             0         4.2ms    loop 42 % busy, 7ms late; heap 90 MiB, rss 180 MiB
    web       127.0.0.1:3001  ejected  0          120       9             3         -        weight 2, ejected 1min 5s ago, back in 4s: errors, check 1s ago: connection refused

    PLUGIN    FILE                        VERSION       LOADED                    ROUTES   CALLS  FAILED  HEAP          NOTES
    ab-split  plugins/ab-split/plugin.js  0f1e2d3c4b5a  2027-01-16T09:00:00.000Z  api web  3400   7       300 KiB in 2  cpu 2, script 5, left out on api

    ROUTE  MATCH                   ACTION        RATE     FAILED  P95     P99      HITS  FILTERS
    api    shop.example.com/api/*  upstream api  120.5/s  0.5/s   41.7ms  120.0ms  82%   request_id access_log
    ");
}

/// Invariant: at any width no line is longer, and nothing is left out.
#[test]
fn lines_fit_into_any_width_with_all_that_they_say() {
    let seed = edgeway_testkit::drawn();
    let mut random = fastrand::Rng::with_seed(seed);
    let word = |random: &mut fastrand::Rng| -> String {
        let length = random.usize(1..40);
        (0..length)
            .map(|_| *random.choice(&['a', 'b', ' ', 'é', '/']).unwrap())
            .collect()
    };
    let squeezed = |text: &str| -> String { text.chars().filter(|c| !c.is_whitespace()).collect() };
    for _ in 0..300 {
        let mut snapshot = full();
        snapshot.config.last_error = Some(word(&mut random));
        snapshot.routes[0].name = word(&mut random);
        snapshot.routes[0].filters = (0..random.usize(..6)).map(|_| word(&mut random)).collect();
        snapshot.upstreams[0].backends[0].address = word(&mut random);
        let width = random.usize(20..200);
        let text = render_text(&snapshot, Some(width));
        for line in text.lines() {
            assert!(
                line.chars().count() <= width,
                "seed {seed}, {width}: {line}\n{text}"
            );
        }
        let all = squeezed(&text);
        for part in [
            &snapshot.routes[0].name,
            &snapshot.routes[0].filters.join(" "),
            &snapshot.upstreams[0].backends[0].address,
        ] {
            assert!(
                all.contains(&squeezed(part)),
                "seed {seed}, {width}: {part}\n{text}"
            );
        }
        // The control: without a width, lines are longer.
        assert!(
            render_text(&snapshot, None)
                .lines()
                .any(|line| line.chars().count() > 150)
        );
    }
}

#[test]
fn columns_that_do_not_fit_stand_below_with_their_titles() {
    let text = render_text(&full(), Some(80));
    let (_, upstreams) = text.split_once("UPSTREAM").unwrap();
    let upstreams = upstreams.split("\n\n").next().unwrap();
    insta::assert_snapshot!(upstreams, @r"
      BACKEND         STATE    IN FLIGHT  REQUESTS  FAILED TRIES  LAST MIN
    web       127.0.0.1:3000  healthy  2          3100      0             0
        average 4.2ms  notes loop 42 % busy, 7ms late; heap 90 MiB, rss 180 MiB
    web       127.0.0.1:3001  ejected  0          120       9             3
        average -  notes weight 2, ejected 1min 5s ago, back in 4s: errors, check 1s
        ago: connection refused
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
    let text = render_text(&snapshot, None);
    assert!(text.contains(excess), "{text}");
    snapshot.upstreams[0]
        .restart_at
        .as_mut()
        .unwrap()
        .heap_bytes = None;
    assert!(!render_text(&snapshot, None).contains("restart_at"));
}

#[test]
fn trouble_stands_at_the_top() {
    let mut snapshot = full();
    snapshot.config.last_error = Some("unknown key `lisen`".into());
    snapshot.not_ready = vec!["no backend of `web` is healthy".into()];
    let text = render_text(&snapshot, None);
    let head: Vec<&str> = text.lines().skip(3).take(2).collect();
    assert_eq!(
        head,
        [
            "error      not ready: no backend of `web` is healthy; look at the upstreams, and the \
             gateway's log",
            "error      backend web/127.0.0.1:3001 is ejected for 1min 5s: errors; 1 of 2 in \
             rotation; look at the log of that app, and if it runs (since 2027-01-16T10:01:59Z)",
        ]
    );
    let refused = "warning    the last reload was refused, ";
    let refused = text.lines().find(|line| line.starts_with(refused));
    assert!(
        refused.is_some_and(|line| {
            line.contains(": unknown key `lisen`; look at ")
                && line.ends_with(" (since 2027-01-16T09:45:00Z)")
        }),
        "{text}"
    );
}

#[test]
fn no_name_steers_the_terminal() {
    let mut snapshot = full();
    snapshot.routes[0].name = "a\u{1b}[2Jb".into();
    let text = render_text(&snapshot, None);
    assert!(text.contains("a\\u{1b}[2Jb"), "{text}");
}

#[test]
fn an_empty_gateway_prints_its_header_only() {
    assert_eq!(render_text(&Snapshot::default(), None).lines().count(), 3);
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
