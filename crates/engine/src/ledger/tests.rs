//! Conformance of both ledgers.
