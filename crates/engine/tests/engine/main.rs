//! The engine on the memory cloud: one binary, so that it links once.

mod archive;
mod house;
mod runs;
