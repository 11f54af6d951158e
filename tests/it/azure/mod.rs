//! The provider `azure` against the simulator: the suites, a storm of delays and faults, and a guest that boots.

mod encryption;
mod gallery;
mod journey;
mod keep;
mod lab;
mod points;
mod relay;
mod rights;
mod storm;
mod suites;
mod trusted;
mod update;
