//! Sides that are compared: a gateway each, before an origin of its own.

use std::{collections::BTreeMap, net::SocketAddr, os::unix::fs::symlink, path::PathBuf};

use serde_json::Value;

use super::{
    Way,
    differences::{self, Compared},
    draw::Drawn,
    message::Message,
    origin::{Backend, ScriptedOrigin},
};
use crate::support::gateway::Gateway;

/// Program and driver that serve the requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Side {
    /// This build and its own driver.
    Ours,
    /// This build and Pingora's proxy.
    Pingora,
    /// Another build, which `EDGEWAY_BEFORE` names.
    Before,
}

/// Drivers of this build.
pub(super) const DRIVERS: [Side; 2] = [Side::Ours, Side::Pingora];

fn before() -> Option<PathBuf> {
    let program = std::env::var_os("EDGEWAY_BEFORE").filter(|it| !it.is_empty())?;
    Some(std::fs::canonicalize(program).expect("`EDGEWAY_BEFORE` is a program"))
}

impl Side {
    /// Returns the sides of this run, ours first.
    pub(super) fn all() -> Vec<Self> {
        let before = before().map(|_| Self::Before);
        DRIVERS.into_iter().chain(before).collect()
    }

    /// Starts a gateway of this side.
    pub(super) async fn start(self, yaml: &str) -> Gateway {
        self.start_with(yaml, &[]).await
    }

    /// Starts a gateway of this side with more of an environment.
    pub(super) async fn start_with(self, yaml: &str, environment: &[(&str, &str)]) -> Gateway {
        let driver = match self {
            Self::Ours => "driver: gateway\n",
            Self::Pingora => "driver: pingora\n",
            Self::Before => "",
        };
        Gateway::start_prepared(&format!("{driver}{yaml}"), environment, |folder| {
            let script = "export const onRequest = async request => {
                const text = request.body ? await request.text() : '';
                request.headers.set('x-read', String(text.length));
            };\n";
            let write = |file: &str, text: &str| {
                std::fs::write(folder.join(file), text).expect("the folder is ours");
            };
            write("read.js", script);
            std::fs::create_dir(folder.join("public")).expect("the folder is ours");
            write("public/a.txt", "a file");
            if self == Self::Before {
                let program = before().expect("there is one");
                symlink(program, folder.join("edgeway")).expect("the folder is ours");
            }
        })
        .await
    }
}

/// Records of one exchange that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) to_client: Vec<Message>,
    pub(super) to_origin: Vec<Message>,
    pub(super) logged: Vec<BTreeMap<String, Value>>,
}

impl Outcome {
    /// Returns its parts as text, under the names of those that got them.
    pub(super) fn shown(&self) -> [(&'static str, String); 3] {
        let messages = |messages: &[Message]| {
            let shown = messages.iter().map(|message| {
                let content = String::from_utf8_lossy(&message.content);
                let headers = message.headers.iter();
                let headers = headers.map(|(name, value)| format!("  {name}: {value}\n"));
                let end = if message.is_complete { "" } else { " CUT" };
                let headers: String = headers.collect();
                format!("{}\n{headers}  {content}{end}\n", message.start)
            });
            shown.collect()
        };
        let fields = self.logged.iter().flatten();
        let fields = fields.map(|(name, value)| format!("  {name}: {value}\n"));
        [
            ("to the origin", messages(&self.to_origin)),
            ("to the client", messages(&self.to_client)),
            ("in the log", fields.collect()),
        ]
    }
}

/// Returns the lines that only one of two texts has, above the first one.
fn differing(ours: &str, theirs: &str) -> String {
    let only = |sign: &str, of: &str, than: &str| {
        let mut than: Vec<_> = than.lines().collect();
        let mut only = String::new();
        for line in of.lines() {
            match than.iter().position(|other| *other == line) {
                Some(at) => drop(than.remove(at)),
                None => only.push_str(&format!("{sign}{line}\n")),
            }
        }
        only
    };
    let (more, less) = (only("+", ours, theirs), only("-", theirs, ours));
    format!("{more}{less}--- ours:\n{ours}")
}

/// Fields of a line that differ from request to request, or from gateway to gateway.
const OWN_FIELDS: [&str; 7] = [
    "time",
    "id",
    "host",
    "backend",
    "total_ms",
    "first_byte_ms",
    "upstream_ms",
];

/// Returns the number of the exchange that a line of the log is about.
pub(super) fn number_of(line: &Value) -> Option<usize> {
    let path = line["path"].as_str().unwrap_or_default();
    let number = line["user_agent"].as_str();
    number.or(path.rsplit("/n").next())?.parse().ok()
}

/// Gateway of a side and its origin.
pub(super) struct Bench {
    side: Side,
    origin: ScriptedOrigin,
    gateway: Gateway,
}

/// Setup of gateways that are compared.
pub(super) struct Comparison<'a> {
    pub(super) way: Way,
    pub(super) backend: Backend<'a>,
    /// Returns the configuration for an origin and the options of its upstream.
    pub(super) yaml: fn(SocketAddr, &str) -> String,
    /// Takes out what time decides, of an outcome before it is compared.
    pub(super) settle: fn(Way, &Drawn, &mut Outcome),
}

impl Comparison<'_> {
    async fn bench(&self, side: Side) -> Bench {
        let origin = ScriptedOrigin::start(self.backend).await;
        let yaml = (self.yaml)(origin.address, &self.backend.options());
        let gateway = side.start(&yaml).await;
        Bench {
            side,
            origin,
            gateway,
        }
    }

    /// Sends the requests through all sides, one after the other, and compares. Returns the outcomes
    /// of ours.
    pub(super) async fn run(&self, seed: &str, cases: &[Drawn]) -> Vec<Outcome> {
        let sides = Side::all();
        let benches = futures_util::future::join_all(sides.iter().map(|side| self.bench(*side)));
        let benches = benches.await;
        let mut outcomes: Vec<Vec<Outcome>> = benches.iter().map(|_| Vec::new()).collect();
        for (turn, case) in cases.iter().enumerate() {
            let received = benches.iter().map(|bench| {
                bench.origin.set(turn, case.script.clone());
                self.way.received(bench.gateway.address(), case)
            });
            let received = futures_util::future::join_all(received).await;
            let (received, open): (Vec<_>, Vec<_>) = received.into_iter().unzip();
            for (bench, _) in benches.iter().zip(&open).filter(|(_, open)| open.is_some()) {
                bench.gateway.counts("edgeway_http_in_flight", 0).await;
            }
            drop(open);
            let is_late = received.iter().flatten().any(|it| *it == Message::late());
            for (outcomes, messages) in outcomes.iter_mut().zip(received) {
                outcomes.push(Outcome {
                    to_client: messages.into_iter().map(Message::digested).collect(),
                    to_origin: Vec::new(),
                    logged: Vec::new(),
                });
            }
            if is_late {
                break;
            }
        }
        for (bench, outcomes) in benches.iter().zip(&mut outcomes) {
            bench.complete(outcomes).await;
        }
        let mut outcomes = outcomes.into_iter();
        let ours = outcomes.next().expect("ours is the first");
        let mut rows = BTreeMap::new();
        let mut wrong = Vec::new();
        for (bench, theirs) in benches[1..].iter().zip(outcomes) {
            let pairs = ours.iter().zip(theirs).zip(cases);
            for (turn, ((own, mut other), case)) in pairs.enumerate() {
                let mut own = own.clone();
                (self.settle)(self.way, case, &mut own);
                (self.settle)(self.way, case, &mut other);
                if bench.side == Side::Before {
                    let compared = Compared {
                        way: self.way,
                        is_http2: matches!(self.backend, Backend::Http2),
                        case,
                    };
                    for reason in differences::level(&compared, &mut own, &mut other) {
                        *rows.entry(reason).or_insert(0) += 1;
                    }
                }
                for ((part, own), (_, other)) in own.shown().into_iter().zip(other.shown()) {
                    if own == other {
                        continue;
                    }
                    let same = |it: &&Drawn| it.number == case.number;
                    let recent: Vec<_> = cases[..turn].iter().filter(same).collect();
                    let recent = recent[recent.len().saturating_sub(4)..].iter();
                    wrong.push(format!(
                        "{part}, {seed}, turn {turn}, than {:?}\n{}\n--- {}\n--- before it: {}",
                        bench.side,
                        differing(&own, &other),
                        case.explained(),
                        recent.map(|it| it.explained()).collect::<String>()
                    ));
                }
            }
        }
        assert!(
            wrong.is_empty(),
            "{} parts of {} differ; the first ones:\n{}",
            wrong.len(),
            cases.len(),
            wrong[..wrong.len().min(3)].join("\n\n")
        );
        differences::print(&rows);
        ours
    }
}

impl Bench {
    /// Adds what the origin saw and the lines of the log.
    async fn complete(&self, outcomes: &mut [Outcome]) {
        let lines = self.gateway.log_lines(outcomes.len()).await;
        for line in lines {
            let turn = number_of(&line);
            assert!(turn.is_some(), "a line of nothing: {line}");
            let turn = turn.unwrap_or_default();
            let fields = line.as_object().expect("a line is an object").clone();
            let fields = fields
                .into_iter()
                .filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()));
            outcomes[turn].logged.push(fields.collect());
        }
        for (turn, outcome) in outcomes.iter_mut().enumerate() {
            let seen = self.origin.seen(turn).into_iter();
            outcome.to_origin = seen.map(Message::digested).collect();
        }
    }
}
