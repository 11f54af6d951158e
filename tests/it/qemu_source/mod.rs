//! The source `qemu` on real guests.
//!
//! `zoo` has a machine without an operating system, whose monitor writes to its disks as a guest would: every bus,
//! raw and qcow2, filters and jobs, restarts. `live` boots Debian, which writes all the time and has an agent.
//! `off` captures servers that do not run. `death` kills captures of all sorts at every point.

pub mod bench;
mod death;
mod live;
mod off;
mod promises;
mod zoo;
