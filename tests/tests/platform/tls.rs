//! The API over TLS: `hostctl` with the operator's authority, and a certificate that is exchanged while the controller runs.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::alone::Controller;
use crate::harness::{binaries, eventually};

/// Writes a certificate of its own for localhost; the key first, so that both fit a moment later.
fn certificate(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(folder.join("key.pem"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_speaks_tls_and_takes_over_a_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    std::fs::copy(folder.path().join("cert.pem"), folder.path().join("first.pem")).unwrap();
    let env = [
        ("HOSTING_CONTROLLER_TLS_CERTIFICATE_FILE", folder.path().join("cert.pem")),
        ("HOSTING_CONTROLLER_TLS_KEY_FILE", folder.path().join("key.pem")),
    ];
    let controller = Controller::start(folder, &env);
    let (api, folder) = (controller.api, controller.path());
    let url = format!("https://localhost:{}", api.port());
    let regions = |ca: Option<&str>| -> Output {
        let mut hostctl = Command::new(binaries().join("hostctl"));
        hostctl.args(["get", "regions", "--api", &url, "--json", "--key-file"]).arg(controller.key_file());
        if let Some(ca) = ca {
            hostctl.arg("--ca-file").arg(folder.join(ca));
        }
        hostctl.current_dir(folder).output().unwrap()
    };
    eventually("the controller answers", Duration::from_secs(20), async || {
        regions(Some("cert.pem")).status.success().then_some(())
    })
    .await;
    let stranger = regions(None);
    assert_eq!(
        stranger.status.code(),
        Some(7),
        "an authority that nobody named is not trusted: {stranger:?}"
    );
    let plain = reqwest::get(format!("http://{api}/healthz")).await;
    assert!(plain.is_err(), "nothing is served in plain: {plain:?}");

    // A connection from before, HTTP/2 as both know it.
    let root = reqwest::Certificate::from_pem(&std::fs::read(folder.join("first.pem")).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let healthz = format!("{url}/healthz");
    let answer = client.get(&healthz).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));

    certificate(folder);
    eventually("the new certificate is served", Duration::from_secs(20), async || {
        regions(Some("cert.pem")).status.success().then_some(())
    })
    .await;
    assert!(client.get(&healthz).send().await.unwrap().status().is_success(), "what stands goes on");
    assert_eq!(regions(Some("first.pem")).status.code(), Some(7), "and nobody new gets the old one");
}
