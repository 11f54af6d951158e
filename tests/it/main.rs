//! The workspace tests: one binary, so that it links once.
mod architecture;
mod azure;
mod formats;
mod increments;
mod inspect;
mod migration;
mod nbd;
mod openstack;
mod qemu_source;
mod qemu_target;
mod qemu_target_crash;
mod vault_reader;
