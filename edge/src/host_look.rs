//! What the edge has of a host: why it goes where it goes, for the admin port and for clients that are trusted with it.

use hosting_edge_map::{Host, Leads, Millis, Node, Routing, parse_host};
use serde_json::{Map, Value, json};

use crate::certs::CertStore;
use crate::countries::Countries;

/// What the table has of a host, and what would become of a request for it now. `None`: there is no route, or this is no host.
pub(crate) fn look(
    routing: &Routing,
    certs: &CertStore,
    countries: &Countries,
    now: Millis,
    host: &str,
) -> Option<Value> {
    let Ok(Host::Name(name)) = parse_host(host.as_bytes()) else { return None };
    let found = routing.resolve(&name)?;
    let fields = |said: Vec<(&'static str, String)>| -> Map<String, Value> {
        said.into_iter().map(|(field, value)| (field.to_owned(), value.into())).collect()
    };
    let [own, of_tenant, of_brand] = found.policies.said().map(fields);
    let route = match name.split_once('.') {
        Some((_, above)) if found.is_below => format!("*.{above}"),
        _ => name.clone().into_owned(),
    };
    let mut shown = json!({
        "host": name,
        "route": route,
        "tenant": found.tenant.id(),
        "policy": own,
        "tenant_policy": of_tenant,
        "brand_policy": of_brand,
        "brand_pages": found.brand.iter().flat_map(|brand| brand.words()).collect::<Vec<_>>(),
        "has_certificate": certs.tenants().serves(&name),
    });
    let leads = match &found.leads {
        Leads::Site(target) => {
            let pool = target.candidates.pool();
            let nodes: Vec<Value> =
                target.candidates.order().iter().map(|node| shown_node(node, now)).collect();
            json!({"to": "site", "webroot": target.webroot, "shard": pool.name(), "nodes": nodes})
        }
        Leads::Suspended => json!({"to": "suspended"}),
        Leads::Unbound => json!({"to": "unbound"}),
        Leads::NoNode => json!({"to": "no node"}),
    };
    if let (Value::Object(shown), Value::Object(leads)) = (&mut shown, leads) {
        shown.extend(leads);
        if found.policies.asks_for_countries() {
            shown.insert("countries".to_owned(), countries.said().into());
        }
    }
    Some(shown)
}

fn shown_node(node: &Node, now: Millis) -> Value {
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    json!({
        "id": *node.id,
        "addresses": addresses,
        "answers": !node.is_down(),
        "in_rotation": !node.is_ejected(now),
        "requests": node.under_way(),
    })
}
