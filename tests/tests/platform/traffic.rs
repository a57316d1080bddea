//! What tenants' sites were asked for, from the visitor to the API.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn requests_of_a_tenant_are_counted_once_whatever_ends_meanwhile() {
    if machine_lacks_daemons("requests_of_a_tenant_are_counted_once_whatever_ends_meanwhile") {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    let (tenant, _) = platform.site("acme-1001").await;
    // `up` looks at the sites too, but never for this.
    for _ in 0..7 {
        assert_eq!(platform.page("bakery.test", "there-is-no-such-page").await.unwrap().0, 404);
    }
    // The edge is told to end while nobody takes its reports; what it counted comes with the next one.
    platform.kill("controller").await;
    platform.end("edge").await;
    let kept = std::fs::read_dir(platform.data().join("edge/traffic")).unwrap().count();
    assert!(kept > 0, "what was counted is on disk");
    platform.restart("controller").await;
    platform.restart("edge").await;
    let path = format!("/tenants/{tenant}/traffic");
    let total = eventually("the requests are counted", LIMIT, async || {
        let shown: Value = platform.get(&path).await;
        (shown["total"]["client_errors"].as_u64()? >= 7).then(|| shown["total"].clone())
    })
    .await;
    assert_eq!(total["client_errors"], 7, "{total}");
    let classes = ["informational", "successful", "redirected", "client_errors", "server_errors"];
    let sum: u64 = classes.iter().map(|class| total[*class].as_u64().unwrap()).sum();
    assert_eq!(total["requests"], sum, "each has its answer, and the self-check is nobody's: {total}");
    assert!(total["sent_bytes"].as_u64().unwrap() > 0 && total["site_ms"].is_u64(), "{total}");
    let by_day = platform.get(&format!("{path}?by=day")).await;
    assert_eq!((by_day["items"].as_array().unwrap().len(), &by_day["total"]), (1, &total), "{by_day}");
    let (code, answer) = platform.call("GET", &format!("{path}?from=2020-01-01"), None).await;
    assert!(code == 422 || code == 400, "{code} {answer}");
    assert!(answer.to_string().contains("by=day"), "{answer}");
}
