//! Names with certificates of their own, as an authority would issue them: each leaf has its own bytes, a key on a curve, and the issuer's
//! certificate above it, which all have alike.

use std::path::Path;

use anyhow::Context;
use hosting_intent::message::Certificate;
use hosting_intent::{Audience, Key, Kind, audience_key_name};
use hosting_intent_sync::sealing::{AudienceKey, Place, SealingKey};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};

/// Different private keys.
const KEYS: usize = 1_000;
/// Where authorities put what logs of certificates say of a leaf (RFC 6962 §3.3), and how much that is with two logs.
const LOGGED: &[u64] = &[1, 3, 6, 1, 4, 1, 11_129, 2, 4, 2];
const LOGGED_BYTES: usize = 240;
/// Addresses and policies, which leaves of an authority have alike.
const POLICIES: &[u64] = &[2, 5, 29, 32];
const POLICIES_BYTES: usize = 200;

/// A leaf, in which the logs' words are exchanged from name to name: who has a certificate to show does not check who signed it.
struct Template {
    der: Vec<u8>,
    logged_at: usize,
    key_pem: String,
}

impl Template {
    fn new(issuer: &Issuer<'_, KeyPair>) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["www.site-000000.example.net".to_owned()])?;
        let logged = [0xa5; LOGGED_BYTES];
        params.custom_extensions = vec![
            CustomExtension::from_oid_content(LOGGED, logged.to_vec()),
            CustomExtension::from_oid_content(POLICIES, vec![1; POLICIES_BYTES]),
        ];
        params.use_authority_key_identifier_extension = true;
        let der = params.signed_by(&key, issuer)?.der().to_vec();
        let logged_at = der.windows(LOGGED_BYTES).position(|part| part == logged);
        Ok(Self { logged_at: logged_at.context("not in the leaf")?, der, key_pem: key.serialize_pem() })
    }

    fn leaf(&self, index: usize) -> Vec<u8> {
        let mut der = self.der.clone();
        let mut word = index as u64;
        for bytes in der[self.logged_at..self.logged_at + LOGGED_BYTES].chunks_exact_mut(8) {
            // Nothing that could be written shorter (SplitMix64).
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bytes.copy_from_slice(&(mixed ^ (mixed >> 27)).to_be_bytes());
        }
        der
    }
}

/// The intents of a certificate for each name, and of the key that they are sealed under, for the edge whose data folder this is.
pub(super) fn certificates(
    data: &Path,
    audience: &Audience,
    names: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<Vec<(Key, Vec<u8>)>> {
    let reader = SealingKey::load_or_create(&data.join("sealing.key"))?;
    let sealer = AudienceKey::new(1, [7; 32].into());
    let share = sealer.share(audience, reader.public())?;
    let mut intents =
        vec![(Key::new(Kind::AudienceKey, audience_key_name(1, reader.public())), share.encode_to_vec())];

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.custom_extensions = vec![CustomExtension::from_oid_content(POLICIES, vec![1; 600])];
    let above = params.self_signed(&key)?.der().to_vec();
    let issuer = Issuer::new(params, key);
    let templates = (0..KEYS).map(|_| Template::new(&issuer)).collect::<anyhow::Result<Vec<_>>>()?;
    for (index, (name, tenant_id)) in names.enumerate() {
        let template = &templates[index % KEYS];
        let subject = Key::new(Kind::Certificate, format!("certificate_{index:010}"));
        let place = Place { audience, key: &subject, field: "key" };
        let certificate = Certificate {
            tenant_id,
            names: vec![name],
            chain_der: vec![template.leaf(index).into(), above.clone().into()],
            key: Some(sealer.seal(place, template.key_pem.as_bytes())?),
            not_after: i64::MAX,
        };
        intents.push((subject, certificate.encode_to_vec()));
    }
    Ok(intents)
}
