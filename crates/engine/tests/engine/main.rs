//! The engine on the memory cloud: one binary, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a panic is the verdict of a test

mod amnesia;
mod archive;
mod crash;
mod house;
mod kill;
mod moves;
mod options;
mod relay;
mod relay_crash;
mod restore;
mod runs;
mod twice;
mod upkeep;
