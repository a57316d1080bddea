//! Serves the IntentFeed: sessions, identity, enrolment.
