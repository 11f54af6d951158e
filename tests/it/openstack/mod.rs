//! OpenStack, against real services: `tests/run.sh openstack` starts them and ends them.
//!
//! Two regions with Glance, Nova, Neutron and Cinder; every test has a project of its own in both. A judge that shares no
//! code with the project tells what is there before and after.

mod crash;
mod freeze;
mod house;
mod increment;
mod journey;
mod lab;
mod relay;
mod restore;
mod services;
mod source;
mod suites;
mod twice;
