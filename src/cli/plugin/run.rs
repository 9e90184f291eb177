//! `edgeway plugin run FILE METHOD URL`.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use url::Url;

use super::{Outcome, millis, out, trace};
use crate::{
    base::geo::Whereabouts,
    plugins::{
        Answer, Body, Change, Hook, Input, Known, Line, Output, Ran, Response, Trial,
        powers::{FETCH_DEADLINE, LONGEST_FETCHED, Reach},
        source::Source,
    },
};

/// How much of a body is printed.
const MOST_PRINTED: usize = 4 << 10;

/// In the order of the gateway: what a request meets, and what an answer does.
const ON_REQUEST: [Hook; 4] = [
    Hook::Request,
    Hook::CacheKey,
    Hook::Route,
    Hook::UpstreamRequest,
];
const ON_ANSWER: [Hook; 2] = [Hook::UpstreamResponse, Hook::Response];

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The plugin's first module, such as plugins/ab-split/plugin.js
    file: PathBuf,
    /// The request's method, such as GET
    method: String,
    /// A whole http URL, or a path
    url: String,
    /// A header of the request, as with curl: `Name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The body of the request, as text; a form if no header says otherwise
    #[arg(short, long, value_name = "TEXT")]
    data: Option<String>,
    /// What it finds as `ctx.config`: an object in JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// A variable of the environment that it finds in `ctx.env`
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client: IpAddr,
    /// An origin that its `fetch` may ask, such as `https://flags.example.com`
    #[arg(long, value_name = "ORIGIN")]
    fetch: Vec<String>,
    /// The route's name
    #[arg(long, value_name = "NAME", default_value = "app")]
    route: String,
    /// The claims of its token, `ctx.jwt`: an object in JSON
    #[arg(long, value_name = "JSON")]
    jwt: Option<String>,
    /// Where the client is, `ctx.geo`: an object in JSON
    #[arg(long, value_name = "JSON")]
    geo: Option<String>,
    /// The status that the backend answers with
    #[arg(long, value_name = "STATUS", default_value = "200")]
    status: u16,
    /// A header of the backend's answer
    #[arg(long = "answer-header", value_name = "HEADER")]
    answer: Vec<String>,
}

/// A request on its way through the hooks.
struct Way {
    trial: Trial,
    input: Input,
    /// The status of the plugin's own answer.
    answered: Option<StatusCode>,
    is_well: bool,
}

pub(super) async fn run(options: &Options) -> Outcome {
    let input = input(options)?;
    let status = StatusCode::from_u16(options.status)
        .map_err(|_| format!("{} is no status", options.status))?;
    let answer = headers(&options.answer)?;
    let config = object("--config", &options.config, r#"{"cookie": "ab"}"#)?;
    let config = Value::Object(config).to_string();
    let env = env(&options.env)?;
    let shown = options.file.display().to_string();
    let folder = shown.rsplit_once('/').map_or(".", |(folder, _)| folder);
    let fetch = (!options.fetch.is_empty()).then(|| reach(&options.fetch));
    let fetch = fetch.transpose()?;
    let loaded = Source::read(folder, &options.file)
        .and_then(|source| Trial::load_reaching(source, config, env, fetch));
    let trial = match loaded {
        Ok(trial) => trial,
        Err(failure) => {
            out::data(&format!(
                "{shown} cannot be loaded\n{}",
                trace(&failure, "  ")
            ));
            return Ok(false);
        }
    };
    if !trial.is_for(&input) {
        out::data(&format!(
            "its `config.matcher` is not for this request to {}: no hook runs\n",
            input.url
        ));
        return Ok(true);
    }
    let mut way = Way {
        trial,
        input,
        answered: None,
        is_well: true,
    };
    let mut is_answered = false;
    for hook in ON_REQUEST {
        is_answered |= way.meet(hook).await;
        if is_answered {
            break;
        }
    }
    if !is_answered {
        // What was added to the answer so far stands behind what the backend says.
        let added = way.input.response.take().map(|(_, headers)| headers);
        let mut answer = answer;
        answer.extend(added.unwrap_or_default());
        way.input.response = Some((status, answer));
        for hook in ON_ANSWER {
            way.meet(hook).await;
        }
    }
    way.log();
    way.meet(Hook::Log).await;
    Ok(way.is_well)
}

fn object(option: &str, text: &str, example: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(format!("`{option}` takes an object, such as {example}")),
        Err(error) => Err(format!("`{option}` is no JSON: {error}")),
    }
}

/// As a route has it without more being said.
fn reach(origins: &[String]) -> Result<Reach, String> {
    Reach::new(origins, FETCH_DEADLINE, LONGEST_FETCHED)
}

fn known(options: &Options) -> Result<Known, String> {
    let claims = options.jwt.as_deref();
    let claims = claims.map(|text| object("--jwt", text, r#"{"sub": "ann"}"#));
    let place = options.geo.as_deref();
    let place = place.map(|text| object("--geo", text, r#"{"country": "DE"}"#));
    Ok(Known {
        claims: claims.transpose()?.map(Arc::new),
        place: place
            .transpose()?
            .map(|place| Whereabouts::said(Value::Object(place).to_string())),
    })
}

/// The variables of these names, as an object in JSON.
fn env(names: &[String]) -> Result<String, String> {
    let mut all = serde_json::Map::new();
    for name in names {
        let value =
            std::env::var(name).map_err(|_| format!("the environment has no variable `{name}`"))?;
        all.insert(name.clone(), value.into());
    }
    Ok(Value::Object(all).to_string())
}

impl Way {
    /// The request is over: what is known of it without a gateway.
    fn log(&mut self) {
        let own = self.answered.map(|status| (status, HeaderMap::new()));
        let answer = own.as_ref().or(self.input.response.as_ref());
        let url = Url::parse(&self.input.url).ok();
        let entry = json!({
            "status": answer.map(|(status, _)| status.as_u16()),
            "method": self.input.method.as_str(),
            "host": url.as_ref().and_then(Url::host_str),
            "path": url.as_ref().map(Url::path),
            "client": self.input.ip,
            "id": self.input.request_id,
            "route": self.input.route,
        });
        self.input.entry = Some(entry.to_string());
        self.input.response = None;
    }

    /// Runs a hook if the plugin has it, and prints what came of it. It may have answered.
    async fn meet(&mut self, hook: Hook) -> bool {
        if !self.trial.has(hook) {
            return false;
        }
        let ran = self.trial.run(hook, self.input.clone()).await;
        out::data(&printed(hook, &ran));
        let Ok(Output {
            answer,
            request,
            response,
            status,
        }) = ran.outcome
        else {
            self.is_well = false;
            return false;
        };
        apply(request, &mut self.input.headers);
        if !response.is_empty() || status.is_some() {
            let (was, headers) = self.input.response.get_or_insert_default();
            apply(response, headers);
            *was = status.unwrap_or(*was);
        }
        if let Answer::Response(response) = &answer {
            self.answered = Some(response.status);
        }
        self.answered.is_some()
    }
}

fn apply(changes: Vec<Change>, headers: &mut HeaderMap) {
    for change in changes {
        change.apply(headers);
    }
}

fn input(options: &Options) -> Result<Input, String> {
    let method = Method::from_bytes(options.method.as_bytes())
        .map_err(|_| format!("`{}` is no method, such as GET", options.method))?;
    let whole = match options.url.strip_prefix('/') {
        Some(path) => format!("http://localhost/{path}"),
        None => options.url.clone(),
    };
    let is_http = |url: &Url| url.has_host() && matches!(url.scheme(), "http" | "https");
    let url = Url::parse(&whole).ok().filter(is_http);
    let url = url.ok_or_else(|| {
        format!(
            "`{}` is neither a path such as /x nor a URL such as https://shop.example.com/x",
            options.url
        )
    })?;
    let mut all = HeaderMap::new();
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    if let Ok(host) = HeaderValue::from_str(authority) {
        all.insert(header::HOST, host);
    }
    let given = headers(&options.headers)?;
    if given.contains_key(header::HOST) {
        all.remove(header::HOST);
    }
    all.extend(given);
    if options.data.is_some() && !all.contains_key(header::CONTENT_TYPE) {
        // As curl has it.
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        all.insert(header::CONTENT_TYPE, form);
    }
    Ok(Input {
        method,
        url: url.to_string(),
        headers: all,
        body: match &options.data {
            Some(data) => Body::Whole(data.clone().into()),
            None => Body::None,
        },
        ip: Some(options.client),
        request_id: "run".to_owned(),
        route: options.route.clone(),
        known: known(options)?,
        response: None,
        reason: None,
        entry: None,
    })
}

fn headers(given: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for text in given {
        let bad = || format!("`{text}` is no header, such as `Accept: text/html`");
        let (name, value) = text.split_once(':').ok_or_else(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn printed(hook: Hook, ran: &Ran) -> String {
    let what = match &ran.outcome {
        Err(failure) => format!("failed ({})", failure.kind.word()),
        Ok(output) => match &output.answer {
            Answer::Nothing => "goes on".to_owned(),
            Answer::Response(response) => format!("answers {}", response.status),
            Answer::Rewrite(url) => format!("goes on to {url}"),
            Answer::Text(text) | Answer::Json(text) => format!("gives `{text}`"),
        },
    };
    let mut text = format!(
        "{:<20}{what}  ({} of the processor, {} in all)\n",
        hook.name(),
        millis(ran.cpu),
        millis(ran.wall),
    );
    match &ran.outcome {
        Err(failure) => text.push_str(&trace(failure, "  ")),
        Ok(output) => put_output(&mut text, output),
    }
    for Line { level, text: line } in &ran.lines {
        let level = level.as_str().to_ascii_lowercase();
        put(&mut text, "console", &format!("{level:<6}{line}"));
    }
    text
}

fn put_output(text: &mut String, output: &Output) {
    for (key, changes) in [("request", &output.request), ("answer", &output.response)] {
        for change in changes {
            put(text, key, &change_of(change));
        }
    }
    if let Some(status) = output.status {
        put(text, "answer", &format!("status {status}"));
    }
    if let Answer::Response(response) = &output.answer {
        let Response { headers, body, .. } = &**response;
        for (name, value) in headers {
            put(text, "header", &format!("{name}: {}", shown(value)));
        }
        match std::str::from_utf8(body) {
            Ok("") => {}
            Ok(body) => {
                let end = body.floor_char_boundary(MOST_PRINTED);
                put(text, "body", body[..end].trim_end());
                if end < body.len() {
                    put(text, "", &format!("… {} bytes in all", body.len()));
                }
            }
            Err(_) => put(
                text,
                "body",
                &format!("{} bytes, which are no text", body.len()),
            ),
        }
    }
}

fn change_of(change: &Change) -> String {
    match change {
        Change::Set(name, value) => format!("set {name}: {}", shown(value)),
        Change::Append(name, value) => format!("append {name}: {}", shown(value)),
        Change::Delete(name) => format!("delete {name}"),
    }
}

fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Lines of `value` behind `key`, indented.
fn put(text: &mut String, key: &str, value: &str) {
    for (at, line) in value.lines().enumerate() {
        let key = if at == 0 { key } else { "" };
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {key:<10}{line}");
    }
}
