//! How many resources refer to one target: kept, so that nobody counts rows.

use std::collections::BTreeMap;

use hosting_resource::Kind;

use crate::{ReadTx, StoreError, batch};

/// Writes by how much the counts change with rows of `refs` that go and come: source, kind, relation and target each. Only relations that
/// their kind has counted.
pub(super) async fn write(
    tx: &mut ReadTx,
    dropped: &[[String; 4]],
    added: &[[String; 4]],
) -> Result<(), StoreError> {
    let mut counts: BTreeMap<(&str, &str, &str), i64> = BTreeMap::new();
    for (rows, by) in [(dropped, -1), (added, 1)] {
        for [_, kind, relation, target] in rows {
            let counted = Kind::from_name(kind).map_or(&[][..], |kind| kind.def().counted());
            if counted.contains(&relation.as_str()) {
                *counts.entry((kind, relation, target)).or_default() += by;
            }
        }
    }
    let counts: Vec<_> = counts.into_iter().filter(|(_, by)| *by != 0).collect();
    batch::insert(
        tx,
        "INSERT INTO ref_counts (kind, relation, target, count)",
        "ON CONFLICT (kind, relation, target) DO UPDATE SET count = ref_counts.count + excluded.count",
        &counts,
        |row, ((kind, relation, target), by)| {
            row.push_bind(*kind).push_bind(*relation).push_bind(*target).push_bind(*by);
        },
    )
    .await?;
    Ok(())
}
