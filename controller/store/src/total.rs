//! How long a list is: kept for a kind, its brands and statuses; counted along at most so many rows for the rest.

use hosting_resource::Status;

use crate::search::MOST_ROWS;
use crate::{ListQuery, ReadTx, StoreError};

/// How many resources a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// That many, or at least that many.
    pub count: u64,
    /// Whether the list may have more: it is longer than what is looked at.
    pub is_lower_bound: bool,
}

impl ReadTx {
    /// How many resources a list has, whatever its cursor and limit. Of a list that is neither all of a kind, nor of brands or in a status,
    /// at most 10 000 rows are looked at.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn total(&mut self, list: &ListQuery) -> Result<Total, StoreError> {
        if list.brands.as_deref().is_some_and(<[_]>::is_empty) {
            return Ok(Total { count: 0, is_lower_bound: false });
        }
        if list.is_counted() {
            let counts = self.status_counts(list.kind, list.brands.as_deref()).await?;
            let is_wanted =
                |status: Status| list.status.map_or(status != Status::Deleted, |one| one == status);
            let wanted = counts.iter().filter(|(status, _)| is_wanted(*status));
            return Ok(Total { count: wanted.map(|(_, count)| count).sum(), is_lower_bound: false });
        }
        let whole = ListQuery { after: None, ..list.clone() };
        let (found, next) = match self.candidates(&whole).await? {
            Some(ids) => (self.among(&whole, ids).await?, None),
            None => self.along(&whole, MOST_ROWS as usize).await?,
        };
        Ok(Total { count: found.len() as u64, is_lower_bound: next.is_some() })
    }
}
