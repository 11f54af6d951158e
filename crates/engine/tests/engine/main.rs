//! The engine on the memory cloud: one binary, so that it links once.

mod archive;
mod crash;
mod house;
mod kill;
mod restore;
mod runs;
mod upkeep;
