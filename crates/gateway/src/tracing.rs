//! Checks the `tracing:` section and creates its exporter, which is kept as long as what it needs is
//! unchanged.

use std::{path::Path, sync::Arc, time::Duration};

use edgeway_base::{named_file, secret};
use edgeway_config::{
    diagnostic::Place,
    model::{TraceTrust, TracingConfig, TracingProtocol},
    tree::Spanned,
};
use edgeway_core_filters::access_log::{self, Redactor};
use edgeway_tracing::{ExportSettings, ParentTrust, SamplingRules, Tracing, Transport};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::{compile::Compiler, effective};

const TIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_mins(1);
const QUEUE: std::ops::RangeInclusive<u32> = 1..=65_536;
/// Path of OTLP over HTTP for traces.
const TRACES: &str = "/v1/traces";
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// Tracing of a gateway, and what is left out of its spans.
pub struct GatewayTracing {
    pub tracing: Tracing,
    pub redact: Redactor,
}

impl Compiler<'_> {
    pub(super) fn tracing(&mut self) -> Option<GatewayTracing> {
        let Spanned { value, place } = self.file.tracing.as_ref()?;
        let (settings, rules) =
            self.checked(|own| (own.export_settings(value, *place), own.sampling(value)))?;
        let settings = settings?;
        let world = self.world;
        let exporter = world.exporters.get_or_create(settings, &world.metrics);
        let started = Arc::clone(&exporter);
        self.work.add("tracing", move || {
            let started = Arc::clone(&started);
            async move { started.start() }
        });
        Some(GatewayTracing {
            tracing: Tracing::new(rules, exporter, &world.clock),
            redact: self.span_redactor(),
        })
    }

    /// Returns the redactor for queries: what any route's access log leaves out, spans do as well.
    fn span_redactor(&self) -> Redactor {
        let file = self.file;
        let mut filters: Vec<&[_]> = file.routes.iter().map(|node| &node.filters[..]).collect();
        filters.push(&[]);
        let words = filters
            .into_iter()
            .flat_map(|filters| effective::filters(file, Place::default(), filters))
            .filter(|(entry, _)| entry.name == "access_log")
            .flat_map(|(_, node)| access_log::redacted_words(&node));
        let secret = self.secret_names.iter().map(|name| format!("={name}"));
        let names = secret::NAMES.split(' ').map(str::to_owned);
        Redactor::new(words.chain(secret).chain(names))
    }

    fn sampling(&mut self, config: &TracingConfig) -> SamplingRules {
        let slow = &config.slow;
        if slow.value.0.is_some_and(|slow| slow.0.is_zero()) {
            self.at(slow.place, "edgeway::tracing::slow").error(
                "`slow: 0s` would trace every request",
                "write a duration such as `1s`, `slow: false` for none, or `sample: 100%` for \
                 every request",
            );
        }
        SamplingRules {
            ratio: config.sample.value.0 / 100.0,
            slow: slow.value.0.map(|slow| slow.0),
            errors: config.errors,
            trust: match config.trust {
                TraceTrust::Proxies => ParentTrust::Proxies,
                TraceTrust::All => ParentTrust::All,
                TraceTrust::None => ParentTrust::Nobody,
            },
        }
    }

    fn export_settings(&mut self, config: &TracingConfig, place: Place) -> Option<ExportSettings> {
        let errors = self.diagnostics.errors();
        let endpoint = self.collector(config);
        let headers = self.collector_headers(config);
        for (name, time) in [("timeout", &config.timeout), ("interval", &config.interval)] {
            if !TIMES.contains(&time.value.0) {
                self.at(time.place, "edgeway::tracing::time").error(
                    format!("`{name}: {}` is out of range", time.value),
                    "write from `100ms` to `1min`, such as `5s`",
                );
            }
        }
        if !QUEUE.contains(&config.queue.value) {
            self.at(config.queue.place, "edgeway::tracing::queue")
                .error(
                    format!("`queue: {}` is out of range", config.queue.value),
                    "write a number of requests from 1 to 65536, such as 1024",
                );
        }
        let name = &config.service_name;
        if name.value.trim().is_empty() {
            self.at(name.place, "edgeway::tracing::service_name").error(
                "the name of the service is empty",
                "write a name such as `edgeway`",
            );
        }
        for (key, value) in &config.resource {
            if key.is_empty() || key == "service.name" {
                self.at(value.place, "edgeway::tracing::resource").error(
                    format!("invalid attribute `{key}`"),
                    "write a name such as `deployment.environment.name`; that of the service is \
                     `service_name`",
                );
            }
        }
        let is_tls = endpoint
            .as_deref()
            .is_some_and(|url| url.starts_with("https:"));
        let ca = self.collector_ca(config, is_tls);
        if self.diagnostics.errors() > errors {
            return None;
        }
        let settings = ExportSettings {
            endpoint: endpoint?,
            transport: match config.protocol.value {
                TracingProtocol::Grpc => Transport::Grpc,
                TracingProtocol::Http => Transport::Http,
            },
            headers,
            ca,
            service_name: name.value.clone(),
            version: edgeway_base::VERSION,
            resource: config
                .resource
                .iter()
                .map(|(key, value)| (key.clone(), value.value.clone()))
                .collect(),
            timeout: config.timeout.value.0,
            interval: config.interval.value.0,
            queue: usize::try_from(config.queue.value).unwrap_or(1),
        };
        if let Err(error) = settings.check() {
            return self.at(place, "edgeway::tracing::endpoint").refuse(
                format!("cannot connect with these settings: {error}"),
                "check `endpoint`, and the file of `tls`: CA certificates in PEM",
            );
        }
        Some(settings)
    }

    /// Returns the URL of the collector.
    fn collector(&mut self, config: &TracingConfig) -> Option<String> {
        let (code, protocol) = ("edgeway::tracing::endpoint", config.protocol.value);
        let Spanned { value, place } = &config.endpoint;
        let example = match protocol {
            TracingProtocol::Grpc => "http://127.0.0.1:4317",
            TracingProtocol::Http => "http://127.0.0.1:4318",
        };
        let url = value.parse::<Uri>().ok().filter(|url| {
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.host().is_some_and(|host| !host.is_empty())
        });
        let Some(url) = url else {
            return self.at(*place, code).refuse(
                format!(
                    "invalid URL of a collector `{}`",
                    secret::without_shapes(value)
                ),
                format!("write `{example}`, or `https://` with TLS"),
            );
        };
        if url
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
            || url.query().is_some()
        {
            return self.at(*place, code).refuse(
                "the URL of a collector has a user or a query",
                "leave it out; a key goes into `headers: { NAME: file:PATH }`",
            );
        }
        let path = url.path().trim_end_matches('/');
        if protocol == TracingProtocol::Grpc && !path.is_empty() {
            return self.at(*place, code).refuse(
                format!("OTLP over gRPC has no path such as `{path}`"),
                "leave the path out, or write `protocol: http`",
            );
        }
        let (usual, other) = match protocol {
            TracingProtocol::Grpc => (HTTP_PORT, "http"),
            TracingProtocol::Http => (GRPC_PORT, "grpc"),
        };
        if url.port_u16() == Some(usual) {
            self.at(*place, "edgeway::tracing::port").warn(
                format!("port {usual} is usually for `protocol: {other}`"),
                format!("write `protocol: {other}`, or {example} if it is a mistake"),
            );
        }
        let base = value.trim_end_matches('/');
        Some(match protocol {
            TracingProtocol::Grpc => base.to_owned(),
            TracingProtocol::Http if path.ends_with(TRACES) => base.to_owned(),
            TracingProtocol::Http => format!("{base}{TRACES}"),
        })
    }

    fn collector_headers(&mut self, config: &TracingConfig) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let secret = value.value.reveal();
            let text = HeaderValue::from_str(secret).ok();
            match (HeaderName::try_from(name.as_str()), text) {
                (Ok(name), Some(mut value)) if !is_reserved(&name) && !secret.is_empty() => {
                    value.set_sensitive(true);
                    headers.append(name, value);
                }
                _ => self.at(value.place, "edgeway::tracing::headers").error(
                    format!("the header `{name}` cannot be sent to a collector"),
                    "write a header such as `authorization` with a value in plain text on one line",
                ),
            }
        }
        headers
    }

    fn collector_ca(&mut self, config: &TracingConfig, is_tls: bool) -> Option<Vec<u8>> {
        let tls = config.tls.as_ref()?;
        if !is_tls {
            return self.at(tls.place, "edgeway::tracing::tls").refuse(
                "`tls` has no effect on a URL with `http://`",
                "write `endpoint: https://…`, or remove `tls`",
            );
        }
        let Spanned { value, place } = tls.value.ca.as_ref()?;
        let path = self.folder.join(value);
        self.referenced.missed(path.clone());
        match named_file::read(&path, named_file::MAX_LEN) {
            Ok(pem) => Some(pem),
            Err(error) => self.at(*place, "edgeway::tracing::tls").refuse(
                format!("cannot read `{}`: {error}", Path::new(value).display()),
                "write the path of a file in PEM, from the folder of the configuration",
            ),
        }
    }
}

/// Returns true for headers that the protocol itself writes.
fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: &str = "connection content-encoding content-length content-type host te \
        transfer-encoding";
    let name = name.as_str();
    RESERVED.split(' ').any(|one| one == name) || name.starts_with("grpc-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gateway, World, compile, load_text};

    fn gateway(section: &str, world: &World) -> (Option<Gateway>, Vec<String>) {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\nroutes: [{{ match: {{}}, respond: ok }}]\n\
             tracing: {section}\n"
        );
        let mut loaded = load_text("t.yaml", &yaml);
        let Some(file) = loaded.file.take() else {
            let found = loaded.diagnostics.list().iter();
            return (
                None,
                found
                    .map(|d| format!("{}: {}", d.code, d.message))
                    .collect(),
            );
        };
        let (gateway, diagnostics) = compile(&file, Path::new("."), world);
        let messages = diagnostics.list().iter();
        let messages = messages
            .map(|d| format!("{}: {}", d.code, d.message))
            .collect();
        (gateway, messages)
    }

    #[track_caller]
    fn settings(section: &str) -> (ExportSettings, SamplingRules) {
        let (gateway, messages) = gateway(section, &World::default());
        let gateway = gateway.unwrap_or_else(|| panic!("{messages:?}"));
        let tracing = gateway.tracing.unwrap().tracing;
        (tracing.exporter.settings.clone(), tracing.rules)
    }

    #[test]
    fn an_endpoint_is_enough() {
        let (settings, rules) = settings("{ endpoint: 'http://127.0.0.1:4317/' }");
        assert_eq!(settings.endpoint, "http://127.0.0.1:4317");
        assert_eq!(settings.transport, Transport::Grpc);
        assert_eq!(settings.service_name, "edgeway");
        assert_eq!((rules.ratio, rules.errors), (0.01, true));
        assert_eq!(rules.slow, Some(Duration::from_secs(1)));
        assert_eq!(rules.trust, ParentTrust::Proxies);
    }

    #[test]
    fn the_path_of_http_is_completed() {
        for (written, expected) in [
            ("http://a:4318", "http://a:4318/v1/traces"),
            ("http://a/otlp/", "http://a/otlp/v1/traces"),
            ("https://a/x/v1/traces", "https://a/x/v1/traces"),
        ] {
            let section = format!("{{ endpoint: '{written}', protocol: http, slow: false }}");
            let (settings, rules) = settings(&section);
            assert_eq!(settings.endpoint, expected);
            assert_eq!(rules.slow, None);
        }
    }

    #[test]
    fn an_impossible_section_is_reported_with_its_reason() {
        for (more, expected) in [
            (
                "endpoint: '127.0.0.1:4317'",
                "endpoint: invalid URL of a collector `127.0.0.1:4317`",
            ),
            (
                "endpoint: 'grpc://a'",
                "endpoint: invalid URL of a collector `grpc://a`",
            ),
            (
                "endpoint: 'http://u:hunter2@a'",
                "endpoint: the URL of a collector has a user or a query",
            ),
            (
                "endpoint: 'http://a?key=1', protocol: http",
                "endpoint: the URL of a collector has a user or a query",
            ),
            (
                "endpoint: 'http://a/v1/traces'",
                "endpoint: OTLP over gRPC has no path such as `/v1/traces`",
            ),
            (
                "endpoint: 'http://a:4318'",
                "port: port 4318 is usually for `protocol: http`",
            ),
            (
                "endpoint: 'http://a:4317', protocol: http",
                "port: port 4317 is usually for `protocol: grpc`",
            ),
            (
                "endpoint: http://a, timeout: 1ms",
                "time: `timeout: 1ms` is out of range",
            ),
            (
                "endpoint: http://a, interval: 1h",
                "time: `interval: 1h` is out of range",
            ),
            (
                "endpoint: http://a, queue: 0",
                "queue: `queue: 0` is out of range",
            ),
            (
                "endpoint: http://a, slow: 0s",
                "slow: `slow: 0s` would trace every request",
            ),
            (
                "endpoint: http://a, service_name: ''",
                "service_name: the name of the service is empty",
            ),
            (
                "endpoint: http://a, resource: { service.name: x }",
                "resource: invalid attribute `service.name`",
            ),
            (
                "endpoint: http://a, headers: { 'a b': x }",
                "headers: the header `a b` cannot be sent to a collector",
            ),
            (
                "endpoint: http://a, headers: { grpc-timeout: x }",
                "headers: the header `grpc-timeout` cannot be sent to a collector",
            ),
            (
                "endpoint: http://a, tls: { ca: x.pem }",
                "tls: `tls` has no effect on a URL with `http://`",
            ),
            (
                "endpoint: https://a, tls: { ca: nowhere.pem }",
                "tls: cannot read `nowhere.pem`: No such file or directory (os error 2)",
            ),
        ] {
            let (_, messages) = gateway(&format!("{{ {more} }}"), &World::default());
            assert_eq!(
                messages,
                [format!("edgeway::tracing::{expected}")],
                "{more}"
            );
        }
        for more in ["sample: 1", "sample: 101%", "slow: 5", "trust: any"] {
            let section = format!("{{ endpoint: http://a, {more} }}");
            let (_, messages) = gateway(&section, &World::default());
            assert!(messages[0].starts_with("edgeway::config::"), "{messages:?}");
        }
    }

    #[test]
    fn the_exporter_is_kept_while_its_settings_are_the_same() {
        let world = World::default();
        let exporter = |section: &str| {
            let (gateway, messages) = gateway(section, &world);
            let gateway = gateway.unwrap_or_else(|| panic!("{messages:?}"));
            Arc::clone(&gateway.tracing.unwrap().tracing.exporter)
        };
        let first = exporter("{ endpoint: http://a }");
        let sampled = exporter("{ endpoint: http://a, sample: 100% }");
        assert!(Arc::ptr_eq(&first, &sampled));
        let other = exporter("{ endpoint: http://a, service_name: shop }");
        assert!(!Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn a_key_of_a_collector_is_never_shown() {
        let section = "{ endpoint: http://a, headers: { x-key: hunter2 } }";
        let (settings, _) = settings(section);
        assert_eq!(settings.headers["x-key"], "hunter2");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
