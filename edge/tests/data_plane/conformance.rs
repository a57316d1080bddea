//! The edge holds to every row of the table of conformance (`edge/conformance`).

use hosting_edge_conformance::{Node, Target, hold, rows};
use hosting_intent::message::State;

use crate::harness::{Edge, pool, route, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_table() {
    let node = Node::start().await.unwrap();
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            tenant("t_b", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            route("a.example", "t_a", "web_a", "s1"),
            route("b.example", "t_b", "web_b", "s1"),
        ],
        Vec::new(),
    );
    let target = Target {
        http: edge.http,
        https: edge.https,
        http3: edge.http3,
        tls: crate::tls::config(&edge, &[]),
        is_edge: true,
    };
    let rows = rows().unwrap();
    let only = std::env::var("HOSTING_CONFORMANCE_ROW").unwrap_or_default();
    let (mut problems, mut held) = (Vec::new(), 0);
    for row in rows.iter().filter(|row| row.to_string().contains(&only)) {
        let found = match hold(&target, &node, row).await {
            Ok(outcome) => outcome.problems(row),
            Err(error) => vec![format!("{error:#}")],
        };
        if found.is_empty() {
            held += 1;
        } else {
            problems.push(format!("{row}\n  {}", found.join("\n  ")));
        }
    }
    assert!(
        problems.is_empty(),
        "{held} rows are held, {} are not:\n{}",
        problems.len(),
        problems.join("\n")
    );
    assert!(!only.is_empty() || held >= 150, "{held} rows");
}
