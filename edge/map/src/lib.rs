//! Routing core of the edge: FQDN map, pools, tenant states.
