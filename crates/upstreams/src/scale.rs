//! Validated settings of `edgeway scale`. The gateway itself starts nothing: the command reads
//! these settings and does.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{Upstream, members::BackendSource, target::Target};
use crate::{
    chain::CompileContext,
    config::{model::UpstreamConfig, tree::Spanned},
};

const CODE: &str = "edgeway::upstream::bad_scale";

/// Placeholder `{port}` in the name of a unit.
const PORT: &str = "{port}";

/// Settings for starting the apps of an upstream: one unit for each port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Name of the unit, with `{port}` in it.
    pub unit: String,
    pub first_port: u16,
    pub last_port: u16,
    /// `system` or `user`.
    pub manager: Cow<'static, str>,
    pub address: IpAddr,
}

impl Scale {
    /// Compiles the settings; `None` if a problem was reported or nothing is configured.
    pub(super) fn compile(
        config: &UpstreamConfig,
        sources: &[BackendSource],
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let Spanned { value: written, .. } = config.scale.as_ref()?;
        let unit = unit(&written.unit, cx);
        let ports = ports(&written.ports, cx);
        let address = address(written.address.as_ref(), cx);
        let (first_port, last_port) = ports?;
        let scale = Self {
            unit: unit?,
            first_port,
            last_port,
            manager: written.manager.as_str().into(),
            address: address?,
        };
        scale.check_backends(config, sources, cx).then_some(scale)
    }

    /// Checks the backends, which the command counts: it must be able to start each of them.
    fn check_backends(
        &self,
        config: &UpstreamConfig,
        sources: &[BackendSource],
        cx: &mut CompileContext<'_>,
    ) -> bool {
        let place = config.scale.as_ref().map_or(cx.place, |scale| scale.place);
        let mut is_right = true;
        for source in sources {
            let is_own = matches!(
                source,
                BackendSource::Fixed { target: Target::Inet(at), .. } if self.may_be(*at)
            );
            if is_own {
                continue;
            }
            is_right = false;
            let (first, last) = (self.first_port, self.last_port);
            cx.at(place, CODE).error(
                format!("`scale` cannot start backend `{source}`"),
                format!(
                    "with `scale` every backend must be at `{}` with a port from {first} to \
                     {last}: change `scale.address` or `scale.ports`, or give the backend an \
                     upstream of its own",
                    self.address
                ),
            );
        }
        is_right
    }

    fn may_be(&self, address: SocketAddr) -> bool {
        address.ip() == self.address && (self.first_port..=self.last_port).contains(&address.port())
    }
}

impl Upstream {
    /// Returns the address and the ports of instances that commands start.
    fn instance_ports(&self) -> Option<(IpAddr, u16, u16)> {
        let releases = self.releases.as_ref();
        let releases = releases.map(|own| (own.address, own.first_port, own.last_port));
        let scale = self.scale.as_ref();
        releases.or_else(|| scale.map(|own| (own.address, own.first_port, own.last_port)))
    }

    /// Returns true if `edgeway deploy` and `edgeway scale` may start instances of both apps on one
    /// port.
    pub fn shares_ports(&self, other: &Self) -> bool {
        let ports = self.instance_ports().zip(other.instance_ports());
        ports.is_some_and(|((own_ip, first, last), (ip, other_first, other_last))| {
            own_ip == ip && first <= other_last && other_first <= last
        })
    }
}

pub(super) fn unit(written: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<String> {
    let name = written.value.as_str();
    if !name.contains(PORT) {
        return cx.at(written.place, CODE).refuse(
            format!("unit `{name}` is the same for every port"),
            "write `{port}` in place of the port, such as `node-app@{port}.service`",
        );
    }
    // systemd.unit(5): the characters of a unit's name.
    let is_name = !name.starts_with('-')
        && name
            .replace(PORT, "1")
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
    if !is_name {
        return cx.at(written.place, CODE).refuse(
            format!("invalid unit name `{name}`"),
            "write letters, digits and `:-_.\\@`, such as `node-app@{port}.service`",
        );
    }
    Some(name.to_owned())
}

pub(super) fn ports(written: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<(u16, u16)> {
    let text = written.value.as_str();
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)))
        .filter(|(first, last): &(u16, u16)| *first > 0 && first <= last);
    if range.is_none() {
        cx.at(written.place, CODE).error(
            format!("invalid port range `{text}`"),
            "write the first and the last port, such as `3000-3031`",
        );
    }
    range
}

pub(super) fn address(
    written: Option<&Spanned<String>>,
    cx: &mut CompileContext<'_>,
) -> Option<IpAddr> {
    let Some(written) = written else {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    };
    let address = written.value.parse().ok();
    let address = address.filter(|address: &IpAddr| !address.is_unspecified());
    if address.is_none() {
        cx.at(written.place, CODE).error(
            format!("invalid address `{}`", written.value),
            "write an IP address without a port, such as `127.0.0.1`",
        );
    }
    address
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;

    #[track_caller]
    fn messages(backends: &str, scale: &str) -> Vec<String> {
        let yaml = format!("{{ backends: {backends}, scale: {scale} }}");
        let (upstream, diagnostics) = Bench::new().try_compile(&yaml);
        assert_eq!(upstream.is_none(), diagnostics.has_errors());
        let list = diagnostics.list().iter();
        list.map(|d| d.message.clone()).collect()
    }

    #[test]
    fn the_configured_scale_is_in_the_status() {
        let upstream = Bench::new().upstream(
            "{ backends: ['127.0.0.1:3000'], \
             scale: { unit: 'node-app@{port}.service', ports: 3000-3031, manager: user } }",
        );
        let status = serde_json::to_value(upstream.snapshot()).unwrap();
        assert_eq!(
            status["scale"],
            serde_json::json!({
                "unit": "node-app@{port}.service", "first_port": 3000, "last_port": 3031,
                "manager": "user", "address": "127.0.0.1",
            })
        );
    }

    #[test]
    fn mistakes_are_reported_all_at_once() {
        assert_eq!(
            messages(
                "['127.0.0.1:3000']",
                "{ unit: app, ports: '3001', address: 0.0.0.0 }"
            ),
            [
                "unit `app` is the same for every port",
                "invalid port range `3001`",
                "invalid address `0.0.0.0`",
            ]
        );
        for ports in ["0-5", "3005-3000", "a-b", "3000-70000"] {
            let scale = format!("{{ unit: 'a@{{port}}', ports: {ports} }}");
            let expected = format!("invalid port range `{ports}`");
            assert_eq!(messages("['127.0.0.1:3000']", &scale), [expected]);
        }
        for unit in ["--now@{port}", "a b@{port}", "a@{port};reboot", "a/{port}"] {
            let scale = format!("{{ unit: '{unit}', ports: 3000-3031 }}");
            let expected = format!("invalid unit name `{unit}`");
            assert_eq!(messages("['127.0.0.1:3000']", &scale), [expected]);
        }
    }

    #[test]
    fn every_backend_is_one_that_could_be_started() {
        assert_eq!(
            messages(
                "['127.0.0.1:3000', '127.0.0.1:2999', '10.0.0.1:3001', 'unix:/run/a.sock', { dns: 'a:3002' }]",
                "{ unit: 'a@{port}', ports: 3000-3031 }"
            ),
            [
                "`scale` cannot start backend `127.0.0.1:2999`",
                "`scale` cannot start backend `10.0.0.1:3001`",
                "`scale` cannot start backend `unix:/run/a.sock`",
                "`scale` cannot start backend `a:3002`",
            ]
        );
    }
}
