//! Protocol F as a model, and the product's pass of it over a bucket.

mod interleavings;
mod pass;
