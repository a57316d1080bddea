//! Accounts with authorities: a few, made once, kept sealed, opened once an hour by each controller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hosting_acme::{Account, AcmeError, AuthorityAddress, Credentials, ExternalAccount};
use hosting_resource::kinds::certificate_authority::{CertificateAuthority, EAB_PATH, eab_key};
use hosting_resource::{Doc, SecretPlace};
use hosting_store::{Store, StoreError};
use zeroize::Zeroizing;

/// An open account is asked with for so long; then the authority's directory is read anew.
const OPEN_FOR: Duration = Duration::from_secs(3_600);

/// An account is not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAccount {
    /// The authority's doing.
    #[error(transparent)]
    Authority(#[from] AcmeError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What stays the same for an open account: generation of the authority's resource, and when it was opened.
type Opened = (u64, Instant, Account);

#[derive(Debug)]
pub(super) struct Accounts {
    store: Store,
    open: Mutex<HashMap<String, Opened>>,
}

impl Accounts {
    pub(super) fn new(store: Store) -> Self {
        Self { store, open: Mutex::default() }
    }

    /// The account of this name with an authority.
    pub(super) async fn of(
        &self,
        authority: &Doc<CertificateAuthority>,
        name: &str,
    ) -> Result<Account, NoAccount> {
        let key = format!("acme/account/{}/{name}", authority.id);
        let generation = authority.generation;
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((of, since, account)) = known
            && of == generation
            && since.elapsed() < OPEN_FOR
        {
            return Ok(account);
        }
        let spec = &authority.spec;
        let address = AuthorityAddress {
            directory_url: &spec.directory_url,
            root_pem: &spec.root_pem,
            contacts: &spec.contacts,
        };
        let credentials = match self.store.unseal(&key).await? {
            Some(kept) => Credentials::from_bytes(kept.expose())?,
            None => {
                let new = match self.external(authority).await? {
                    Some(external) => Account::bind(address, &external).await?,
                    None => Credentials::new_key()?,
                };
                // Of several controllers whoever was first wins.
                Credentials::from_bytes(self.store.seal_once(&key, &new.to_bytes()?).await?.expose())?
            }
        };
        let account = Account::open(address, &credentials).await?;
        let opened = (generation, Instant::now(), account.clone());
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(key, opened);
        Ok(account)
    }

    async fn external(
        &self,
        authority: &Doc<CertificateAuthority>,
    ) -> Result<Option<ExternalAccount>, NoAccount> {
        let (Some(kid), Some(secret)) = (&authority.spec.eab_kid, &authority.spec.eab_hmac_key) else {
            return Ok(None);
        };
        let unreadable =
            || StoreError::Row("the key of an authority's external account cannot be read".into());
        let place = SecretPlace { tenant: None, resource: authority.id.clone(), path: EAB_PATH.to_owned() };
        let sealed = secret.sealed().ok_or_else(unreadable)?;
        let opened = self.store.open_secret(&place, sealed).await?.ok_or_else(unreadable)?;
        let text = std::str::from_utf8(opened.expose()).map_err(|_| unreadable())?;
        let key = Zeroizing::new(eab_key(text).map_err(|_| unreadable())?);
        Ok(Some(ExternalAccount { kid: kid.clone(), key }))
    }
}

/// Shared by all turns of a controller.
pub(super) type SharedAccounts = Arc<Accounts>;
