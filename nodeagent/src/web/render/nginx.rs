//! nginx: the main configuration, one server block per site, and pages of our own.

use std::fmt::Write as _;

use hosting_agent_engine::{Place, Root};

use self::quote::{path, prefixed};
use super::{BadValue, fingerprint, plain_id, word};
use crate::web::layout::{Layout, PROBE_PATH, pages};

mod content;
mod main;
mod quote;
mod rules;

pub use content::{EMPTY_PAGE, SUSPENDED_PAGE};
pub use main::main;
pub(crate) use main::network;

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

/// Shows the edge which request is answered, so that connections may serve all sites. Where a block has an `add_header` of its own,
/// it does not inherit this one.
const MARK: &str = "add_header X-Hosting-Request $http_x_hosting_request always;";

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
    line(
        &mut body,
        format_args!("disable_symlinks if_not_owner {};", prefixed("from=", "webroot", layout, &base)?),
    );
    line(&mut body, format_args!("add_header X-Served-By {node} always;"));
    line(&mut body, format_args!("add_header X-Shard {shard} always;"));
    line(&mut body, format_args!("{MARK}"));
    // Who may not ask must not learn either which sites there are.
    line(&mut body, format_args!("error_page 421 @hosting_stranger;"));
    line(&mut body, format_args!("if ($hosting_admitted = 0) {{ return 421; }}"));
    line(&mut body, format_args!("location @hosting_stranger {{"));
    line(&mut body, format_args!("  add_header X-Served-By {node} always;"));
    line(&mut body, format_args!("  {MARK}"));
    line(&mut body, format_args!("  keepalive_timeout 0;"));
    line(&mut body, format_args!("  default_type text/plain;"));
    line(&mut body, format_args!("  return 421 {NO_SUCH_SITE};"));
    line(&mut body, format_args!("}}"));
    let pages = path("pages", layout, &pages())?;
    if site.suspended {
        line(&mut body, format_args!("error_page 503 /.hosting/suspended.html;"));
        page(&mut body, &pages, "suspended.html");
        line(&mut body, format_args!("location / {{ return 503; }}"));
    } else {
        page(&mut body, &pages, "empty.html");
        // .htaccess, .git, .env and the like; RFC 8615 has the one exception.
        line(&mut body, format_args!("location ~ /\\.(?!well-known(?:/|$)) {{ return 404; }}"));
        match &site.php {
            None => files(&mut body),
            Some(php) => application(&mut body, layout, site, php)?,
        }
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

/// A site without an application: files, and nothing but reading them (RFC 9110 §15.5.6).
fn files(text: &mut String) {
    line(text, format_args!("index index.html index.htm;"));
    line(text, format_args!("error_page 405 @hosting_method;"));
    line(text, format_args!("if ($request_method !~ ^(?:GET|HEAD)$) {{ return 405; }}"));
    line(
        text,
        format_args!(
            "location @hosting_method {{ add_header Allow \"GET, HEAD\" always; {MARK} return 405; }}"
        ),
    );
    // No index file is the state of a fresh site; anywhere else in the tree a missing index stays a 403.
    line(text, format_args!("location = / {{ error_page 403 =404 /.hosting/empty.html; }}"));
    line(text, format_args!("location ~* {} {{ return 404; }}", rules::never_sent()));
    line(text, format_args!("location / {{ try_files $uri $uri/ =404; }}"));
}

/// A site with an application: what is neither a file nor a folder with an index is a request to its front controller.
fn application(text: &mut String, layout: &Layout, site: &Site, php: &Php) -> Result<(), BadValue> {
    let socket = prefixed("unix:", "socket", layout, &crate::web::layout::php_socket(&site.id))?;
    line(text, format_args!("client_max_body_size {};", php.settings.body_bytes()));
    line(text, format_args!("location = / {{"));
    line(text, format_args!("  error_page 404 /.hosting/empty.html;"));
    for index in INDEX {
        line(text, format_args!("  if (-f $document_root/{index}) {{ rewrite ^ /{index} last; }}"));
    }
    line(text, format_args!("  return 404;"));
    line(text, format_args!("}}"));

    line(text, format_args!("location ~ [^/]\\.php(?:/|$) {{"));
    line(text, format_args!("  error_page 418 = @hosting_upgrade;"));
    line(text, format_args!("  if ($http_upgrade != \"\") {{ return 418; }}"));
    script(text, &socket, php);
    line(text, format_args!("}}"));
    // Nothing here changes protocols. Should a script say that it does, no second request is read from the connection.
    line(text, format_args!("location @hosting_upgrade {{"));
    line(text, format_args!("  keepalive_timeout 0;"));
    script(text, &socket, php);
    line(text, format_args!("}}"));

    line(text, format_args!("location ~* {} {{ rewrite ^ /index.php last; }}", rules::never_sent()));
    line(text, format_args!("location / {{ try_files $uri @hosting_folder; }}"));
    line(text, format_args!("location @hosting_folder {{"));
    line(text, format_args!("  if (!-d $request_filename) {{ rewrite ^ /index.php last; }}"));
    for index in INDEX {
        // Without its final slash a folder is left to nginx, which redirects.
        let found = format!("rewrite ^(.*)/$ $1/{index} last; break;");
        line(text, format_args!("  if (-f $request_filename/{index}) {{ {found} }}"));
    }
    line(text, format_args!("  rewrite ^ /index.php last;"));
    line(text, format_args!("}}"));
    Ok(())
}

/// Files that stand for their folder, the first one first.
const INDEX: &[&str] = &["index.html", "index.htm", "index.php"];

/// The application is asked; the parameters are those of the main configuration, unless one stood here.
fn script(text: &mut String, socket: &str, php: &Php) {
    line(text, format_args!("  fastcgi_split_path_info ^(.+?\\.php)(/.*)?$;"));
    // try_files forgets the path info, so it is kept first.
    line(text, format_args!("  set $hosting_path_info $fastcgi_path_info;"));
    line(text, format_args!("  if ($hosting_fields_fit = 0) {{ return 431; }}"));
    line(text, format_args!("  try_files $fastcgi_script_name =404;"));
    line(text, format_args!("  fastcgi_pass {socket};"));
    // An answer that ends without FastCGI's own end is cut, not completed.
    line(text, format_args!("  fastcgi_keep_conn on;"));
    // PHP-FPM ends a request that takes longer, and nginx is to see that end.
    let seconds = php.settings.request_seconds().saturating_add(5);
    line(text, format_args!("  fastcgi_read_timeout {seconds}s;"));
    line(text, format_args!("  fastcgi_send_timeout {seconds}s;"));
}

const NO_SUCH_SITE: &str = r#""No site of this name is on this node.\n""#;

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
    ("HTTP_X_HOSTING_KEY", "\"\" if_not_empty"),
    ("HTTP_X_HOSTING_PROBE", "\"\" if_not_empty"),
    ("HTTP_X_HOSTING_REQUEST", "\"\" if_not_empty"),
    ("HTTP_PROXY", "\"\" if_not_empty"),
];
