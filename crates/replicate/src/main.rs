//! The command and the daemon: arguments, configuration, wiring, output, HTTP API. Knows every crate; holds no
//! logic that another front end would need.

fn main() {}
