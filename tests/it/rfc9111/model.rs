//! The table with the policy alone: the smallest cache that it can be used in.
//!
//! It has no network, no waiting and no ranges: cases with `Range` run only with the gateway.

use std::time::{Duration, SystemTime};

use edgeway_cache::policy::{
    CacheRules, ExchangeTimes, Lifetime, OriginRequest, RequestDirectives, Target, Usability,
    Variance, Vary, after_error, clean, date, invalidates, judge, merge, not_modified, store,
    to_not_modified, updates,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{
    Case, Route, Script, Source, Step, cases,
    script::{Expected, filled},
};

struct Entry {
    target: Target,
    vary: Vary,
    variance: Variance,
    status: StatusCode,
    headers: HeaderMap,
    lifetime: Lifetime,
}

/// Response that a client gets, and the request that the origin received, if any.
struct Outcome {
    source: Source,
    status: StatusCode,
    headers: HeaderMap,
    saw: Option<HeaderMap>,
}

struct Model {
    rules: CacheRules,
    entries: Vec<Entry>,
}

const PATH: &str = "/case";

#[test]
fn the_policy_passes_the_table() {
    let selected = cases().filter(|case| !case.script.contains("> Range:"));
    let failed: Vec<_> = selected.filter_map(|case| run(case).err()).collect();
    assert!(
        failed.is_empty(),
        "{}:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// The control: a difference is reported, in whatever part of a step it is.
#[test]
fn a_failed_case_is_reported() {
    let first = "> GET\n< Cache-Control: max-age=60\n< ETag: a\n< Foo: 1\n= origin";
    for wrong in [
        "> GET\n= origin",
        "> GET\n= background",
        "> GET\n= cache\n= 304",
        "> GET\n= cache\n= Foo: 2",
        "> GET\n= cache\n= !Foo",
        "> GET\n= cache\n= Age: 50..",
        "> GET\n= cache\n= Bar: 1",
        "> GET\n> Cache-Control: no-cache\n< 304\n= cache",
        "> GET\n> Cache-Control: no-cache\n< 304\n= validated\n= saw If-None-Match: b",
        "> GET\n> Cache-Control: no-cache\n< 304\n= validated\n= saw !If-None-Match",
    ] {
        let script = format!("{first}\n{wrong}");
        let case = Case::new("3", "wrong", script.leak());
        assert!(run(&case).is_err(), "{wrong}");
    }
}

/// Runs a case; the error describes a difference.
fn run(case: &Case) -> Result<(), String> {
    let mut model = Model {
        rules: rules_of(case.route),
        entries: Vec::new(),
    };
    for (index, step) in Script::parse(case.script).steps.iter().enumerate() {
        let stored = model.stored_status(step);
        let outcome = model.ask(step);
        let wrong = refuted(step, &outcome, stored);
        if !wrong.is_empty() {
            let (name, section, at) = (case.name, case.section, index + 1);
            return Err(format!("{name} ({section}), step {at}: {wrong:?}"));
        }
    }
    Ok(())
}

fn rules_of(route: Route) -> CacheRules {
    let hour = Some(Duration::from_hours(1));
    let plain = CacheRules::default();
    match route {
        Route::Plain => plain,
        Route::Heuristic => CacheRules {
            heuristic: Some(0.1),
            ..plain
        },
        Route::Ttl => CacheRules { ttl: hour, ..plain },
        Route::Isr => CacheRules {
            stale_despite_s_maxage: true,
            ..plain
        },
        Route::Bridged => CacheRules {
            stale_if_error: hour,
            ..plain
        },
    }
}

fn refuted(step: &Step, outcome: &Outcome, stored: u16) -> Vec<String> {
    let mut wrong = Vec::new();
    let source = step.source.expect("each step has one");
    if outcome.source != source {
        wrong.push(format!("answered by {:?}, not {source:?}", outcome.source));
    }
    let status = step.client_status(stored);
    if outcome.status.as_u16() != status {
        wrong.push(format!("status {}, not {status}", outcome.status));
    }
    let all = |headers: &HeaderMap, expected: &[Expected]| {
        let values = |name: &str| {
            let values = headers.get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap().to_owned())
                .collect()
        };
        let refuted = expected.iter().filter_map(|one| one.refutes(values, PATH));
        refuted.collect::<Vec<_>>()
    };
    wrong.extend(all(&outcome.headers, &step.expected));
    match &outcome.saw {
        Some(saw) => wrong.extend(all(saw, &step.saw)),
        None => assert!(step.saw.is_empty(), "the origin was not asked"),
    }
    wrong
}

fn headers_of(fields: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(&filled(value, PATH)).unwrap(),
        );
    }
    headers
}

fn target_of(step: &Step) -> Target {
    let url = format!("{PATH}{}", step.path);
    let (path, query) = url
        .split_once('?')
        .map_or((&*url, None), |(path, query)| (path, Some(query)));
    Target {
        path: path.as_bytes().to_vec(),
        query: query.map(|query| query.as_bytes().to_vec()),
    }
}

impl Model {
    fn find(&self, step: &Step) -> Option<usize> {
        let (target, request) = (target_of(step), headers_of(&step.request));
        self.entries.iter().position(|entry| {
            entry.target == target && entry.vary.variance(&request) == entry.variance
        })
    }

    fn stored_status(&self, step: &Step) -> u16 {
        self.find(step)
            .map_or(200, |at| self.entries[at].status.as_u16())
    }

    fn ask(&mut self, step: &Step) -> Outcome {
        let now = edgeway_base::clock::Clock::machine().wall();
        let request = headers_of(&step.request);
        let method = Method::from_bytes(step.method.as_bytes()).unwrap();
        let wants = RequestDirectives::parse(&request);
        if method != Method::GET && method != Method::HEAD {
            return self.write(step, &method, request);
        }
        let Some(at) = self.find(step) else {
            if wants.only_if_cached {
                return nobody();
            }
            return self.fetch(step, request, now);
        };
        let from_store =
            |source, entry: &Entry, saw| respond(source, entry, &method, &request, saw, now);
        match judge(&self.entries[at].lifetime, &wants, now) {
            Usability::Fresh | Usability::StaleAsAsked => {
                from_store(Source::Cache, &self.entries[at], None)
            }
            Usability::GatewayTimeout => nobody(),
            Usability::StaleWhileRevalidate => {
                let outcome =
                    from_store(Source::Background, &self.entries[at], Some(request.clone()));
                self.fetch(step, request.clone(), now);
                outcome
            }
            Usability::Validate => {
                let sent = conditions(&request, &self.entries[at].headers);
                if matches!(step.status, 500 | 502 | 503 | 504)
                    && after_error(&self.entries[at].lifetime, &wants, now)
                {
                    return from_store(Source::Bridged, &self.entries[at], Some(sent));
                }
                if step.status != 304 {
                    return self.fetch(step, sent, now);
                }
                let mut entry = self.entries.swap_remove(at);
                let change = headers_of(&step.response);
                assert!(updates(&entry.headers, &change));
                merge(&mut entry.headers, &change);
                let is_stored =
                    self.stored(step, &request, entry.status, entry.headers.clone(), now);
                if is_stored {
                    let newest = self.entries.last().expect("it was stored just now");
                    return from_store(Source::Validated, newest, Some(sent));
                }
                clean(&mut entry.headers);
                from_store(Source::Validated, &entry, Some(sent))
            }
        }
    }

    /// Fetches a response from the origin, and stores it if allowed.
    fn fetch(&mut self, step: &Step, sent: HeaderMap, now: SystemTime) -> Outcome {
        let status = StatusCode::from_u16(step.status).unwrap();
        let headers = headers_of(&step.response);
        self.stored(
            step,
            &headers_of(&step.request),
            status,
            headers.clone(),
            now,
        );
        Outcome {
            source: Source::Origin,
            status,
            headers,
            saw: Some(sent),
        }
    }

    fn stored(
        &mut self,
        step: &Step,
        request: &HeaderMap,
        status: StatusCode,
        mut headers: HeaderMap,
        now: SystemTime,
    ) -> bool {
        let asked = OriginRequest {
            method: &Method::GET,
            headers: request,
            is_named: false,
        };
        let times = ExchangeTimes {
            request_time: now,
            response_time: now,
        };
        let Ok(lifetime) = store(asked, status, &headers, times, &self.rules) else {
            return false;
        };
        clean(&mut headers);
        date(&mut headers, now);
        let vary = Vary::parse(&headers);
        let target = target_of(step);
        let variance = vary.variance(request);
        self.entries.retain(|entry| {
            entry.target != target || entry.vary != vary || entry.variance != variance
        });
        self.entries.push(Entry {
            target,
            vary,
            variance,
            status,
            headers,
            lifetime,
        });
        true
    }

    fn write(&mut self, step: &Step, method: &Method, sent: HeaderMap) -> Outcome {
        let status = StatusCode::from_u16(step.status).unwrap();
        let headers = headers_of(&step.response);
        let target = target_of(step);
        let gone = invalidates(method, status, "http", "shop.test", &target, &headers);
        self.entries.retain(|entry| !gone.contains(&entry.target));
        Outcome {
            source: Source::Origin,
            status,
            headers,
            saw: Some(sent),
        }
    }
}

fn nobody() -> Outcome {
    Outcome {
        source: Source::Nobody,
        status: StatusCode::GATEWAY_TIMEOUT,
        headers: HeaderMap::new(),
        saw: None,
    }
}

fn respond(
    source: Source,
    entry: &Entry,
    method: &Method,
    request: &HeaderMap,
    saw: Option<HeaderMap>,
    now: SystemTime,
) -> Outcome {
    let mut headers = entry.headers.clone();
    headers.insert("age", entry.lifetime.age(now).as_secs().into());
    let mut status = entry.status;
    if not_modified(request, method, status, &headers) {
        status = StatusCode::NOT_MODIFIED;
        to_not_modified(&mut headers);
    }
    Outcome {
        source,
        status,
        headers,
        saw,
    }
}

/// Builds conditions as Pingora writes them.
fn conditions(request: &HeaderMap, stored: &HeaderMap) -> HeaderMap {
    let mut sent = request.clone();
    sent.remove("if-none-match");
    sent.remove("if-modified-since");
    for (from, to) in [
        ("etag", "if-none-match"),
        ("last-modified", "if-modified-since"),
    ] {
        if let Some(value) = stored.get(from) {
            sent.insert(to, value.clone());
        }
    }
    sent
}
