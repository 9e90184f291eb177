//! Addresses of listeners that nginx can have and the result cannot, or is to have otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{Listener, Servers};

impl Servers<'_> {
    /// Adds a number to the ports of all listeners.
    ///
    /// # Errors
    /// Returns a message for a port that there is not.
    pub(in crate::nginx) fn shift(&mut self, number: u16) -> Result<(), String> {
        for listener in self.listeners.iter_mut().filter(|_| number > 0) {
            let Some((host, port)) = listener.address.rsplit_once(':') else {
                continue;
            };
            let Ok(port) = port.parse::<u16>() else {
                // The socket of nginx stays its own.
                listener.address.push_str(".edgeway");
                continue;
            };
            listener.address = format!("{host}:{}", crate::shifted(port, number)?);
        }
        Ok(())
    }

    /// Leaves out addresses of a port that another listener has for all addresses: the system lets
    /// only one of them listen.
    pub(super) fn overlapping(&mut self) {
        let all = |listener: &Listener<'_>| {
            let address = listener.address.as_str();
            let any = ["0.0.0.0:", ":"]
                .iter()
                .find_map(|any| address.strip_prefix(any));
            any.map(|port| (port.to_owned(), listener.name.clone()))
        };
        let wide: BTreeMap<String, String> = self.listeners.iter().filter_map(all).collect();
        let wide_of = |listener: &Listener<'_>| {
            let (host, port) = listener.address.rsplit_once(':')?;
            let is_narrow = !host.is_empty()
                && host
                    .parse::<Ipv4Addr>()
                    .is_ok_and(|host| !host.is_unspecified());
            wide.get(port).filter(|_| is_narrow).cloned()
        };
        let narrow: Vec<(String, String)> = self
            .listeners
            .iter()
            .filter_map(|listener| Some((listener.name.clone(), wide_of(listener)?)))
            .collect();
        for (name, wide) in narrow {
            for server in &mut self.list {
                if !server.listeners.contains(&name) {
                    continue;
                }
                server.listeners.retain(|listener| *listener != name);
                if server.listeners.contains(&wide) {
                    continue;
                }
                // What only some clients could reach must not be open to all.
                server.is_unreachable = true;
                server
                    .directive
                    .closed("its address is one of another listener, which has all");
                server.listeners.push(wide.clone());
            }
            self.listeners.retain(|listener| listener.name != name);
        }
        let others = self.list.iter().filter(|server| !server.is_unreachable);
        let others: BTreeSet<String> = others.flat_map(|server| server.hosts.clone()).collect();
        for server in self.list.iter_mut().filter(|server| server.is_unreachable) {
            server.hosts.retain(|host| !others.contains(host));
        }
    }
}
