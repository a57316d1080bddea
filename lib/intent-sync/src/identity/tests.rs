//! Tokens and credential files.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn token() -> JoinToken {
    JoinToken::new(
        [7; 32],
        Fingerprint([9; 32]),
        "edge-1".into(),
        vec!["lb".into()],
        vec!["127.0.0.1:7443".into()],
        2_000_000_000,
    )
}

#[test]
fn a_token_survives_the_round_trip() {
    let text = token().encode();
    assert!(text.starts_with("hjt1."));
    assert_eq!(JoinToken::parse(&text), Ok(token()));
    assert_eq!(JoinToken::parse(&format!(" {}\n", *text)), Ok(token()));
}

#[test]
fn a_damaged_token_says_so_and_never_panics() {
    let text = token().encode();
    assert_eq!(JoinToken::parse("eyJhbGciOi"), Err(TokenError::Prefix));
    assert_eq!(JoinToken::parse(""), Err(TokenError::Prefix));
    for end in JoinToken::PREFIX.len()..text.len() {
        assert!(matches!(JoinToken::parse(&text[..end]), Err(TokenError::Damaged(_))), "cut at {end}");
    }
    for at in JoinToken::PREFIX.len()..text.len() {
        let mut changed = text.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(JoinToken::parse(std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {at}");
    }
    let mut odd = token();
    odd.node_id = "../x".into();
    assert_eq!(JoinToken::parse(&odd.encode()), Err(TokenError::Field("node id")));
}

#[test]
fn the_secret_is_in_no_debug_output_and_its_hash_agrees() {
    let token = token();
    let debug = format!("{token:?}");
    assert!(debug.contains("[redacted]"));
    assert!(!debug.contains(token.secret_text().as_str()));
    assert!(!debug.contains("7, 7, 7"));
    assert_eq!(secret_hash(&token.secret_text()), Some(token.secret_hash()));
    assert_eq!(secret_hash("short"), None);
    assert_eq!(secret_hash(&"A".repeat(4000)), None);
}

#[test]
fn a_pending_key_is_kept_until_the_answer_came() {
    let dir = tempfile::tempdir().unwrap();
    let first = pending_key(dir.path()).unwrap();
    let again = pending_key(dir.path()).unwrap();
    assert_eq!(first.serialize_der(), again.serialize_der());
    fs::write(dir.path().join(PENDING_KEY), "rubbish").unwrap();
    assert_ne!(pending_key(dir.path()).unwrap().serialize_der(), first.serialize_der());
}

#[tokio::test]
async fn without_credential_and_token_the_next_step_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let enrolment = Enrolment {
        dir: dir.path().join("id"),
        token: TokenSource::None,
        controllers: Vec::new(),
        patience: Duration::ZERO,
        role: String::new(),
    };
    let error = Identity::load_or_enroll(&enrolment).await.unwrap_err();
    assert!(matches!(error, IdentityError::NotEnrolled { .. }));
    assert!(error.to_string().contains("hostctl node join-token"));
    assert_eq!(fs::metadata(&enrolment.dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn two_processes_cannot_share_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    let held = prepare_dir(dir.path()).unwrap();
    assert!(matches!(prepare_dir(dir.path()), Err(IdentityError::InUse { .. })));
    drop(held);
    assert!(prepare_dir(dir.path()).is_ok());
}
