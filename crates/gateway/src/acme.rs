//! Certificate names of the listeners that ACME is used for.

use std::sync::Arc;

use edgeway_config::diagnostic::Place;
use edgeway_tls::acme::{Acme, ListenerUse, ListenerUses};

use super::{ListenAddress, Listener, compile::Compiler};

impl Compiler<'_> {
    pub(super) fn acme(&mut self, listeners: &[Arc<Listener>]) -> Option<Arc<Acme>> {
        let file = self.file;
        let mut uses = ListenerUses::default();
        for listener in &file.listeners {
            let config = &listener.value;
            let text = config.address.value.as_str();
            uses.addresses.push(text);
            let address: Option<ListenAddress> = text.parse().ok();
            let port = address.as_ref().and_then(ListenAddress::port);
            let port = port.unwrap_or_default();
            let Some(tls) = &config.tls else {
                uses.plain_ports.push(port);
                continue;
            };
            let compiled = listeners.iter().find(|listener| {
                address
                    .as_ref()
                    .is_some_and(|a| a.is_same(&listener.address))
            });
            uses.names.push(ListenerUse {
                names: &tls.value.acme,
                port,
                certificates: compiled
                    .and_then(|listener| listener.tls.as_ref())
                    .map(|tls| Arc::clone(&tls.certificates)),
            });
        }
        let world = self.world;
        let mut cx = self.cx(Place::default(), "");
        Acme::compile(file.acme.as_ref(), &uses, &world.zones, &mut cx)
    }
}
