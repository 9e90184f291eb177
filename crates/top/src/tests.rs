//! Frames of the terminal view as text, and drawn snapshots at drawn sizes.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "any number will do"
)]

use chrono::{DateTime, Utc};
use edgeway_operate::units::{Instance, Instances};
use edgeway_status::{
    Snapshot, problems,
    snapshot::{
        BanStatus, CertificateExpiry, LimitStatus, PluginRouteStatus, PluginStatus, RouteStatus,
    },
    table::testkit::full,
};
use proptest::prelude::*;
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Rect,
};
use serde_json::{Value, json};

use super::{
    alarms::{Severity, alarms},
    observe::Observation,
    report,
    screen::{Effect, Mode, Order, Pane, Screen},
    view,
};

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().into()
}

fn instance(unit: &str, cpu: Option<f64>, restarts: u64) -> Instance {
    Instance {
        unit: unit.into(),
        state: "active".into(),
        detail: "running".into(),
        pid: Some(4321),
        cpu,
        memory_bytes: Some(412 << 20),
        memory_limit_bytes: Some(1 << 30),
        restarts,
        uptime_seconds: Some(93_784),
        ..Instance::default()
    }
}

/// Creates an observation of a gateway with one of everything.
fn example() -> Observation {
    let mut snapshot = full();
    snapshot.config.last_error = Some("edgeway.yaml:3:1: error: unknown key `route`".into());
    let mut files = RouteStatus {
        name: "files".into(),
        matches: "shop.example.com/_next/static/*".into(),
        action: "files".into(),
        ..RouteStatus::default()
    };
    files.traffic.rate = 480.25;
    files.traffic.p95_ms = Some(0.8);
    snapshot.routes.push(files);
    Observation {
        at: at("2027-01-16T10:00:00Z"),
        snapshot,
        bans: vec![BanStatus {
            address: "192.0.2.7".into(),
            reason: "rate limit per_client".into(),
            by: "rule".into(),
            since: "2027-01-16T09:55:00Z".into(),
            until: "2027-01-16T10:05:00Z".into(),
            strikes: 20,
        }],
        backend_rates: [("web/127.0.0.1:3000".to_owned(), 118.0)].into(),
        instances: Instances {
            list: vec![
                instance("edgeway.service", Some(0.35), 0),
                instance("node-app@3000.service", Some(0.42), 0),
                Instance {
                    state: "failed".into(),
                    detail: "failed".into(),
                    pid: None,
                    memory_bytes: None,
                    uptime_seconds: None,
                    ..instance("node-app@3001.service", None, 7)
                },
            ],
            problem: None,
        },
    }
}

fn screen() -> Screen {
    Screen::new(example(), false)
}

/// Draws a screen in a terminal of this size, and returns its text.
fn frame(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| view::draw(screen, frame.area(), frame.buffer_mut()));
    drawn.unwrap();
    let lines = terminal.backend().to_string();
    // Each line is between quotes.
    let lines = lines.lines().map(|line| line.trim_matches('"').trim_end());
    lines.collect::<Vec<_>>().join("\n")
}

fn press(screen: &mut Screen, keys: &str) -> Option<Effect> {
    let mut effect = None;
    for key in keys.chars() {
        let code = match key {
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            '→' => KeyCode::Right,
            '↵' => KeyCode::Enter,
            '⎋' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        effect = screen.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
    effect
}

#[test]
fn frames_at_80_by_24() {
    let mut screen = screen();
    for pane in Pane::ALL {
        screen.pane = pane;
        let name = format!("{}_80x24", pane.title().to_lowercase());
        insta::assert_snapshot!(name, frame(&screen, 80, 24));
    }
}

#[test]
fn frames_at_120_by_40() {
    let mut screen = screen();
    for rate in 0..60_u64 {
        let mut next = example();
        next.snapshot.routes[0].traffic.rate = (rate * 7 % 50) as f64;
        screen.show(next);
    }
    for pane in Pane::ALL {
        screen.pane = pane;
        let name = format!("{}_120x40", pane.title().to_lowercase());
        insta::assert_snapshot!(name, frame(&screen, 120, 40));
    }
}

#[test]
fn one_frame_as_text_and_as_json() {
    insta::assert_snapshot!("once", view::text(&example()));
    let text = report::json(&example());
    insta::assert_snapshot!("once_json", text);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["rates"]["requests"], 600.75);
    assert_eq!(report["upstreams"][0]["backends"][0]["rate"], 118.0);
}

#[test]
fn help_and_questions_are_over_the_pane() {
    let mut screen = screen();
    press(&mut screen, "?");
    insta::assert_snapshot!("help", frame(&screen, 80, 24));
    press(&mut screen, "x3↓d");
    let text = frame(&screen, 80, 24);
    let question = "Drain web/127.0.0.1:3000, with 2 requests in flight? (y/n)";
    assert!(text.ends_with(question), "{text}");
}

#[test]
fn a_long_message_is_shown_to_its_end() {
    let mut screen = screen();
    let message = "`127.0.0.1:3000` is the last backend in rotation of upstream `web`: without it \
                   users get 503, so force it or add another one";
    screen.message = Some(message.into());
    let text = frame(&screen, 40, 16);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.ends_with(message), "{text}");
    press(&mut screen, "3");
    assert!(!frame(&screen, 40, 16).contains("rotation"));
}

#[test]
fn the_selected_row_and_alarm_are_shown_to_their_ends() {
    let mut screen = screen();
    press(&mut screen, "↓↓");
    let text = frame(&screen, 80, 24);
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = words(&text);
    let alarm = &alarms(&screen.observation)[1];
    assert!(shown.contains(&words(&alarm.line())), "{text}");
    assert!(shown.contains("and 6 more"), "{text}");
    press(&mut screen, "3↓↓");
    let text = frame(&screen, 80, 24);
    assert!(text.contains("FAILED TRIES 9"), "{text}");
    assert!(
        words(&text).contains("back in 4s: errors, check: connection refused"),
        "{text}"
    );
}

#[test]
fn a_backend_that_was_never_reached_is_not_healthy() {
    let mut screen = screen();
    press(&mut screen, "3");
    let backend = &mut screen.observation.snapshot.upstreams[0].backends[0];
    backend.failures = backend.requests;
    backend.ewma_ms = None;
    backend.probe = None;
    assert!(frame(&screen, 80, 24).contains("127.0.0.1:3000  unknown"));
}

#[test]
fn a_lost_gateway_keeps_its_last_state_until_it_is_back() {
    let mut screen = screen();
    screen.lose("connection refused".into(), at("2027-01-16T10:00:05Z"));
    screen.lose("no such socket".into(), at("2027-01-16T10:00:06Z"));
    let text = frame(&screen, 80, 24);
    let first = "no gateway since 10:00:05 UTC: no such socket";
    assert_eq!(text.lines().next(), Some(first));
    assert!(text.contains("edgeway.yaml, generation 3"), "{text}");
    screen.show(example());
    assert!(frame(&screen, 80, 24).starts_with("edgeway 0.1.0  serving"));
}

#[test]
fn the_drained_backend_is_the_one_of_the_question() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, "3d"), None);
    assert_eq!(screen.mode, Mode::Normal, "no row is selected");
    press(&mut screen, "↓d");
    // Meanwhile the list changes under the question.
    let mut other = example();
    other.snapshot.upstreams[0].backends.reverse();
    screen.show(other);
    assert_eq!(press(&mut screen, "↓x"), None, "only y is a yes");
    let name = "web/127.0.0.1:3000".parse().unwrap();
    let effect = press(&mut screen, "y");
    assert_eq!(effect, Some(Effect::Run(Order::Drain(name))));
    assert_eq!(press(&mut screen, "dny"), None);

    let mut drained = example();
    drained.snapshot.upstreams[0].backends[0].state = "draining".into();
    screen.show(drained);
    let name = "web/127.0.0.1:3000".parse().unwrap();
    let effect = press(&mut screen, "dy");
    assert_eq!(effect, Some(Effect::Run(Order::Undrain(name))));
    assert_eq!(press(&mut screen, "1dy"), None, "other panes drain nothing");
}

fn keys_of(screen: &Screen) -> Vec<String> {
    let listings = screen.listings();
    let rows = listings.iter().flat_map(|listing| &listing.rows);
    rows.map(|row| row.key.clone()).collect()
}

#[test]
fn rows_are_sorted_and_filtered() {
    let mut screen = screen();
    press(&mut screen, "2");
    // By rate at first.
    assert_eq!(keys_of(&screen), ["files", "api"]);
    press(&mut screen, "r");
    assert_eq!(keys_of(&screen), ["api", "files"]);
    // 4XX, FAILED, P50, P95; a missing value is the last.
    press(&mut screen, "ss");
    assert_eq!(screen.choice().sort, Some("FAILED"));
    assert_eq!(keys_of(&screen), ["api", "files"]);
    press(&mut screen, "s");
    assert_eq!(screen.choice().sort, Some("P50"));
    assert_eq!(keys_of(&screen), ["api", "files"]);
    press(&mut screen, "ssss");
    assert_eq!(screen.choice().sort, None);
    assert_eq!(keys_of(&screen), ["api", "files"]);

    press(&mut screen, "/STATIC↵");
    assert_eq!(keys_of(&screen), ["files"]);
    press(&mut screen, "/q");
    assert!(frame(&screen, 80, 24).contains("nothing contains `STATICq`"));
    press(&mut screen, "⎋");
    assert_eq!(keys_of(&screen).len(), 2);
}

#[test]
fn keys_end_the_screen_only_where_they_are_commands() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, "/q"), None);
    assert_eq!(press(&mut screen, "⎋q"), Some(Effect::Quit));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut screen, "/");
    assert_eq!(screen.press(control), Some(Effect::Quit));
}

#[test]
fn each_fault_is_an_alarm() {
    let texts = |observation: &Observation| {
        let alarms = alarms(observation).into_iter();
        alarms.map(|alarm| alarm.text).collect::<Vec<_>>()
    };
    let calm = Observation {
        at: at("2027-01-16T10:00:00Z"),
        ..Observation::default()
    };
    assert!(texts(&calm).is_empty());

    let upstream: Value = json!({ "name": "web", "restart_at": { "rss_bytes": 943_718_400 },
        "backends": [
        { "address": "f", "state": "healthy", "node": { "rss_bytes": 954_204_160 } },
        { "address": "a", "state": "down", "out_for": 192.4, "probe": { "passed": false, "text": "no route" } },
        { "address": "b", "state": "healthy", "ewma_ms": 3.0 },
        { "address": "c", "state": "healthy", "ewma_ms": 812.0, "sustained_ms": 790.0 },
        { "address": "d", "state": "healthy", "ewma_ms": 5.0 },
        { "address": "e", "state": "drained" },
    ] });
    let mut route = RouteStatus {
        name: "api".into(),
        ..RouteStatus::default()
    };
    (route.traffic.rate, route.traffic.server_error_rate) = (10.0, 6.0);
    let expiry = |name: &str, expires: &str| CertificateExpiry {
        name: name.into(),
        listener: "public".into(),
        expires: expires.into(),
    };
    let mut observation = example();
    observation.instances.list[1].memory_bytes = Some(1000 << 20);
    observation.instances.list[0].detail = "auto-restart".into();
    let full = std::mem::take(&mut observation.snapshot);
    observation.snapshot = Snapshot {
        not_ready: vec!["draining".into()],
        upstreams: vec![serde_json::from_value(upstream).unwrap()],
        routes: vec![route],
        redis: full.redis,
        purges: full.purges,
        cache_disk: full.cache_disk,
        config: full.config,
        certificates: full.certificates,
        expiries: vec![
            expiry("past", "2027-01-16T09:00:00Z"),
            expiry("tomorrow", "2027-01-17T11:00:00Z"),
            expiry("soon", "2027-01-20T11:00:00Z"),
            expiry("later", "2027-01-30T11:00:00Z"),
        ],
        plugins: vec![PluginStatus {
            name: "ab".into(),
            routes: vec![PluginRouteStatus {
                route: "api".into(),
                left_out: true,
                ..PluginRouteStatus::default()
            }],
            ..PluginStatus::default()
        }],
        ..Snapshot::default()
    };
    insta::assert_snapshot!("alarms", texts(&observation).join("\n"));
    let severities: Vec<Severity> = alarms(&observation).iter().map(|a| a.severity).collect();
    assert!(severities.is_sorted(), "{severities:?}");
}

#[test]
fn the_problems_are_those_of_the_status_page_whatever_the_clock_here_says() {
    let mut observation = example();
    observation.snapshot.at = "2027-04-15T00:00:00.000Z".to_owned();
    observation.instances.list.clear();
    let time = problems::time_of(&observation.snapshot).unwrap();
    let shown = problems::find(&observation.snapshot, time);
    assert!(
        shown
            .iter()
            .any(|it| it.text.contains("expires within a day"))
    );
    assert_eq!(alarms(&observation), shown);
}

/// Values that come back in turn, so that a few drawn ones fill a whole snapshot.
struct Drawn {
    texts: Vec<String>,
    numbers: Vec<f64>,
    at: usize,
}

impl Drawn {
    fn text(&mut self) -> String {
        self.at += 1;
        self.texts[self.at % self.texts.len()].clone()
    }

    fn number(&mut self) -> f64 {
        self.at += 1;
        self.numbers[self.at % self.numbers.len()]
    }

    fn maybe(&mut self) -> Option<f64> {
        let number = self.number();
        (number > 0.0).then_some(number)
    }

    fn count(&mut self) -> u64 {
        self.number() as u64
    }

    fn observation(&mut self, rows: usize) -> Observation {
        let mut observation = example();
        observation.snapshot.version = self.text();
        observation.snapshot.uptime_seconds = self.count();
        observation.snapshot.process.cpu = self.number();
        observation.snapshot.process.memory_bytes = self.count();
        observation.snapshot.not_ready = vec![self.text()];
        observation.snapshot.config.loaded_at = self.text();
        observation.snapshot.routes.clear();
        observation.snapshot.upstreams.clear();
        observation.snapshot.limits.clear();
        observation.instances.list.clear();
        observation.instances.problem = Some(self.text());
        for _ in 0..rows {
            let mut route = RouteStatus {
                name: self.text(),
                matches: self.text(),
                action: self.text(),
                ..RouteStatus::default()
            };
            route.traffic.rate = self.number();
            route.traffic.server_error_rate = self.number();
            route.traffic.p95_ms = self.maybe();
            route.traffic.hit_ratio = self.maybe();
            observation.snapshot.routes.push(route);
            let upstream = json!({ "name": self.text(), "queue": self.count(), "backends": [{
                "address": self.text(), "state": self.text(), "in_flight": 1,
                "requests": self.count(), "ewma_ms": self.maybe(),
                "ejected_for": self.maybe(), "out_for": self.maybe(),
                "recent_failures": self.count(), "ejected_because": self.text(),
            }] });
            let upstream = serde_json::from_value(upstream).unwrap();
            observation.snapshot.upstreams.push(upstream);
            observation.snapshot.limits.push(LimitStatus {
                name: self.text(),
                passed: self.count(),
                ..LimitStatus::default()
            });
            observation.instances.list.push(Instance {
                state: self.text(),
                memory_bytes: Some(self.count()),
                memory_limit_bytes: Some(self.count()),
                uptime_seconds: Some(self.count()),
                ..instance(&self.text(), self.maybe(), self.count())
            });
        }
        observation
    }
}

fn observations() -> impl Strategy<Value = Observation> {
    let texts = prop_oneof![
        "[a-z]{0,12}",
        any::<String>(),
        "[\u{1b}\u{300}\u{4e2d}\u{1f469}\u{200d}\u{202e}a]{0,40}",
        "[a-z]{200}",
    ];
    let numbers = prop_oneof![
        any::<f64>(),
        Just(0.0),
        0.0..1000.0,
        Just(f64::NAN),
        Just(f64::INFINITY)
    ];
    let texts = prop::collection::vec(texts, 1..12);
    let numbers = prop::collection::vec(numbers, 1..12);
    (texts, numbers, 0..12_usize).prop_map(|(texts, numbers, rows)| {
        let mut drawn = Drawn {
            texts,
            numbers,
            at: 0,
        };
        drawn.observation(rows)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(edgeway_testkit::cases(64, 256)))]

    #[test]
    fn any_state_is_drawn_at_any_size_and_steers_no_terminal(
        observation in observations(),
        width in 0..200_u16,
        height in 0..60_u16,
        keys in "[1-5srhd/xyn?↓↑→↵⎋]{0,20}",
        drawn in 0..Pane::ALL.len(),
    ) {
        let text = view::text(&observation);
        prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", text);
        prop_assert!(serde_json::from_str::<Value>(&report::json(&observation)).is_ok());
        let mut screen = Screen::new(observation.clone(), true);
        screen.show(observation);
        press(&mut screen, &keys);
        let area = Rect::new(0, 0, width, height);
        // One of them, and all in a hunt: drawing costs milliseconds.
        for (at, pane) in Pane::ALL.into_iter().enumerate() {
            if at != drawn && !edgeway_testkit::is_hunt() {
                continue;
            }
            screen.pane = pane;
            let mut buffer = Buffer::empty(area);
            view::draw(&screen, area, &mut buffer);
            for cell in buffer.content() {
                let symbol = cell.symbol();
                prop_assert!(!symbol.contains(char::is_control), "{:?}", symbol);
            }
        }
    }
}
