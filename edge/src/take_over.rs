//! One process of the edge takes over from the one that runs (ADR 41): who says what, over which socket.
//!
//! ```text
//! new                               old
//! hello            ──────────────▶  who are you? the same user, or root
//!                  ◀──────────────  running: its sockets
//! lend feed        ──────────────▶  ends its session, writes its ledger, lets both locks go
//!                  ◀──────────────  feed lent
//! (loads the ledger, connects, has a whole view)
//! give sockets     ──────────────▶
//!                  ◀──────────────  sockets, and for UDP where its own packets go
//! serving          ──────────────▶  accepts no more
//!                  ◀──────────────  yours
//! (accepts)                         (drains, and closes this connection at its end)
//! ```
//!
//! Until `serving` the old process serves as before: whatever becomes of the new one, it then takes its feed back. The modules own
//! the words and their order, never what a server does with its sockets. Called by `run`.

mod giver;
mod protocol;
mod taker;

pub(crate) use giver::{Giver, listen};
pub(crate) use taker::{Taken, Taker};
