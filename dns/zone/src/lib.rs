//! Zones, RRsets and answers: pure.
//!
//! Owns what is served: the zones, found by longest suffix in a [`hosting_swap_map::SwapMap`], each one immutable snapshot
//! behind one pointer, and the answers made from them. It has no sockets, no clock and no randomness, never blocks a reader
//! and never panics on what a packet or an intent holds. The server (`hosting-dns`) calls [`Zones::answer`] from its
//! packet threads and [`Writer`] from the feed's thread.
//!
//! # What is served
//! * RFC 1034 §4.3.2 with CNAMEs followed inside their zone, wildcards (RFC 4592), empty non-terminals and cuts (RFC 8020),
//!   referrals with glue (RFC 9471), negative answers with SOA (RFC 2308), EDNS(0) (RFC 6891), `ANY` as one HINFO (RFC 8482).
//! * A name that has a CNAME and other data (two items, each valid by itself): the other data is served, the CNAME is not.
//! * The apex NS set is the zone's name servers and those of an NS RRset at the apex together, with the zone's TTL.
//! * An RRset that refers to an address set which has not arrived: SERVFAIL for that name and type, because an empty answer
//!   would be believed and cached. An address set without addresses of the family: NODATA.
//! * HTTPS records (RFC 9460) of an owner without its own, where its address RRset refers to an address set and says so: the set's data.
//! * RRsets whose zone has not arrived are kept and served once it has.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod answer;
mod message;
mod name;
mod query;
mod rdata;
mod record;
mod rtype;
mod writer;
mod zone;

pub use answer::{Answered, Outcome, Transport, truncated};
pub use message::rcode;
pub use record::{MAX_RRSET_BYTES, MAX_RRSET_RECORDS, record_type_name};
pub use writer::{Applied, Writer};
pub use zone::{Counts, Zones};
