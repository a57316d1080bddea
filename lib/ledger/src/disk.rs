//! The bytes on disk. Protobuf, so that a field added later is skipped by the version before (tags are never reused).

use hosting_intent::{Bytes, Cause, Digest};
use prost::Message;

use crate::{Meta, Quarantined, Record, Stored, Why};

#[derive(Clone, PartialEq, Message)]
struct DiskMeta {
    #[prost(string, tag = "1")]
    epoch: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(uint64, tag = "3")]
    count: u64,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct DiskStored {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(uint32, tag = "3")]
    cause: u32,
}

#[derive(Clone, PartialEq, Message)]
struct DiskRecord {
    /// In effect: the item itself, or the last good one of a quarantined key.
    #[prost(message, optional, tag = "1")]
    good: Option<DiskStored>,
    /// 0: accepted, and the other fields are empty.
    #[prost(uint32, tag = "2")]
    why: u32,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(message, optional, tag = "5")]
    wanted: Option<DiskStored>,
    #[prost(uint64, tag = "6")]
    rollout: u64,
}

pub(crate) fn encode_meta(meta: &Meta) -> Vec<u8> {
    DiskMeta {
        epoch: meta.epoch.clone(),
        revision: meta.revision,
        count: meta.count,
        digest: meta.digest.to_bytes().to_vec(),
    }
    .encode_to_vec()
}

pub(crate) fn decode_meta(bytes: &[u8]) -> Result<Meta, String> {
    let meta = DiskMeta::decode(bytes).map_err(|error| format!("position: {error}"))?;
    let digest = Digest::from_bytes(&meta.digest).ok_or("position: the digest has not 32 bytes")?;
    Ok(Meta { epoch: meta.epoch, revision: meta.revision, count: meta.count, digest })
}

pub(crate) fn encode_record(record: &Record) -> Vec<u8> {
    match record {
        Record::Accepted(stored) => DiskRecord { good: Some(stored.into()), ..DiskRecord::default() },
        Record::Quarantined(quarantined) => DiskRecord {
            good: quarantined.good.as_ref().map(Into::into),
            why: match quarantined.why {
                Why::Rejected => 1,
                Why::Held => 2,
                Why::Unsupported => 3,
                Why::Waiting(_) => 4,
            },
            rollout: match quarantined.why {
                Why::Waiting(rollout) => rollout,
                Why::Rejected | Why::Held | Why::Unsupported => 0,
            },
            reason: quarantined.reason.clone(),
            revision: quarantined.revision,
            wanted: quarantined.wanted.as_ref().map(Into::into),
        },
    }
    .encode_to_vec()
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<Record, String> {
    let record = DiskRecord::decode(bytes).map_err(|error| error.to_string())?;
    let why = match record.why {
        0 => {
            let stored = record.good.ok_or("an accepted item has no value")?;
            return Ok(Record::Accepted(stored.into()));
        }
        1 => Why::Rejected,
        2 => Why::Held,
        3 => Why::Unsupported,
        4 => Why::Waiting(record.rollout),
        other => return Err(format!("unknown quarantine {other}")),
    };
    Ok(Record::Quarantined(Box::new(Quarantined {
        why,
        reason: record.reason,
        revision: record.revision,
        wanted: record.wanted.map(Into::into),
        good: record.good.map(Into::into),
    })))
}

impl From<&Stored> for DiskStored {
    fn from(stored: &Stored) -> Self {
        Self {
            revision: stored.revision,
            value: stored.value.clone(),
            cause: match stored.cause {
                Cause::Planner => 0,
                Cause::Person => 1,
                Cause::Restore => 2,
            },
        }
    }
}

impl From<DiskStored> for Stored {
    fn from(stored: DiskStored) -> Self {
        Self {
            revision: stored.revision,
            value: stored.value,
            // A cause from a newer version counts as nobody's word.
            cause: match stored.cause {
                1 => Cause::Person,
                2 => Cause::Restore,
                _ => Cause::Planner,
            },
        }
    }
}
