//! The controller's word of how far its store was, in the hands of its subscribers.
//!
//! A store that is put back to an older copy, or a disk that is set back to a snapshot, remembers nothing that could prove it.
//! So every change and every Bookmark carries how far the store was, under a key that only controllers of this store have. Who
//! shows a word beyond the head proves that the store went back; who merely says that it is ahead proves nothing: a damaged
//! ledger and a lie look alike.

use bytes::Bytes;
use hosting_proto::feed::Down;
use hosting_proto::feed::down::Frame;
use zeroize::Zeroizing;

const TAG: usize = 32;
/// No epoch is longer.
const MAX_BYTES: usize = 512;

/// Gives and checks words: `tag ‖ head (8 bytes, big endian) ‖ epoch`.
#[derive(Clone)]
pub(crate) struct Witness(Zeroizing<[u8; 32]>);

impl Witness {
    pub(crate) const fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(key)
    }

    /// The word that the store stood at `head` of `epoch`.
    fn attest(&self, epoch: &str, head: u64) -> Bytes {
        let said = [&head.to_be_bytes(), epoch.as_bytes()].concat();
        let tag = blake3::keyed_hash(&self.0, &said);
        [tag.as_bytes(), said.as_slice()].concat().into()
    }

    /// Puts the word into the frames that tell a subscriber where the store of `epoch` is.
    pub(crate) fn stamp(&self, epoch: &str, frames: &mut [Down]) {
        for frame in frames {
            match &mut frame.frame {
                Some(Frame::Delta(delta)) if !delta.more => {
                    delta.witness = self.attest(epoch, delta.revision)
                }
                Some(Frame::SnapshotEnd(end)) => end.witness = self.attest(epoch, end.revision),
                Some(Frame::Bookmark(bookmark)) => bookmark.witness = self.attest(epoch, bookmark.head),
                _ => {}
            }
        }
    }

    /// The head of `epoch` that a word of ours speaks of; `None` for anybody else's, and for another epoch's.
    pub(crate) fn head(&self, word: &[u8], epoch: &str) -> Option<u64> {
        let (tag, said) = word.split_first_chunk::<TAG>().filter(|_| word.len() <= MAX_BYTES)?;
        // In constant time.
        if blake3::keyed_hash(&self.0, said) != *tag {
            return None;
        }
        let (head, of) = said.split_first_chunk::<8>()?;
        (of == epoch.as_bytes()).then(|| u64::from_be_bytes(*head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_words_are_believed() {
        let ours = Witness::new(Zeroizing::new([1; 32]));
        let word = ours.attest("e1", 900);
        assert_eq!(ours.head(&word, "e1"), Some(900));
        assert_eq!(ours.head(&word, "e2"), None);
        assert_eq!(Witness::new(Zeroizing::new([2; 32])).head(&word, "e1"), None);
        for at in 0..word.len() {
            let mut bent = word.to_vec();
            bent[at] ^= 1;
            assert_eq!(ours.head(&bent, "e1"), None, "byte {at}");
            assert_eq!(ours.head(&word[..at], "e1"), None, "cut at {at}");
        }
        assert_eq!(ours.head(&[word.as_ref(), b"x"].concat(), "e1"), None);
        assert_eq!(ours.head(&ours.attest(&"e".repeat(600), 1), &"e".repeat(600)), None);
    }
}
