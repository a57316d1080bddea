//! The keys by which a node knows that a request comes from an edge of its own cluster.
//!
//! The controller derives a key for each cluster from its key-encryption key, and from that a key for each node of the
//! cluster. An edge is given the cluster's key and shows each node the node's own; a node is given its own only, so that
//! what one node knows opens no other. Nothing is stored: the same inputs give the same keys.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Context string of BLAKE3's key derivation mode (BLAKE3 §2.3). A change of it changes every key.
const CONTEXT: &str = "hosting edge key 1";

/// What the edges of one cluster share. Debug output shows none of it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ClusterEdgeKey([u8; 32]);

/// What the edges of a cluster show to one node. Debug output shows none of it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct NodeEdgeKey([u8; 32]);

impl ClusterEdgeKey {
    /// The key of the cluster with the id `cluster`. `kek` is the controller's key-encryption key.
    #[must_use]
    pub fn derive(kek: &[u8], cluster: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(kek);
        hasher.update(cluster.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The key of one of the cluster's nodes.
    #[must_use]
    pub fn for_node(&self, node_id: &str) -> NodeEdgeKey {
        NodeEdgeKey(*blake3::keyed_hash(&self.0, node_id.as_bytes()).as_bytes())
    }

    /// Takes over a key that was made before; `None` unless there are 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The key itself. Whoever asks for it answers for where it goes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl NodeEdgeKey {
    /// Takes over a key that was made before; `None` unless there are 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The key itself. Whoever asks for it answers for where it goes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As an edge shows it in the header `x-hosting-key`: 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn header_value(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Debug for ClusterEdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterEdgeKey(redacted)")
    }
}

impl fmt::Debug for NodeEdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeEdgeKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_each_input_and_by_nothing_else() {
        let key = |kek: u8, cluster: &str, node: &str| {
            ClusterEdgeKey::derive(&[kek; 32], cluster).for_node(node).header_value()
        };
        assert_eq!(key(1, "c1", "n1"), key(1, "c1", "n1"));
        let all = [key(1, "c1", "n1"), key(2, "c1", "n1"), key(1, "c2", "n1"), key(1, "c1", "n2")];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one));
            assert!(one.len() == 64 && one.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        }
        let cluster = ClusterEdgeKey::derive(&[1; 32], "c1");
        assert_ne!(cluster.as_bytes(), cluster.for_node("").as_bytes());
    }

    /// Edges, nodes and controllers of different builds must agree on them.
    #[test]
    fn the_derivation_stays_as_it_is() {
        let input = [&[7; 32][..], b"clu_1"].concat();
        let cluster = ClusterEdgeKey::derive(&[7; 32], "clu_1");
        assert_eq!(cluster.as_bytes(), &blake3::derive_key("hosting edge key 1", &input));
        let node = blake3::keyed_hash(cluster.as_bytes(), b"web-1");
        assert_eq!(cluster.for_node("web-1").as_bytes(), node.as_bytes());
        assert_eq!(cluster.for_node("web-1").header_value(), node.to_hex().as_str());
    }

    #[test]
    fn bytes_come_back_and_debug_output_shows_none() {
        let cluster = ClusterEdgeKey::derive(&[7; 32], "c1");
        let node = cluster.for_node("n1");
        assert_eq!(ClusterEdgeKey::from_bytes(cluster.as_bytes()), Some(cluster.clone()));
        assert_eq!(NodeEdgeKey::from_bytes(node.as_bytes()), Some(node.clone()));
        for wrong in [0, 31, 33] {
            assert_eq!(NodeEdgeKey::from_bytes(&vec![0; wrong]), None);
            assert_eq!(ClusterEdgeKey::from_bytes(&vec![0; wrong]), None);
        }
        assert_eq!(format!("{cluster:?} {node:?}"), "ClusterEdgeKey(redacted) NodeEdgeKey(redacted)");
    }
}
