//! What the integration tests stand on: inputs, a naive oracle, and the command as a child process.
//!
//! Everything here may panic: it is test code that happens to be shared, and a panic with a sentence is its report.

pub mod chaos;
pub mod corpus;
pub mod harness;
pub mod late_registry;
pub mod live;
pub mod nexmark;
pub mod oracle;
pub mod pace;
pub mod pages;
pub mod published;
pub mod rows;
pub mod services;
pub mod stream;
pub mod topics;
