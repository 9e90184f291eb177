//! Values that are refused. Tables and upstreams are tested with whole configurations, in
//! `gateway::maps`.

use edgeway_core::chain::testkit::refused;

use super::UpstreamBy;

#[test]
fn a_client_cannot_name_an_upstream() {
    for value in ["web", "{header.x-pool}", "{query.pool}"] {
        let messages = refused::<UpstreamBy>(&format!("'{value}'"));
        let expected = format!("`{value}` is no lookup table: clients could choose any upstream");
        assert!(messages[0].starts_with(&expected), "{messages:?}");
    }
    let messages = refused::<UpstreamBy>("'{map.pool}'");
    assert!(
        messages[0].starts_with("unknown map `pool`"),
        "{messages:?}"
    );
}
