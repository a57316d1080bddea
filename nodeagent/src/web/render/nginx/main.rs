//! The main configuration.

use std::fmt::Write as _;

use hosting_agent_engine::{ConfigLayout, Place, Root, Secret};
use hosting_intent::ALIVE_PATH;

use super::{
    super::{BadValue, fingerprint, word},
    FASTCGI, MARK, NO_SUCH_SITE, Rendered,
    content::TYPES,
    path,
};
use crate::web::layout::{Layout, PROBE_PATH};

/// What an edge adds to a visitor's header fields, in bytes at most.
const EDGE_FIELDS: usize = 16 * 1024;

/// Most of a request's header fields that one FastCGI record takes (16-bit length, FastCGI 1.0 §3.3), with room for
/// the parameters of our own.
const RECORD_FIELDS: usize = 62 * 1024;

/// Request bodies up to this size, in bytes, are held in memory; larger ones are written to disk and count as uploads.
const BODY_IN_MEMORY: usize = 64 * 1024;

/// The main configuration; the sites' blocks go where [`ConfigLayout::INCLUDE`] stands. With a key, nobody who does not
/// show it gets anything of a site.
///
/// # Errors
/// A value that must not stand in the file.
pub fn main(layout: &Layout, key: Option<&Secret>) -> Result<Rendered, BadValue> {
    let node = word("node id", &layout.node_id, 128)?;
    let run = |name: &str| path("run folder", layout, &Place::new(Root::Run, ["nginx", name]));
    let log = |name: &str| path("log folder", layout, &Place::new(Root::Logs, ["nginx", name]));
    let temp = |name: &str| path("temp folder", layout, &Place::new(Root::Temp, ["nginx", name]));
    let web = &layout.web;

    let mut text = String::from("# Written by the node agent; changes made here are overwritten.\n");
    if let Some(user) = &layout.site_user {
        let _ = writeln!(
            text,
            "user {} {};",
            word("site user", &user.name, 32)?,
            word("site group", &user.group, 32)?
        );
    }
    let _ = write!(
        text,
        "daemon off;
worker_processes {workers};
worker_shutdown_timeout {shutdown}ms;
pid {pid};
error_log {error_log} warn;
events {{ worker_connections {connections}; }}
http {{
  server_tokens off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 75s;
  keepalive_requests 100000;
  absolute_redirect off;
  server_names_hash_bucket_size 128;
  server_names_hash_max_size 65536;
  variables_hash_max_size 2048;
  map_hash_bucket_size 256;
  client_header_buffer_size 4k;
  large_client_header_buffers 4 {fields};
  client_max_body_size {body_bytes};
  client_body_buffer_size {BODY_IN_MEMORY};
  client_body_temp_path {body};
  proxy_temp_path {proxy};
  fastcgi_temp_path {fastcgi};
  uwsgi_temp_path {uwsgi};
  scgi_temp_path {scgi};
  fastcgi_max_temp_file_size 0;
  fastcgi_hide_header X-Hosting-Request;
  fastcgi_buffer_size {fields};
  fastcgi_buffers {buffers} 32k;
  fastcgi_busy_buffers_size {fields};
  default_type application/octet-stream;
  types {{
{TYPES}  }}
  real_ip_header X-Forwarded-For;
",
        workers = layout.workers.clamp(1, 512),
        connections = web.connections,
        shutdown = web.shutdown_timeout.as_millis(),
        pid = run("nginx.pid")?,
        error_log = log("error.log")?,
        fields = web.header_bytes + EDGE_FIELDS,
        // nginx wants them to hold a header and two more.
        buffers = 8.max((web.header_bytes + EDGE_FIELDS).div_ceil(32 * 1024) + 2),
        body_bytes = web.body_bytes,
        body = temp("body")?,
        proxy = temp("proxy")?,
        fastcgi = temp("fastcgi")?,
        uwsgi = temp("uwsgi")?,
        scgi = temp("scgi")?,
    );
    admission(&mut text, layout, key)?;
    uploads(&mut text, layout);
    let _ = write!(
        text,
        r#"  map "$hosting_edge/$http_x_hosting_host" $hosting_host {{
    default $host;
    "~^1/(?<hosting_name>[A-Za-z0-9._-]+)(?::[0-9]+)?$" $hosting_name;
  }}
  map "$hosting_edge/$http_x_hosting_host" $hosting_authority {{
    default $host;
    "~^1/(?<hosting_full>[A-Za-z0-9._-]+(?::[0-9]+)?)$" $hosting_full;
  }}
  map "$hosting_edge/$http_x_forwarded_proto" $hosting_https {{ default ""; "1/https" on; }}
  map $hosting_https $hosting_scheme {{ default http; on https; }}
  map "$hosting_https/$hosting_authority" $hosting_port {{
    default 80;
    "~:(?<hosting_given>[0-9]+)$" $hosting_given;
    "~^on/" 443;
  }}
  log_format hosting escape=json '{{"time":"$time_iso8601","remote_addr":"$hosting_visitor","method":"$request_method",'
    '"uri":"$request_uri","status":$status,"bytes_sent":$bytes_sent,"request_time":$request_time,'
    '"upstream_time":"$upstream_response_time","http_referer":"$http_referer",'
    '"http_user_agent":"$http_user_agent","host":"$hosting_host","server_name":"$server_name",'
    '"tenant":"$hosting_tenant"}}';
  access_log {access_log} hosting;
"#,
        access_log = log("access.log")?,
    );
    for (name, value) in FASTCGI {
        let _ = writeln!(text, "  fastcgi_param {name} {value};");
    }
    text.push_str("  server {\n");
    for address in &layout.listen {
        let _ = writeln!(text, "    listen {address} default_server;");
    }
    let proof = fingerprint(&["main", &text]);
    let _ = write!(
        text,
        r#"    server_name _;
    set $hosting_tenant "";
    set $hosting_path_info "";
    default_type text/plain;
    keepalive_timeout 0;
    add_header X-Served-By {node} always;
    {MARK}
    location = {PROBE_PATH} {{
      if ($hosting_probe = 0) {{ return 421 {NO_SUCH_SITE}; }}
      access_log off;
      return 200 {proof};
    }}
    location = {ALIVE_PATH} {{
      access_log off;
      return 204;
    }}
    location / {{ return 421 {NO_SUCH_SITE}; }}
  }}
  include {include};
}}
"#,
        include = ConfigLayout::INCLUDE,
    );
    Ok(Rendered { text, fingerprint: proof })
}

/// Who is an edge, and whose requests are answered at all.
fn admission(text: &mut String, layout: &Layout, key: Option<&Secret>) -> Result<(), BadValue> {
    let token = word("probe token", &layout.probe_token.0, 128)?;
    let networks = layout.edges.iter().map(|edge| network(edge)).collect::<Result<Vec<_>, _>>()?;
    // A key needs no addresses beside it; without one, and without addresses, nobody is an edge.
    let anywhere = networks.is_empty() && key.is_some();
    for trusted in if anywhere { &["0.0.0.0/0", "::/0"][..] } else { &networks } {
        let _ = writeln!(text, "  set_real_ip_from {trusted};");
    }
    let _ = writeln!(text, "  geo $realip_remote_addr $hosting_near {{\n    default {};", u8::from(anywhere));
    for edge in networks {
        let _ = writeln!(text, "    {edge} 1;");
    }
    let _ =
        write!(text, "  }}\n  map $http_x_hosting_probe $hosting_probe {{ default 0; \"{token}\" 1; }}\n");
    let _ = match key {
        Some(key) => write!(
            text,
            "  map $http_x_hosting_key $hosting_key {{ default 0; \"{}\" 1; }}
  map $hosting_near$hosting_key $hosting_edge {{ default 0; 11 1; }}
  map $hosting_probe$hosting_edge $hosting_admitted {{ default 0; \"~1\" 1; }}
",
            word("edge key", &key.0, 128)?
        ),
        None => write!(
            text,
            "  map $hosting_near $hosting_edge {{ default 0; 1 1; }}
  map $hosting_edge $hosting_admitted {{ default 1; }}
"
        ),
    };
    text.push_str(
        "  map $hosting_admitted $hosting_visitor { default $realip_remote_addr; 1 $remote_addr; }\n",
    );
    Ok(())
}

/// What large requests may cost: header fields that fit one FastCGI record, and few bodies on disk at the same time.
fn uploads(text: &mut String, layout: &Layout) {
    let _ = write!(
        text,
        r#"  map $request_length $hosting_fields_fit {{ default 0; {fits} 1; }}
  map "$http_transfer_encoding/$content_length" $hosting_upload {{
    default 1;
    "/" 0;
    {small} 0;
  }}
  map $hosting_upload $hosting_upload_site {{ default ""; 1 $server_name; }}
  map $remote_addr $hosting_network {{ default $remote_addr; "~^(?<hosting_net>(?:[0-9a-f]{{1,4}}:){{1,4}}):" $hosting_net;
    "~^(?<hosting_net>(?:[0-9a-f]{{1,4}}:){{4}})" $hosting_net; }}
  map $hosting_upload $hosting_upload_visitor {{ default ""; 1 $hosting_network; }}
  limit_conn_zone $hosting_upload_site zone=uploads_site:8m;
  limit_conn_zone $hosting_upload_visitor zone=uploads_visitor:8m;
  limit_conn uploads_site {site};
  limit_conn uploads_visitor {visitor};
  limit_conn_status 429;
"#,
        fits = below("^", RECORD_FIELDS),
        small = below("^/", BODY_IN_MEMORY),
        site = layout.web.uploads_per_site,
        visitor = layout.web.uploads_per_visitor,
    );
}

/// A pattern for `prefix` and a number below `most`, rounded down to its first two digits: a map compares texts only.
fn below(prefix: &str, most: usize) -> String {
    let digits = most.to_string();
    let (first, rest) = digits.split_at(1.min(digits.len()));
    let (first, second) = (
        first.parse::<u32>().unwrap_or_default(),
        rest.get(..1).and_then(|digit| digit.parse::<u32>().ok()).unwrap_or_default(),
    );
    let tail = rest.len().saturating_sub(1);
    let mut forms = vec![format!("[0-9]{{1,{}}}", digits.len().saturating_sub(1).max(1))];
    if first > 1 {
        forms.push(format!("[1-{}][0-9]{{{}}}", first - 1, rest.len()));
    }
    if second > 0 {
        forms.push(format!("{first}[0-{}][0-9]{{{tail}}}", second - 1));
    }
    format!("\"~{prefix}(?:{})$\"", forms.join("|"))
}

/// `address` or `address/bits`.
pub(crate) fn network(edge: &str) -> Result<&str, BadValue> {
    let bad = || BadValue::new("edge network", format!("{edge:?} must be an address or address/bits"));
    let (address, bits) = edge.split_once('/').map_or((edge, None), |(address, bits)| (address, Some(bits)));
    let address: std::net::IpAddr = address.parse().map_err(|_| bad())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if let Some(bits) = bits {
        let fits = !bits.is_empty() && bits.len() <= 3 && bits.parse::<u8>().is_ok_and(|bits| bits <= most);
        if !fits || bits.starts_with('+') {
            return Err(bad());
        }
    }
    Ok(edge)
}
