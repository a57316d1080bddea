//! What the edge shows each node so that the node knows an edge of its cluster (`hosting_intent::edge_key`).

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use arc_swap::ArcSwap;
use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_intent_sync::client::EdgeKey;
use tokio::sync::watch;

/// The request field that holds a node's key.
pub const EDGE_KEY: &str = "x-hosting-key";

/// The keys of the cluster's nodes, as field values.
#[derive(Debug, Default)]
pub struct NodeKeys(ArcSwap<Known>);

#[derive(Default)]
struct Known {
    cluster: Option<ClusterEdgeKey>,
    values: HashMap<Arc<str>, Arc<str>, RandomState>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("nodes", &self.values.len()).finish_non_exhaustive()
    }
}

impl NodeKeys {
    /// Takes over each key that the controller gives. Ends with the sender.
    pub async fn follow(&self, mut told: watch::Receiver<Option<EdgeKey>>) {
        loop {
            let cluster =
                told.borrow_and_update().as_ref().and_then(|key| ClusterEdgeKey::from_bytes(key.as_bytes()));
            self.0.store(Arc::new(Known { cluster, values: HashMap::default() }));
            if told.changed().await.is_err() {
                return;
            }
        }
    }

    /// The value for a node; `None` while no key is known.
    pub(crate) fn value(&self, node: &Arc<str>) -> Option<Arc<str>> {
        let known = self.0.load();
        if let Some(value) = known.values.get(node) {
            return Some(Arc::clone(value));
        }
        let cluster = known.cluster.as_ref()?;
        let value: Arc<str> = cluster.for_node(node).header_value().into();
        // Once for each node and key. Of two threads at once one finds its node missing again.
        let mut values = known.values.clone();
        values.insert(Arc::clone(node), Arc::clone(&value));
        let next = Arc::new(Known { cluster: Some(cluster.clone()), values });
        self.0.compare_and_swap(&*known, next);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_gets_its_own_value_and_a_new_key_changes_all() {
        let keys = NodeKeys::default();
        let (one, two): (Arc<str>, Arc<str>) = ("n1".into(), "n2".into());
        assert_eq!(keys.value(&one), None);
        let set = |seed: u8| {
            let cluster = ClusterEdgeKey::from_bytes(&[seed; 32]);
            keys.0.store(Arc::new(Known { cluster, values: HashMap::default() }));
        };
        set(1);
        let first = keys.value(&one).unwrap();
        assert_eq!(*first, *ClusterEdgeKey::from_bytes(&[1; 32]).unwrap().for_node("n1").header_value());
        assert_ne!(keys.value(&two).unwrap(), first);
        assert_eq!(keys.value(&one).unwrap(), first);
        set(2);
        assert_ne!(keys.value(&one).unwrap(), first);
    }
}
