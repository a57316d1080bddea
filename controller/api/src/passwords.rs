//! Passwords of basic authentication in bodies: made into hashes beside the store's one writer, before anything is worked out of a body.
//!
//! A password that is the one which its user has already gets the hash that is there, so that the same request again changes nothing.

use hosting_passwords::SALT_BYTES;
use hosting_resource::basic_auth::{check_password, each_with_password, hash_of_user};
use hosting_resource::{PlainText, Resource};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::ApiError;
use crate::route::Op;
use crate::service::Call;

/// Passwords of one body.
const MOST: usize = 100;
/// Bodies whose passwords are made into hashes at once.
static PLACES: Semaphore = Semaphore::const_new(2);

struct Work {
    password: PlainText,
    /// That of the user's present password.
    before: Option<String>,
}

impl Call {
    /// Makes hashes of the passwords in the body. `current`: what the body changes.
    pub(crate) async fn hash_passwords(&self, current: Option<&Resource>) -> Result<(), ApiError> {
        if self.hashed.get().is_some() {
            return Ok(());
        }
        let mut body = self.body.clone();
        let work = if self.may_have_passwords() { work_of(&mut body, current) } else { Vec::new() };
        if work.len() > MOST {
            let problem = format!(
                "at most {MOST} can be given in one request; send it in parts, or give password_hash"
            );
            return Err(ApiError::invalid("password", problem));
        }
        if work.is_empty() {
            let _ = self.hashed.set(None);
            return Ok(());
        }
        let made = at_a_place(move || work.into_iter().map(hash).collect::<Option<Vec<_>>>()).await?;
        let mut made = made.ok_or_else(|| ApiError::internal(&"no memory for a hash"))?.into_iter();
        each_with_password(&mut body, &mut |user| {
            if password_of(user).is_some()
                && let Some(hash) = made.next()
            {
                user.remove("password");
                user.insert("password_hash".to_owned(), hash.into());
            }
        });
        // Whoever was first made hashes that are as good.
        let _ = self.hashed.set(Some(body));
        Ok(())
    }

    /// The body to work with.
    pub(crate) fn written(&self) -> Result<&Map<String, Value>, ApiError> {
        match self.hashed.get() {
            Some(hashed) => Ok(hashed.as_ref().unwrap_or(&self.body)),
            None if self.may_have_passwords() && !work_of(&mut self.body.clone(), None).is_empty() => {
                let problem = "cannot be given in an item that rests on items before it; give password_hash, or send the item by itself";
                Err(ApiError::invalid("password", problem))
            }
            None => Ok(&self.body),
        }
    }

    fn may_have_passwords(&self) -> bool {
        matches!(self.route.op, Op::Create(_) | Op::CreateBy(..) | Op::Update(_))
    }
}

/// Does the work of one body off the threads that serve requests, with no more such work at once than there are places.
async fn at_a_place<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let _place = PLACES.acquire().await.map_err(|error| ApiError::internal(&error))?;
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))
}

/// A password that a hash can be made of. What is wrong with others, whoever reads the body says.
fn password_of(user: &Map<String, Value>) -> Option<&str> {
    let password = user.get("password").and_then(Value::as_str);
    password.filter(|password| !user.contains_key("password_hash") && check_password(password).is_ok())
}

fn work_of(body: &mut Map<String, Value>, current: Option<&Resource>) -> Vec<Work> {
    let mut work = Vec::new();
    each_with_password(body, &mut |user| {
        if let Some(password) = password_of(user) {
            let name = user.get("name").and_then(Value::as_str).unwrap_or_default();
            let before = current.and_then(|current| hash_of_user(&current.spec, name)).map(str::to_owned);
            work.push(Work { password: PlainText::new(password.to_owned()), before });
        }
    });
    work
}

fn hash(Work { password, before }: Work) -> Option<String> {
    let password = password.expose().as_bytes();
    if let Some(before) = before.filter(|before| hosting_passwords::verify(password, before)) {
        return Some(before);
    }
    let salt: [u8; SALT_BYTES] = rand::random();
    hosting_passwords::hash(password, &salt).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn no_more_bodies_are_hashed_at_once_than_there_are_places() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let bodies = (0..6).map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            at_a_place(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(30));
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for done in futures::future::join_all(bodies).await {
            done.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }
}
