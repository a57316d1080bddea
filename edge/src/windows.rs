//! Memory that the large windows of client connections may promise together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What HTTP/2 lets a sender have under way when nothing else is agreed (RFC 9113 §6.9.2).
pub(crate) const SMALL: u32 = 65_535;
/// What a stream may have under way: 1 MiB every 100 ms is 80 Mbit/s.
pub(crate) const LARGE: u32 = 1_024 * 1_024;

/// What is left.
#[derive(Debug)]
pub(crate) struct Windows(AtomicUsize);

/// A connection's share of it.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    windows: &'a Windows,
    bytes: usize,
}

impl Windows {
    pub(crate) fn new(budget: usize) -> Self {
        Self(AtomicUsize::new(budget))
    }

    /// A share of so many bytes, while there are as many.
    pub(crate) fn take(&self, bytes: u32) -> Option<Share<'_>> {
        let bytes = bytes as usize;
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .ok()
            .map(|_| Share { windows: self, bytes })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.windows.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_windows_are_given_while_there_is_memory_for_them() {
        let windows = Windows::new(2 * LARGE as usize + 1);
        let (first, second) = (windows.take(LARGE), windows.take(LARGE));
        assert!(first.is_some() && second.is_some() && windows.take(LARGE).is_none());
        drop(first);
        assert!(windows.take(2 * LARGE).is_none());
        assert!(windows.take(LARGE).is_some());
    }
}
