//! A map in buckets, each swapped atomically: a change costs its bucket, readers never wait.
