//! Everything that is printed: data on stdout, the rest on stderr. Nothing else in the program prints.

pub mod error;
