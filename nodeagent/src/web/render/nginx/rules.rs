//! What is never sent as a file, on any runtime.

/// Endings of files with source in them, as regular expressions (PCRE) that are matched without case. PHP runs `.php`
/// alone; the others are read by other servers or included by scripts.
pub(super) const SOURCE: &[&str] = &["php[0-9]*", "phps", "pht", "phtml", "phar", "inc"];

/// Endings that editors and tools give to their copies of files.
pub(super) const COPIES: &[&str] = &["bak[0-9]*", "old", "orig", "rej", "save(?:\\.[0-9]+)?", "sw[a-p]"];

/// A pattern for the names of both kinds.
pub(super) fn never_sent() -> String {
    format!("(?:\\.(?:{}|{})|[~#])$", SOURCE.join("|"), COPIES.join("|"))
}
