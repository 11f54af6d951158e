//! The provider `azure` against the simulator: the suites, a storm of delays and faults, and a guest that boots.

mod lab;
mod suites;
