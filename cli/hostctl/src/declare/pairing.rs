//! Which of several resources of one name an item means.

use std::collections::BTreeMap;

/// How items and resources of one name belong together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pairs {
    /// By the item's place, that of its resource.
    pub(super) pairs: BTreeMap<usize, usize>,
    /// Items and resources of which it cannot be told.
    pub(super) open: (Vec<usize>, Vec<usize>),
}

/// Pairs items with resources. `count` says in how many fields two differ; `None`: they cannot be one.
///
/// What does not differ belongs together. Of what is left, two do that differ the least from each other and more from all others. What
/// is left on one side alone is new, or in no file.
pub(super) fn pair(items: usize, resources: usize, count: impl Fn(usize, usize) -> Option<usize>) -> Pairs {
    let mut left: Vec<usize> = (0..items).collect();
    let mut there: Vec<usize> = (0..resources).collect();
    let mut pairs = BTreeMap::new();
    left.retain(|item| {
        let same = there.iter().position(|one| count(*item, *one) == Some(0));
        match same {
            Some(place) => {
                pairs.insert(*item, there.remove(place));
                false
            }
            None => true,
        }
    });
    loop {
        let nearest_of = |item: usize| only_least(there.iter().map(|one| (*one, count(item, *one))));
        let nearest_to = |one: usize| only_least(left.iter().map(|item| (*item, count(*item, one))));
        let found = left.iter().find_map(|item| {
            let one = nearest_of(*item)?;
            (nearest_to(one) == Some(*item)).then_some((*item, one))
        });
        let Some((item, one)) = found else { break };
        pairs.insert(item, one);
        left.retain(|other| *other != item);
        there.retain(|other| *other != one);
    }
    let may_be = |item: &usize, one: &usize| count(*item, *one).is_some();
    let items_open: Vec<usize> =
        left.iter().copied().filter(|item| there.iter().any(|one| may_be(item, one))).collect();
    let open_there: Vec<usize> =
        there.iter().copied().filter(|one| items_open.iter().any(|item| may_be(item, one))).collect();
    Pairs { pairs, open: (items_open, open_there) }
}

/// The one with the smallest number, if no other has the same.
fn only_least(all: impl Iterator<Item = (usize, Option<usize>)>) -> Option<usize> {
    let mut counted: Vec<(usize, usize)> = all.filter_map(|(one, count)| Some((count?, one))).collect();
    counted.sort_unstable();
    match counted.as_slice() {
        [] => None,
        [(_, one)] => Some(*one),
        [(least, one), (next, _), ..] => (least < next).then_some(*one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records as (content, ttl).
    fn paired(items: &[(&str, u32)], there: &[(&str, u32)]) -> (Vec<(usize, usize)>, usize) {
        let count = |a: usize, b: usize| {
            let (a, b) = (items[a], there[b]);
            Some(usize::from(a.0 != b.0) + usize::from(a.1 != b.1))
        };
        let found = pair(items.len(), there.len(), count);
        (found.pairs.into_iter().collect(), found.open.0.len())
    }

    #[test]
    fn what_is_the_same_goes_first_and_one_that_is_left_is_changed() {
        assert_eq!(paired(&[("a", 60)], &[("b", 60)]), (vec![(0, 0)], 0));
        assert_eq!(paired(&[("b", 60), ("a", 60)], &[("a", 60), ("c", 60)]), (vec![(0, 1), (1, 0)], 0));
        assert_eq!(paired(&[("a", 60), ("b", 60)], &[("a", 60)]), (vec![(0, 0)], 0));
        assert_eq!(paired(&[("a", 60)], &[("b", 60), ("a", 60)]), (vec![(0, 1)], 0));
        assert_eq!(paired(&[("a", 60)], &[]), (vec![], 0));
    }

    #[test]
    fn what_differs_the_least_belongs_together() {
        let found = paired(&[("a", 60), ("b", 60)], &[("b", 300), ("a", 300)]);
        assert_eq!(found, (vec![(0, 1), (1, 0)], 0));
    }

    #[test]
    fn what_cannot_be_told_is_left_open() {
        assert_eq!(paired(&[("a", 60)], &[("b", 60), ("c", 60)]), (vec![], 1));
        assert_eq!(paired(&[("a", 60), ("b", 60)], &[("c", 60)]), (vec![], 2));
        assert_eq!(paired(&[("a", 60), ("b", 60)], &[("c", 60), ("d", 60)]), (vec![], 2));
        let never = pair(2, 2, |_, _| None);
        assert_eq!(never, Pairs::default());
    }
}
