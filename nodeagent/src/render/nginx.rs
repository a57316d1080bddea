//! nginx: the main configuration, one server block per site, and pages of our own.

use std::fmt::Write as _;

use hosting_agent_engine::{ConfigLayout, Place, Root};

use super::{BadValue, fingerprint, plain_id, safe_path, word};
use crate::layout::{Layout, PROBE_PATH, pages};

/// A site's server block, before its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Webroot id: the name that edges ask for.
    pub id: String,
    /// Its tenant.
    pub tenant: String,
    /// Below the webroot; empty: the webroot itself.
    pub public_folder: Vec<String>,
    /// For `X-Shard`.
    pub shard: String,
    /// PHP, or none for a static site.
    pub php: Option<Php>,
    /// Everything is answered with 503.
    pub suspended: bool,
}

/// What a server block says of its site's PHP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Php {
    /// For the limits.
    pub settings: hosting_intent::php::Settings,
}

/// A text and the fingerprint that a probe of it returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The file's content.
    pub text: String,
    /// What [`PROBE_PATH`] answers once the text is in force.
    pub fingerprint: String,
}

/// Double quotes; refuses what has a meaning inside of them.
fn quote(what: &str, value: &str) -> Result<String, BadValue> {
    if let Some(odd) = value.chars().find(|c| c.is_control() || *c == '$' || *c == '"' || *c == '\\') {
        return Err(BadValue::new(what, format!("{value:?} holds {odd:?}")));
    }
    Ok(format!("\"{value}\""))
}

fn path(what: &str, layout: &Layout, at: &Place) -> Result<String, BadValue> {
    let text = layout.roots.text(at);
    quote(what, safe_path(what, &text)?)
}

/// The server block of a site.
///
/// # Errors
/// A value that must not stand in the file.
pub fn site(layout: &Layout, site: &Site) -> Result<Rendered, BadValue> {
    let id = plain_id("webroot id", &site.id)?;
    let tenant = plain_id("tenant id", &site.tenant)?;
    let shard = word("shard name", &site.shard, 64)?;
    let node = word("node id", &layout.node_id, 128)?;
    let base = Place::new(Root::Storage, [tenant, "webroots", id]);
    let mut document_root = base.clone();
    for part in &site.public_folder {
        hosting_intent::folder::check(part).map_err(|why| BadValue::new("public_folder", why))?;
        document_root = document_root.child(part.as_str());
    }

    let mut body = String::new();
    for address in &layout.listen {
        line(&mut body, format_args!("listen {address};"));
    }
    line(&mut body, format_args!("server_name {id};"));
    line(&mut body, format_args!("set $hosting_tenant {tenant};"));
    line(&mut body, format_args!("root {};", path("document root", layout, &document_root)?));
    line(&mut body, format_args!("disable_symlinks if_not_owner from={};", path("webroot", layout, &base)?));
    line(&mut body, format_args!("add_header X-Served-By {node} always;"));
    line(&mut body, format_args!("add_header X-Shard {shard} always;"));
    let pages = path("pages", layout, &pages())?;
    if site.suspended {
        line(&mut body, format_args!("error_page 503 /.hosting/suspended.html;"));
        page(&mut body, &pages, "suspended.html");
        line(&mut body, format_args!("location / {{ return 503; }}"));
    } else {
        page(&mut body, &pages, "empty.html");
        served(&mut body, layout, site)?;
    }

    let fingerprint = fingerprint(&["site", &body]);
    let mut text =
        format!("# Written by the node agent; changes made here are overwritten.\nserver {{\n{body}");
    line(&mut text, format_args!("location = {PROBE_PATH} {{"));
    line(&mut text, format_args!("  if ($hosting_probe = 0) {{ return 404; }}"));
    line(&mut text, format_args!("  access_log off;"));
    line(&mut text, format_args!("  default_type text/plain;"));
    line(&mut text, format_args!("  return 200 {fingerprint};"));
    line(&mut text, format_args!("}}"));
    text.push_str("}\n");
    Ok(Rendered { text, fingerprint })
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {content}");
}

fn page(text: &mut String, pages: &str, name: &str) {
    line(text, format_args!("location = /.hosting/{name} {{"));
    line(text, format_args!("  internal;"));
    line(text, format_args!("  root {pages};"));
    line(text, format_args!("  disable_symlinks off;"));
    line(text, format_args!("  try_files /{name} =404;"));
    line(text, format_args!("}}"));
}

fn served(text: &mut String, layout: &Layout, site: &Site) -> Result<(), BadValue> {
    let index = if site.php.is_some() { "index.html index.htm index.php" } else { "index.html index.htm" };
    line(text, format_args!("index {index};"));
    // No index file is the state of a fresh site; anywhere else in the tree a missing index stays a 403.
    line(text, format_args!("location = / {{ error_page 403 =404 /.hosting/empty.html; }}"));
    // .htaccess, .git, .env and the like; RFC 8615 has the one exception.
    line(text, format_args!("location ~ /\\.(?!well-known(?:/|$)) {{ return 404; }}"));
    match &site.php {
        None => {
            line(text, format_args!("location / {{ try_files $uri $uri/ =404; }}"));
            // Left over from another runtime: source code is never served.
            line(text, format_args!("location ~ \\.(?:php[0-9]?|phtml|phar)$ {{ return 404; }}"));
        }
        Some(php) => {
            let socket = crate::layout::php_socket(&site.id);
            let socket = format!("unix:{}", safe_path("socket", &layout.roots.text(&socket))?);
            line(text, format_args!("client_max_body_size {};", php.settings.body_bytes()));
            line(text, format_args!("location / {{ try_files $uri $uri/ /index.php?$query_string; }}"));
            line(text, format_args!("location ~ [^/]\\.php(?:/|$) {{"));
            line(text, format_args!("  fastcgi_split_path_info ^(.+?\\.php)(/.*)?$;"));
            // try_files forgets the path info, so it is kept first.
            line(text, format_args!("  set $hosting_path_info $fastcgi_path_info;"));
            line(text, format_args!("  try_files $fastcgi_script_name =404;"));
            line(text, format_args!("  fastcgi_pass {};", quote("socket", &socket)?));
            line(text, format_args!("  fastcgi_index index.php;"));
            // An answer that ends without FastCGI's own end is cut, not completed.
            line(text, format_args!("  fastcgi_keep_conn on;"));
            // PHP-FPM ends a request that takes longer, and nginx is to see that end.
            let seconds = php.settings.request_seconds().saturating_add(5);
            line(text, format_args!("  fastcgi_read_timeout {seconds}s;"));
            line(text, format_args!("  fastcgi_send_timeout {seconds}s;"));
            for (name, value) in FASTCGI {
                line(text, format_args!("  fastcgi_param {name} {value};"));
            }
            line(text, format_args!("}}"));
        }
    }
    Ok(())
}

/// The application sees the name that the visitor asked for, not the one between edge and node.
const FASTCGI: &[(&str, &str)] = &[
    ("QUERY_STRING", "$query_string"),
    ("REQUEST_METHOD", "$request_method"),
    ("CONTENT_TYPE", "$content_type"),
    ("CONTENT_LENGTH", "$content_length"),
    ("SCRIPT_NAME", "$fastcgi_script_name"),
    // Where links lead now: the script cache knows scripts by these, so a deployment that moves a link is seen at once.
    ("SCRIPT_FILENAME", "$realpath_root$fastcgi_script_name"),
    ("PATH_INFO", "$hosting_path_info"),
    ("REQUEST_URI", "$request_uri"),
    ("DOCUMENT_URI", "$document_uri"),
    ("DOCUMENT_ROOT", "$realpath_root"),
    ("SERVER_PROTOCOL", "$server_protocol"),
    ("REQUEST_SCHEME", "$hosting_scheme"),
    ("HTTPS", "$hosting_https if_not_empty"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("SERVER_SOFTWARE", "nginx"),
    ("REMOTE_ADDR", "$remote_addr"),
    ("REMOTE_PORT", "$remote_port"),
    ("SERVER_ADDR", "$server_addr"),
    ("SERVER_PORT", "$hosting_port"),
    ("SERVER_NAME", "$hosting_host"),
    ("HTTP_HOST", "$hosting_authority"),
    ("REDIRECT_STATUS", "200"),
    // Ours alone, and a header that libraries mistake for a proxy setting.
    ("HTTP_X_HOSTING_HOST", "\"\" if_not_empty"),
    ("HTTP_X_HOSTING_PROBE", "\"\" if_not_empty"),
    ("HTTP_PROXY", "\"\" if_not_empty"),
];

/// The main configuration; the sites' blocks go where [`ConfigLayout::INCLUDE`] stands.
///
/// # Errors
/// A value that must not stand in the file.
pub fn main(layout: &Layout) -> Result<Rendered, BadValue> {
    let node = word("node id", &layout.node_id, 128)?;
    let token = word("probe token", &layout.probe_token.0, 128)?;
    let run = |name: &str| path("run folder", layout, &Place::new(Root::Run, ["nginx", name]));
    let log = |name: &str| path("log folder", layout, &Place::new(Root::Logs, ["nginx", name]));

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
worker_shutdown_timeout 30s;
pid {pid};
error_log {error_log} warn;
events {{ worker_connections 4096; }}
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
  client_max_body_size 512m;
  client_body_temp_path {body};
  proxy_temp_path {proxy};
  fastcgi_temp_path {fastcgi};
  uwsgi_temp_path {uwsgi};
  scgi_temp_path {scgi};
  default_type application/octet-stream;
  types {{
{TYPES}  }}
  real_ip_header X-Forwarded-For;
  real_ip_recursive on;
",
        workers = layout.workers.clamp(1, 512),
        pid = run("nginx.pid")?,
        error_log = log("error.log")?,
        body = run("body")?,
        proxy = run("proxy")?,
        fastcgi = run("fastcgi")?,
        uwsgi = run("uwsgi")?,
        scgi = run("scgi")?,
    );
    for edge in &layout.edges {
        let _ = writeln!(text, "  set_real_ip_from {};", network(edge)?);
    }
    text.push_str("  geo $realip_remote_addr $hosting_edge {\n    default 0;\n");
    for edge in &layout.edges {
        let _ = writeln!(text, "    {} 1;", network(edge)?);
    }
    let _ = write!(
        text,
        r#"  }}
  map $http_x_hosting_probe $hosting_probe {{ default 0; "{token}" 1; }}
  map "$hosting_edge/$http_x_hosting_host" $hosting_host {{
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
  log_format hosting escape=json '{{"time":"$time_iso8601","remote_addr":"$remote_addr","method":"$request_method",'
    '"uri":"$request_uri","status":$status,"bytes_sent":$bytes_sent,"request_time":$request_time,'
    '"upstream_time":"$upstream_response_time","http_referer":"$http_referer",'
    '"http_user_agent":"$http_user_agent","host":"$hosting_host","server_name":"$server_name",'
    '"tenant":"$hosting_tenant"}}';
  access_log {access_log} hosting;
  server {{
"#,
        access_log = log("access.log")?,
    );
    for address in &layout.listen {
        let _ = writeln!(text, "    listen {address} default_server;");
    }
    let proof = fingerprint(&["main", &text]);
    let _ = write!(
        text,
        r#"    server_name _;
    set $hosting_tenant "";
    default_type text/plain;
    add_header X-Served-By {node} always;
    location = {PROBE_PATH} {{
      if ($hosting_probe = 0) {{ return 421 "No site of this name is on this node.\n"; }}
      access_log off;
      return 200 {proof};
    }}
    location / {{ return 421 "No site of this name is on this node.\n"; }}
  }}
  include {include};
}}
"#,
        include = ConfigLayout::INCLUDE,
    );
    Ok(Rendered { text, fingerprint: proof })
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

/// Shown where a fresh site has nothing yet.
pub const EMPTY_PAGE: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">
<title>This site is ready</title></head>
<body style=\"font-family:sans-serif;max-width:40em;margin:4em auto;padding:0 1em\">
<h1>This site is ready</h1><p>Nothing has been uploaded yet: there is no index file.</p></body></html>
";

/// Shown for a suspended site, should a request come past the edge.
pub const SUSPENDED_PAGE: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">
<title>This site is unavailable</title></head>
<body style=\"font-family:sans-serif;max-width:40em;margin:4em auto;padding:0 1em\">
<h1>This site is unavailable</h1><p>It has been suspended.</p></body></html>
";

/// Media types (IANA), so that no file of the distribution is needed.
const TYPES: &str = "    text/html html htm shtml;
    text/css css;
    text/plain txt log;
    text/csv csv;
    text/calendar ics;
    text/markdown md;
    text/xml xml;
    text/vtt vtt;
    text/javascript js mjs;
    application/json json map;
    application/ld+json jsonld;
    application/manifest+json webmanifest;
    application/atom+xml atom;
    application/rss+xml rss;
    application/wasm wasm;
    application/pdf pdf;
    application/rtf rtf;
    application/zip zip;
    application/gzip gz;
    application/x-7z-compressed 7z;
    application/x-tar tar;
    application/java-archive jar;
    application/epub+zip epub;
    application/msword doc;
    application/vnd.ms-excel xls;
    application/vnd.ms-powerpoint ppt;
    application/vnd.openxmlformats-officedocument.wordprocessingml.document docx;
    application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx;
    application/vnd.openxmlformats-officedocument.presentationml.presentation pptx;
    application/vnd.oasis.opendocument.text odt;
    application/vnd.oasis.opendocument.spreadsheet ods;
    image/gif gif;
    image/jpeg jpeg jpg;
    image/png png;
    image/apng apng;
    image/avif avif;
    image/webp webp;
    image/svg+xml svg svgz;
    image/bmp bmp;
    image/tiff tif tiff;
    image/x-icon ico;
    font/woff woff;
    font/woff2 woff2;
    font/ttf ttf;
    font/otf otf;
    application/vnd.ms-fontobject eot;
    audio/mpeg mp3;
    audio/ogg ogg oga opus;
    audio/mp4 m4a;
    audio/flac flac;
    audio/wav wav;
    audio/midi mid midi;
    video/mp4 mp4 m4v;
    video/webm webm;
    video/ogg ogv;
    video/mpeg mpeg mpg;
    video/quicktime mov;
    video/x-msvideo avi;
    video/mp2t ts;
    application/vnd.apple.mpegurl m3u8;
";
