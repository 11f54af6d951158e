//! The command and the daemon: arguments, configuration, wiring, output, HTTP API. Knows every crate; holds no
//! logic that another front end would need.

mod config;
mod output;

fn main() {}
