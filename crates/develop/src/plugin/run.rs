//! `edgeway plugin run FILE METHOD URL`.

use std::{borrow::Cow, net::IpAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use edgeway_base::{
    geo::ClientLocation,
    target::{self, Slashes},
    units::Span,
};
use edgeway_script::{
    Body, ContextFacts, Failure, HeaderChange, Hook, HookLimits, HookResult, Input, ManualPlugin,
    Output, Response, body,
    call::rewritten,
    capabilities::{FETCH_DEADLINE, FetchOrigins, MAX_FETCHED_LEN},
    header_changes,
    source::Source,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use url::Url;

use super::{
    Outcome, from, out,
    printed::{printed, shown},
    trace,
};

/// The fixed reason of a request that a plugin's failure ends.
const FAILED: &str = "plugin_failed";

#[derive(Clone, Debug, clap::Args)]
pub(super) struct PluginRunOptions {
    /// The plugin's first module, such as plugins/ab-split/plugin.js
    pub(super) file: PathBuf,
    /// The request's method, such as GET
    pub(super) method: String,
    /// A whole http URL, or a path
    pub(super) url: String,
    /// A header of the request, as with curl: `Name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(super) headers: Vec<String>,
    /// A gateway's configuration: the plugin gets the settings of the route that takes the request
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["config", "env", "fetch", "route", "on_error", "cpu", "wall"]
    )]
    from: Option<PathBuf>,
    /// The body of the request, as text; a form if no header says otherwise
    #[arg(short, long, value_name = "TEXT")]
    data: Option<String>,
    /// The value of `ctx.config`: an object in JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// An environment variable that the plugin gets in `ctx.env`
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(super) client: IpAddr,
    /// An origin that its `fetch` may request, such as `https://flags.example.com`
    #[arg(long, value_name = "ORIGIN")]
    fetch: Vec<String>,
    /// The route's name
    #[arg(long, value_name = "NAME", default_value = "app")]
    route: String,
    /// The claims of the client's token, `ctx.jwt`: an object in JSON
    #[arg(long, value_name = "JSON")]
    jwt: Option<String>,
    /// The client's location, `ctx.geo`: an object in JSON
    #[arg(long, value_name = "JSON")]
    geo: Option<String>,
    /// The status of the backend's response
    #[arg(long, value_name = "STATUS", default_value = "200")]
    status: u16,
    /// A header of the backend's response
    #[arg(long = "response-header", value_name = "HEADER")]
    response_headers: Vec<String>,
    /// Fate of the request if `onRequest` or `onRoute` fails, as configured on a route; one with
    /// `role: auth` refuses
    #[arg(long, value_name = "WHAT", default_value = "refuse")]
    on_error: OnError,
    /// The name of an upstream that `onRoute` may choose; any if none is named
    #[arg(long = "upstream", value_name = "NAME")]
    upstreams: Vec<String>,
    /// CPU time that a hook may use
    #[arg(long, value_name = "TIME", default_value = "5ms")]
    cpu: Span,
    /// Wall time that a hook may take
    #[arg(long, value_name = "TIME", default_value = "250ms")]
    wall: Span,
    /// Print the resulting request and response as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    Refuse,
    Continue,
}

/// A request on its way through the hooks.
struct SimulatedRequest<'o> {
    options: &'o PluginRunOptions,
    trial: ManualPlugin,
    /// The request as the client sent it.
    input: Input,
    /// Headers as changed for the backend.
    headers: HeaderMap,
    /// Changes to apply to the response, from any source.
    added: Vec<HeaderChange>,
    target: Option<String>,
    upstream: Option<String>,
    is_well: bool,
}

/// A response on its way back.
pub(super) struct SimulatedResponse {
    status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    reason: Option<&'static str>,
}

pub(super) async fn run(options: &PluginRunOptions) -> Outcome {
    let mut merged = options.clone();
    let mut from = None;
    if let Some(path) = &options.from {
        let (route, settings) = from::settings(path, options)?;
        merged.route = route;
        merged.config.clone_from(&settings.config);
        merged.env.clone_from(&settings.env);
        (merged.cpu, merged.wall) = (settings.cpu, settings.wall);
        merged.on_error = if settings.continues {
            OnError::Continue
        } else {
            OnError::Refuse
        };
        from = Some(settings);
    }
    let options = &merged;
    let mut input = input(options)?;
    if from.as_ref().is_some_and(|from| !from.reads_body) && options.data.is_some() {
        input.body = Body::Unread("write `body: {}` where the plugin is configured");
    }
    let status = StatusCode::from_u16(options.status)
        .map_err(|_| format!("invalid status {}", options.status))?;
    let response = SimulatedResponse {
        status,
        headers: headers(&options.response_headers)?,
        body: None,
        reason: None,
    };
    let config = object("--config", &options.config, r#"{"cookie": "ab"}"#)?;
    let config = Value::Object(config).to_string();
    let env = env(&options.env)?;
    let shown = options.file.display().to_string();
    let folder = shown.rsplit_once('/').map_or(".", |(folder, _)| folder);
    // Limits of a route with default settings.
    let reach = || FetchOrigins::new(&options.fetch, FETCH_DEADLINE, MAX_FETCHED_LEN);
    let fetch = (!options.fetch.is_empty()).then(reach);
    let fetch = match from {
        Some(from) => from.fetch,
        None => fetch.transpose()?,
    };
    let limits = HookLimits {
        cpu: options.cpu.0,
        wall: options.wall.0,
        ..HookLimits::default()
    };
    let loaded = Source::read(folder, &options.file)
        .and_then(|source| ManualPlugin::load_within(source, config, env, fetch, limits));
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
    let is_meant = trial.is_for(&input);
    let mut simulation = SimulatedRequest {
        options,
        trial,
        headers: input.headers.clone(),
        input,
        added: Vec::new(),
        target: None,
        upstream: None,
        is_well: true,
    };
    if !is_meant {
        simulation.say(&format!(
            "its `config.matcher` is not for this request to {}: no hook runs\n",
            simulation.input.url
        ));
        simulation.print_result(true, &response);
        return Ok(true);
    }
    let mut reply = simulation.request().await;
    if reply.is_none() {
        reply = simulation.sent().await;
    }
    let is_sent = reply.is_none();
    let mut head = if let Some(mut reply) = reply {
        header_changes::apply(&simulation.added, &mut reply.headers);
        reply
    } else {
        let mut response = response;
        simulation
            .on_response(Hook::UpstreamResponse, &mut response)
            .await;
        header_changes::apply(&simulation.added, &mut response.headers);
        response
    };
    simulation.on_response(Hook::Response, &mut head).await;
    simulation.logged(&head).await;
    simulation.print_result(is_sent, &head);
    Ok(simulation.is_well)
}

fn object(option: &str, text: &str, example: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(format!("`{option}` takes an object, such as {example}")),
        Err(error) => Err(format!("`{option}` is not JSON: {error}")),
    }
}

fn known(options: &PluginRunOptions) -> Result<ContextFacts, String> {
    let claims = options.jwt.as_deref();
    let claims = claims.map(|text| object("--jwt", text, r#"{"sub": "ann"}"#));
    let place = options.geo.as_deref();
    let place = place.map(|text| object("--geo", text, r#"{"country": "DE"}"#));
    Ok(ContextFacts {
        claims: claims.transpose()?.map(Arc::new),
        location: place
            .transpose()?
            .map(|place| ClientLocation::from_json(Value::Object(place).to_string())),
    })
}

/// The environment variables of these names, as an object in JSON.
fn env(names: &[String]) -> Result<String, String> {
    let mut all = serde_json::Map::new();
    for name in names {
        let value =
            std::env::var(name).map_err(|_| format!("the environment has no variable `{name}`"))?;
        all.insert(name.clone(), value.into());
    }
    Ok(Value::Object(all).to_string())
}

impl SimulatedRequest<'_> {
    fn say(&self, text: &str) {
        if !self.options.json {
            out::data(text);
        }
    }

    /// Returns the input of a hook that gets the request as it is forwarded.
    fn forwarded(&self) -> Input {
        Input {
            headers: self.headers.clone(),
            ..self.input.clone()
        }
    }

    /// Runs a hook if the plugin has it, and prints the result.
    async fn meet(&mut self, hook: Hook, input: Input) -> Option<Result<Output, Failure>> {
        if !self.trial.has(hook) {
            return None;
        }
        let mut ran = self.trial.run(hook, input).await;
        if let (Hook::Route, Ok(Output { result, .. })) = (hook, &ran.outcome)
            && let HookResult::Text(name) = result
            && !self.options.upstreams.is_empty()
            && !self.options.upstreams.contains(name)
        {
            ran.outcome = Err(Failure::script(format!("unknown upstream `{name}`")));
        }
        self.say(&printed(hook, &ran));
        self.is_well &= ran.outcome.is_ok();
        Some(ran.outcome)
    }

    /// Handles a failed hook that can end the request. Returns the response if it does.
    async fn failed(&mut self) -> Option<SimulatedResponse> {
        if self.options.on_error == OnError::Continue {
            self.say("                    the request goes on without it (`on_error: continue`)\n");
            return None;
        }
        self.say(
            "                    the request is refused: 503 plugin_failed (`on_error: refuse`)\n",
        );
        let mut head = SimulatedResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers: HeaderMap::new(),
            body: None,
            reason: Some(FAILED),
        };
        let input = Input {
            response: Some((head.status, HeaderMap::new())),
            reason: Some(Cow::Borrowed(FAILED)),
            ..self.forwarded()
        };
        let outcome = self.meet(Hook::Error, input).await;
        if let Some(Ok(Output {
            result: HookResult::Response(response),
            ..
        })) = outcome
        {
            let reason = head.reason;
            head = own(*response);
            head.reason = reason;
        }
        Some(head)
    }

    /// Runs the hooks before the request is forwarded. Returns the response if one of them ends the
    /// request.
    async fn request(&mut self) -> Option<SimulatedResponse> {
        match self.meet(Hook::Request, self.forwarded()).await {
            None => {}
            Some(Err(_)) => {
                if let Some(head) = self.failed().await {
                    return Some(head);
                }
            }
            Some(Ok(output)) => {
                if let HookResult::Response(response) = output.result {
                    return Some(own(*response));
                }
                if let HookResult::Rewrite(url) = &output.result
                    && let Ok(target) = rewritten(&self.input.url, url, Slashes::default())
                {
                    self.target = Some(String::from_utf8_lossy(&target).into_owned());
                }
                header_changes::apply_to_request(&output.request, &mut self.headers);
                self.added.extend(output.response);
            }
        }
        self.meet(Hook::CacheKey, self.forwarded()).await;
        match self.meet(Hook::Route, self.forwarded()).await {
            Some(Err(_)) => self.failed().await,
            Some(Ok(Output {
                result: HookResult::Text(name),
                ..
            })) => {
                self.upstream = Some(name);
                None
            }
            _ => None,
        }
    }

    /// Runs the hook before the backend. Returns the response if it ends the request.
    async fn sent(&mut self) -> Option<SimulatedResponse> {
        match self.meet(Hook::UpstreamRequest, self.forwarded()).await {
            None => None,
            Some(Err(_)) => self.failed().await,
            Some(Ok(output)) => {
                header_changes::apply_to_request(&output.request, &mut self.headers);
                None
            }
        }
    }

    /// Runs a response hook.
    async fn on_response(&mut self, hook: Hook, head: &mut SimulatedResponse) {
        let input = Input {
            response: Some((head.status, head.headers.clone())),
            ..self.input.clone()
        };
        let Some(Ok(output)) = self.meet(hook, input).await else {
            return;
        };
        header_changes::apply(&output.response, &mut head.headers);
        match output
            .status
            .map(|to| (to, header_changes::may_become(head.status, to)))
        {
            None => {}
            Some((to, Ok(()))) => head.status = to,
            Some((_, Err(failure))) => {
                self.say(&trace(&failure, "  "));
                self.is_well = false;
            }
        }
    }

    /// Runs the log hook, with the fields that are known without a gateway.
    async fn logged(&mut self, head: &SimulatedResponse) {
        let url = Url::parse(&self.input.url).ok();
        let entry = json!({
            "status": head.status.as_u16(),
            "method": self.input.method.as_str(),
            "host": url.as_ref().and_then(Url::host_str),
            "path": path_of(&self.input.url).split('?').next(),
            "client": self.input.ip,
            "id": self.input.request_id,
            "route": self.input.route,
            "reason": head.reason,
        });
        let input = Input {
            entry: Some(entry.to_string()),
            ..self.input.clone()
        };
        self.meet(Hook::Log, input).await;
    }

    /// Prints the resulting request and response as JSON.
    fn print_result(&self, is_sent: bool, head: &SimulatedResponse) {
        if !self.options.json {
            return;
        }
        let target = self.target.as_deref();
        let request = is_sent.then(|| {
            json!({
                "method": self.input.method.as_str(),
                "target": target.unwrap_or(path_of(&self.input.url)),
                "headers": lines(&self.headers),
                "upstream": self.upstream,
            })
        });
        let body = head.body.as_ref();
        let result = json!({
            "request": request,
            "response": {
                "status": head.status.as_u16(),
                "headers": lines(&head.headers),
                "body": body.map(|body| String::from_utf8_lossy(body)),
                "reason": head.reason,
            },
        });
        out::data(&format!("{result:#}\n"));
    }
}

/// Converts a plugin's own response to the form in which it is sent.
pub(super) fn own(response: Response) -> SimulatedResponse {
    let response = response.sent();
    SimulatedResponse {
        status: response.status,
        headers: response.headers,
        body: Some(response.body),
        reason: None,
    }
}

/// Each header with its values.
fn lines(headers: &HeaderMap) -> Value {
    let names = headers.keys();
    let all = names.map(|name| {
        let values = headers.get_all(name).iter().map(shown);
        (name.to_string(), values.collect::<Vec<_>>().into())
    });
    Value::Object(all.collect())
}

/// Path and query of a URL, as they were written.
fn path_of(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    rest.find('/').map_or("/", |begin| &rest[begin..])
}

/// Returns the URL with its path in the form that the gateway matches and forwards.
fn in_normal_form(url: String) -> Result<String, String> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let path = url[start..].find('/').map_or(url.len(), |at| start + at);
    let normal = target::normalise(&url.as_bytes()[path..], Slashes::Merge)
        .map_err(|why| format!("`{url}`: {why}; the gateway refuses it with 400"))?;
    let Some(rewritten) = normal.rewritten() else {
        return Ok(url);
    };
    Ok(format!(
        "{}{}",
        &url[..path],
        String::from_utf8_lossy(&rewritten)
    ))
}

fn input(options: &PluginRunOptions) -> Result<Input, String> {
    let method = Method::from_bytes(options.method.as_bytes())
        .map_err(|_| format!("invalid method `{}`; write one such as GET", options.method))?;
    let sent = headers(&options.headers)?;
    let host = sent.get(header::HOST).and_then(|host| host.to_str().ok());
    let absolute = match options.url.strip_prefix('/') {
        Some(path) => format!("http://{}/{path}", host.unwrap_or("localhost")),
        None => options.url.clone(),
    };
    let is_http = |url: &Url| url.has_host() && matches!(url.scheme(), "http" | "https");
    let url = Url::parse(&absolute).ok().filter(is_http);
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
    if sent.contains_key(header::HOST) {
        all.remove(header::HOST);
    }
    all.extend(sent);
    if let Some(data) = &options.data {
        if !all.contains_key(header::CONTENT_TYPE) {
            // The same default as in curl.
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            all.insert(header::CONTENT_TYPE, form);
        }
        all.insert(header::CONTENT_LENGTH, data.len().into());
    }
    // The path stays as written, because the gateway matches that form.
    let behind = absolute.split_once("://").map_or("", |(_, rest)| rest);
    let has_path = behind
        .find(['/', '?'])
        .is_some_and(|at| behind[at..].starts_with('/'));
    let url = match absolute.split_once('#') {
        _ if !has_path => url.to_string(),
        Some((absolute, _)) => absolute.to_owned(),
        None => absolute,
    };
    let url = in_normal_form(url)?;
    Ok(Input {
        method,
        url,
        body: match &options.data {
            None => Body::None,
            Some(_) if !body::is_read(&all) => Body::Unread(body::OTHER),
            Some(data) => Body::read(&data.clone().into(), body::MAX_BODY_LEN),
        },
        headers: all,
        ip: Some(options.client),
        request_id: "run".to_owned(),
        route: options.route.clone(),
        known: known(options)?,
        response: None,
        reason: None,
        entry: None,
        trace: None,
    })
}

fn headers(lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for text in lines {
        let bad = || format!("invalid header `{text}`; write one such as `Accept: text/html`");
        let (name, value) = text.split_once(':').ok_or_else(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
        headers.append(name, value);
    }
    Ok(headers)
}
