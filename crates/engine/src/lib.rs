//! Runs: plans, durable steps, streaming stages, the ledger, schedule, retention, restore and drills.
//!
//! Owns what happens when, and what must survive a crash. Must not know a provider, an object store, a file format or
//! the command line.
