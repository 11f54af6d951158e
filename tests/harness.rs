//! What the workspace tests share: fixtures, a command runner, fault helpers.

pub mod azurite;
pub mod guest;
pub mod judge;
pub mod seaweed;
pub mod sim;
