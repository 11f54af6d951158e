//! Protocol F as a model, and the product's pass of it over a bucket.

mod fingerprint;
mod interleavings;
mod pass;
