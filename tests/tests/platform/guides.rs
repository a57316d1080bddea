//! The guides for those who integrate: what they show is run as it stands.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Platform, machine_lacks_daemons};

/// The shell blocks of a page, in their order.
fn shell_of(page: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page)).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn what_the_guide_for_integrators_shows_works() {
    if machine_lacks_daemons("what_the_guide_for_integrators_shows_works") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let cluster = platform.get("/nodes/web-1").await["cluster_id"].as_str().unwrap().to_owned();
    let region =
        platform.get(&format!("/clusters/{cluster}")).await["region_id"].as_str().unwrap().to_owned();
    let brand = platform.items("/brands").await[0]["id"].as_str().unwrap().to_owned();
    let script = shell_of("docs/operators/integrating.md");
    assert!(script.contains("wait=ready") && script.contains("/bulk"), "{script}");
    let ran = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(platform.folder())
        .env("API", format!("{}/api/v1", platform.summary["api"].as_str().unwrap()))
        .env("KEY", platform.admin_key())
        .env("REGION", region)
        .env("CLUSTER", cluster)
        .env("BRAND", brand)
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "{}\n{}", said(&ran.stdout), said(&ran.stderr));
}
