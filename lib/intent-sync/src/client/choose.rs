//! Which controller is gone to next.

/// The controller to go to: the one of the last time, or the one that follows it in the list, which may have changed meanwhile.
pub(super) fn choose(controllers: &[String], last: &str, elsewhere: bool) -> String {
    let place = controllers.iter().position(|address| address == last);
    let next = place.map_or(0, |place| place + usize::from(elsewhere));
    controllers.get(next).or_else(|| controllers.first()).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_controller_is_chosen_whatever_became_of_the_list() {
        let list = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        assert_eq!(choose(&list(&["a", "b"]), "", false), "a");
        assert_eq!(choose(&list(&["a", "b"]), "a", false), "a");
        assert_eq!(choose(&list(&["a", "b"]), "a", true), "b");
        assert_eq!(choose(&list(&["a", "b"]), "b", true), "a");
        assert_eq!(choose(&list(&["c", "a", "b"]), "a", true), "b", "one more came");
        assert_eq!(choose(&list(&["c"]), "a", true), "c", "it is gone");
        assert_eq!(choose(&[], "a", true), "");
    }
}
