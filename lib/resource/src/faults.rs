//! What is wrong with several fields of one body: a caller is told all of it at once.

use crate::SpecError;

/// Faults of one body that are told; a body full of them must not become an answer full of them.
const MOST: usize = 50;

/// Collects what checks find.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<SpecError>);

impl Faults {
    /// Notes what a check found; the value of one that found nothing.
    pub(crate) fn note<T>(&mut self, checked: Result<T, SpecError>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(SpecError::Several(all)) => {
                self.0.extend(all);
                None
            }
            Err(one) => {
                self.0.push(one);
                None
            }
        }
    }

    /// Notes a fault.
    pub(crate) fn fault(&mut self, fault: SpecError) {
        self.0.push(fault);
    }

    /// Puts what a check made in the place of what it was made of.
    pub(crate) fn put<T>(&mut self, place: &mut T, checked: Result<T, SpecError>) {
        if let Some(value) = self.note(checked) {
            *place = value;
        }
    }

    /// What is wrong with fields goes before what is not served yet: it is to be mended in any case.
    ///
    /// # Errors
    /// What was noted, in its order.
    pub(crate) fn end(self) -> Result<(), SpecError> {
        let (mut fields, mut others) = (Vec::new(), Vec::new());
        for fault in self.0 {
            let is_field = matches!(fault, SpecError::Invalid { .. });
            if is_field { fields.push(fault) } else { others.push(fault) }
        }
        fields.truncate(MOST);
        match fields.len() {
            0 => others.into_iter().next().map_or(Ok(()), Err),
            1 => fields.into_iter().next().map_or(Ok(()), Err),
            _ => Err(SpecError::Several(fields)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(field: &str) -> SpecError {
        SpecError::invalid(field, "is wrong")
    }

    #[test]
    fn all_fields_are_told_in_their_order_and_one_alone_is_itself() {
        assert_eq!(Faults::default().end(), Ok(()));
        let mut one = Faults::default();
        assert_eq!(one.note(Ok(7)), Some(7));
        assert_eq!(one.note::<()>(Err(fault("a"))), None);
        assert_eq!(one.end(), Err(fault("a")));
        let mut several = Faults::default();
        several.note::<()>(Err(SpecError::not_served("x")));
        several.note::<()>(Err(fault("a")));
        several.note::<()>(Err(SpecError::Several(vec![fault("b"), fault("c")]).within("w[1]")));
        let told = several.end().unwrap_err();
        assert_eq!(told, SpecError::Several(vec![fault("a"), fault("w[1].b"), fault("w[1].c")]));
        assert_eq!(told.to_string(), "validation error: a: is wrong");
        let mut place = 1;
        let mut put = Faults::default();
        put.put(&mut place, Ok(2));
        put.put(&mut place, Err(fault("p")));
        assert_eq!((place, put.end()), (2, Err(fault("p"))));
        let mut unserved = Faults::default();
        unserved.note::<()>(Err(SpecError::not_served("x")));
        assert_eq!(unserved.end(), Err(SpecError::not_served("x")));
    }
}
