//! `--cells conformance`: every row of the table asked of the edge, HAProxy and nginx. What differs is printed, and written to the page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use hosting_edge_conformance::{Node, Outcome, Protocol, Row, Target, hold, observe, rows};
use serde_json::json;
use tabled::{builder::Builder, settings::Style};

use super::client::Tls;
use super::server::{Entry, Names, Program, Workshop};
use crate::figures::print;

/// The hosts that rows speak of, with their tenants and webroots.
const HOSTS: &[[&str; 3]] = &[["a.example", "t_a", "web_a"], ["b.example", "t_b", "web_b"]];
/// Behind this line, the page is written by this program.
const GENERATED: &str = "<!-- Written by `loadtest edge --cells conformance`. -->";

/// What one server does with a row, in a few words.
struct Seen {
    text: String,
    /// What of it counts as a difference: whether the client is refused, and what reaches the node.
    kind: (bool, Vec<String>, bool),
}

impl Seen {
    fn new(row: &Row, outcome: &Outcome) -> Self {
        let mut client = outcome.summary(row);
        client.dedup();
        let mut text = if client.is_empty() { "no answer".to_owned() } else { client.join(", ") };
        let whole: Vec<String> =
            outcome.node.iter().filter(|message| !message.starts_with('~')).cloned().collect();
        if !whole.is_empty() {
            let _ = write!(text, "; node: {}", whole.join("; "));
        }
        for leaked in &outcome.leaked {
            let _ = write!(text, "; ANOTHER CLIENT GOT {leaked}");
        }
        // How a refusal is said is each server's own: a status, a reset, the end of the connection.
        let refused = client.last().is_none_or(|last| {
            // Behind the number of its stream, before its body.
            let status = last
                .split_once(": ")
                .filter(|(stream, _)| stream.len() < 4)
                .map_or(&**last, |(_, rest)| rest);
            !status.starts_with(['1', '2', '3'])
        });
        // How a body is framed towards the node is, too.
        let plain = |message: &String| {
            let parts =
                message.split(" | ").filter(|part| *part != "chunked" && !part.starts_with("length "));
            parts.collect::<Vec<_>>().join(" | ")
        };
        Self { text, kind: (refused, whole.iter().map(plain).collect(), !outcome.leaked.is_empty()) }
    }
}

pub(super) async fn compare(edge: &Path, page: &Path, folder: &Path) -> anyhow::Result<()> {
    let workshop =
        Workshop::new(&folder.join("conformance"), Names { others: HOSTS, ..Names::plain(1) }, 1_000)?;
    let rows = rows()?;
    // Nodes answer while this thread waits for a server's start.
    let nodes = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut columns: Vec<Vec<Option<Seen>>> = Vec::new();
    let mut held = 0;
    for entry in [
        Entry::new("edge", Program::Edge(edge.to_owned()), 18_480),
        Entry::new("HAProxy", Program::Haproxy, 18_500),
        Entry::new("nginx", Program::Nginx, 18_510),
    ] {
        let node = nodes.spawn(Node::start()).await??;
        let server = workshop.start_before(&entry, node.address)?;
        let is_edge = matches!(entry.program, Program::Edge(_));
        let target = Target {
            http: server.entry.http(),
            https: server.entry.https(),
            http3: is_edge.then(|| server.entry.https()),
            tls: Tls { http2: true, ..Tls::default() }.config()?,
            is_edge,
        };
        let mut column = Vec::new();
        for row in &rows {
            // The configuration of the peers has no HTTP/3.
            if row.protocol == Protocol::Http3 && !is_edge {
                column.push(None);
                continue;
            }
            let ran =
                if is_edge { hold(&target, &node, row).await } else { observe(&target, &node, row).await };
            let seen = match ran {
                Ok(outcome) => {
                    held += usize::from(is_edge && outcome.problems(row).is_empty());
                    Seen::new(row, &outcome)
                }
                Err(error) => Seen { text: format!("{error:#}"), kind: (true, Vec::new(), false) },
            };
            column.push(Some(seen));
        }
        columns.push(column);
    }
    nodes.shutdown_background();
    report(&rows, &columns, held, page)
}

fn report(rows: &[Row], columns: &[Vec<Option<Seen>>], held: usize, page: &Path) -> anyhow::Result<()> {
    let [edge, haproxy, nginx] = columns else { anyhow::bail!("three servers are compared") };
    let mut table = Builder::default();
    table.push_record(["section", "what", "edge", "HAProxy", "nginx"]);
    let mut text =
        String::from("| section | what | edge | HAProxy | nginx | why |\n|---|---|---|---|---|---|\n");
    let (mut lines, mut counts, mut unexplained) = (Vec::new(), [0; 2], Vec::new());
    let cell = |text: &str| format!("`{}`", text.replace('|', "¦").replace('`', "'"));
    for (index, row) in rows.iter().enumerate() {
        let of = |column: &[Option<Seen>]| {
            column.get(index).and_then(Option::as_ref).map(|seen| (seen.text.clone(), seen.kind.clone()))
        };
        let (Some(ours), theirs) = (of(edge), [of(haproxy), of(nginx)]) else { continue };
        let differs = theirs.each_ref().map(|seen| seen.as_ref().is_some_and(|(_, kind)| *kind != ours.1));
        for (count, differs) in counts.iter_mut().zip(differs) {
            *count += usize::from(differs);
        }
        if !differs.contains(&true) {
            continue;
        }
        let theirs = theirs.map(|seen| seen.map(|(text, _)| text).unwrap_or_default());
        let [haproxy, nginx] = &theirs;
        let (section, title) = (&row.section, format!("{} ({:?})", row.title, row.protocol));
        table.push_record([section, &title, &ours.0, haproxy, nginx]);
        let as_ours = |differs: bool, text: &str| if differs { cell(text) } else { "the same".to_owned() };
        let why = row.why.as_deref().unwrap_or_default();
        if why.is_empty() {
            unexplained.push(row.to_string());
        }
        let _ = writeln!(
            text,
            "| {section} | {} | {} | {} | {} | {why} |",
            title.replace('|', "¦"),
            cell(&ours.0),
            as_ours(differs[0], haproxy),
            as_ours(differs[1], nginx)
        );
        lines.push(
            json!({"section": section, "title": title, "edge": ours.0, "haproxy": haproxy, "nginx": nginx}),
        );
    }
    print(&table.build().with(Style::blank()).to_string());
    let object = json!({
        "benchmark": "edge conformance", "rows": rows.len(), "held_by_edge": held,
        "haproxy_differs": counts[0], "nginx_differs": counts[1], "differences": lines,
    });
    print(&object.to_string());
    let before = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let head = before.split(GENERATED).next().unwrap_or_default();
    fs::write(page, format!("{head}{GENERATED}\n{} rows.\n\n{text}", rows.len()))?;
    ensure!(
        unexplained.is_empty(),
        "nobody says why these differ (`why` in the table):\n{}",
        unexplained.join("\n")
    );
    Ok(())
}
