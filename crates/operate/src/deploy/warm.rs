//! Warm-up of a release before it gets visitors: its responses to what visitors of the current
//! release request most are fetched, so that they are in the cache. It may fail in whole or in part,
//! and the deploy goes on.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    time::Duration,
};

use edgeway_gateway::{WarmUpRequest, address_on_machine};
use edgeway_net::fetch::Fetch;
use edgeway_status::actions::WarmUpPlan;
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Request, Uri, header, uri::Authority};
use tokio::time::{Instant, sleep, timeout_at};

use super::Deploy;
use crate::{backends::interrupted, warm::trust};

/// Requests in flight.
const CONCURRENCY: usize = 4;
/// Time limit of a whole warm-up, and of one response. The gateway's secret is valid for longer.
const LIMIT: Duration = Duration::from_mins(1);
const RESPONSE_LIMIT: Duration = Duration::from_secs(15);
/// Rounds in which a response may turn out to be stored, and the wait between them: an app that
/// finds its own copy too old sends it once more, for nobody to store, and renders it again.
const ROUNDS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("edgeway-deploy/", env!("CARGO_PKG_VERSION")));

/// Result of a warm-up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Warmed {
    stored: usize,
    /// Responses that came and are not stored, and those that did not come, with a reason.
    not_stored: usize,
    failed: usize,
    reason: Option<String>,
    /// Responses that only their own clients can ask for.
    left_out: usize,
}

/// Outcome of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Outcome {
    /// Time was over before.
    #[default]
    Late,
    Stored,
    NotStored,
    Failed(String),
}

impl Deploy<'_> {
    /// Fetches what visitors will request from `release`, as far as that is configured and possible.
    pub(super) async fn warm(&self, release: &str) {
        if self.settings.warm == 0 {
            return;
        }
        self.progress.now(&format!("{release}: warming"));
        let text = match self.warmed(release).await {
            Ok(warmed) => warmed.text(),
            Err(why) => format!("not warmed: {why}"),
        };
        self.progress.say(&format!("{release}: {text}"));
    }

    async fn warmed(&self, release: &str) -> Result<Warmed, String> {
        let max = self.settings.warm as usize;
        let plan = self.gateway.begin_warm_up(&self.upstream, release, max);
        let plan = plan.await?;
        let fetcher = Fetcher::new(&plan)?;
        let fetched = tokio::select! {
            warmed = fetcher.fetch_all() => Some(warmed),
            () = interrupted(&self.interrupt) => None,
        };
        let arrived = self.gateway.end_warm_up(&self.upstream).await?;
        let Some(warmed) = fetched else {
            return Err("interrupted".to_owned());
        };
        // A gateway that was replaced meanwhile has asked the current release.
        match fetcher.responses.get().saturating_sub(arrived) {
            0 => Ok(warmed),
            lost => Err(format!("{lost} requests did not reach the release")),
        }
    }
}

impl Warmed {
    fn text(&self) -> String {
        let all = self.stored + self.not_stored + self.failed;
        let mut parts = vec![format!("{} of {all} responses warmed", self.stored)];
        parts.extend((self.not_stored > 0).then(|| format!("{} not stored", self.not_stored)));
        if self.failed > 0 {
            let reason = self.reason.as_deref().unwrap_or_default();
            parts.push(format!("{} failed ({reason})", self.failed));
        }
        parts.extend((self.left_out > 0).then(|| format!("{} left out", self.left_out)));
        parts.join(", ")
    }
}

/// Sends the requests of a plan.
struct Fetcher<'a> {
    plan: &'a WarmUpPlan,
    name: HeaderName,
    secret: HeaderValue,
    /// Clients by the name of their listener.
    clients: BTreeMap<&'a str, Fetch>,
    /// Number of responses.
    responses: Cell<u64>,
}

impl<'a> Fetcher<'a> {
    fn new(plan: &'a WarmUpPlan) -> Result<Self, String> {
        let bad = || "the gateway's plan cannot be read".to_owned();
        let mut secret = HeaderValue::from_str(&plan.secret).map_err(|_| bad())?;
        secret.set_sensitive(true);
        // The certificate need not be one for this machine, and the address is the gateway's own.
        let tls = trust::tls(None, true)?;
        let client = |(name, address): (&'a String, &String)| {
            let address: SocketAddr = address.parse().ok()?;
            let to = SocketAddr::new(address_on_machine(address.ip()), address.port());
            Some((name.as_str(), Fetch::with_http1(tls.clone(), Some(to))))
        };
        Ok(Self {
            name: plan.header.parse().map_err(|_| bad())?,
            secret,
            clients: plan.listeners.iter().filter_map(client).collect(),
            plan,
            responses: Cell::new(0),
        })
    }

    /// Fetches everything until it is stored.
    async fn fetch_all(&self) -> Warmed {
        let until = Instant::now() + LIMIT;
        let mut warmed = Warmed {
            left_out: self.plan.left_out,
            ..Warmed::default()
        };
        let mut left: Vec<&WarmUpRequest> = self.plan.requests.iter().collect();
        let mut last = Vec::new();
        for round in 0..ROUNDS {
            // The second round finds what the first one has stored.
            if round > 1 {
                sleep(PAUSE).await;
            }
            let outcomes = self.fetch(&left, until).await;
            let is_late = outcomes.contains(&Outcome::Late);
            let again = left.iter().copied().zip(outcomes);
            let again = again.filter(|(_, outcome)| *outcome != Outcome::Stored);
            let before = left.len();
            (left, last) = again.unzip();
            warmed.stored += before - left.len();
            if left.is_empty() || is_late {
                break;
            }
        }
        for outcome in last {
            let why = match outcome {
                Outcome::Stored => continue,
                Outcome::NotStored => {
                    warmed.not_stored += 1;
                    continue;
                }
                Outcome::Late => format!("not within {} s", LIMIT.as_secs()),
                Outcome::Failed(why) => why,
            };
            warmed.failed += 1;
            warmed.reason.get_or_insert(why);
        }
        warmed
    }

    /// Sends requests, in order, and returns their outcomes.
    async fn fetch(&self, requests: &[&WarmUpRequest], until: Instant) -> Vec<Outcome> {
        let outcomes = RefCell::new(vec![Outcome::Late; requests.len()]);
        let next = Cell::new(0);
        let work = || async {
            while let Some(request) = requests.get(next.get()) {
                let index = next.get();
                next.set(index + 1);
                let Ok(outcome) = timeout_at(until, self.send(request)).await else {
                    break;
                };
                outcomes.borrow_mut()[index] = outcome;
            }
        };
        join_all((0..CONCURRENCY).map(|_| work())).await;
        outcomes.into_inner()
    }

    async fn send(&self, wanted: &WarmUpRequest) -> Outcome {
        let Some(client) = self.clients.get(wanted.listener.as_str()) else {
            return Outcome::Failed(format!("no address of listener `{}`", wanted.listener));
        };
        let request = match self.request(wanted) {
            Ok(request) => request,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let response = client.measure(request, RESPONSE_LIMIT).await;
        let has_response = u64::from(response.is_ok());
        self.responses.set(self.responses.get() + has_response);
        match response {
            Ok(response) if response.status().as_u16() >= 400 => {
                Outcome::Failed(format!("status {}", response.status().as_u16()))
            }
            Ok(response) => {
                let cache = response.headers().get("x-cache-status");
                match cache.map(HeaderValue::as_bytes) {
                    Some(b"HIT" | b"STALE") => Outcome::Stored,
                    _ => Outcome::NotStored,
                }
            }
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    fn request(&self, wanted: &WarmUpRequest) -> Result<Request<()>, http::Error> {
        let url = Uri::try_from(&wanted.url)?;
        let host = url.authority().map_or("", Authority::as_str).to_owned();
        let mut request = Request::get(url)
            .header(header::USER_AGENT, USER_AGENT)
            // With its port, even where that is the default one: the key has it as visitors sent it.
            .header(header::HOST, host)
            .header(&self.name, &self.secret);
        for (name, value) in &wanted.headers {
            request = request.header(name, value);
        }
        request.body(())
    }
}
