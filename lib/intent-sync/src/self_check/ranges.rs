//! A few ranges of revisions.

use hosting_proto::feed::RevisionRange;

/// Ranges that are kept apart; beyond, the two that lie nearest to each other become one.
pub(crate) const MAX_RANGES: usize = 16;

/// Revisions, as at most [`MAX_RANGES`] ranges with both ends, in order. It holds at least what was put in: ranges that lie near each other
/// become one with what is between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds all revisions from `first` to `last`.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first.min(last), first.max(last));
        let from = self.0.partition_point(|range| range.1.saturating_add(1) < first);
        let upto = self.0.partition_point(|range| range.0 <= last.saturating_add(1));
        if let (Some(low), Some(high)) = (self.0.get(from), upto.checked_sub(1).and_then(|at| self.0.get(at)))
            && from < upto
        {
            (first, last) = (first.min(low.0), last.max(high.1));
        }
        self.0.splice(from..upto, [(first, last)]);
        while self.0.len() > MAX_RANGES {
            let gap = |at: &usize| match (self.0.get(*at), self.0.get(at + 1)) {
                (Some(low), Some(high)) => high.0 - low.1,
                (_, _) => u64::MAX,
            };
            let Some(at) = (0..self.0.len() - 1).min_by_key(gap) else { return };
            let high = self.0.remove(at + 1);
            if let Some(low) = self.0.get_mut(at) {
                low.1 = high.1;
            }
        }
    }

    pub(crate) fn to_wire(&self) -> Vec<RevisionRange> {
        self.0.iter().map(|(first, last)| RevisionRange { first: *first, last: *last }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there_and_no_more_than_a_few_ranges() {
        let mut ranges = Ranges::default();
        for (first, last) in [(5, 5), (7, 7), (6, 6), (20, 30), (25, 40), (1, 1), (3, 3)] {
            ranges.insert(first, last);
        }
        assert_eq!(ranges.0, [(1, 1), (3, 3), (5, 7), (20, 40)]);
        ranges.insert(2, 21);
        assert_eq!(ranges.0, [(1, 40)]);
        let mut many = Ranges::default();
        let all: Vec<u64> = (0..100).map(|n| n * n * 3).collect();
        for at in all.iter().rev().chain(&all) {
            many.insert(*at, *at);
        }
        assert_eq!(many.0.len(), MAX_RANGES);
        assert!(all.iter().all(|at| many.0.iter().any(|(first, last)| first <= at && at <= last)));
        assert!(many.0.is_sorted_by(|low, high| low.1 + 1 < high.0));
        assert_eq!(many.0.last(), Some(&(99 * 99 * 3, 99 * 99 * 3)), "those far apart stay apart");
    }
}
