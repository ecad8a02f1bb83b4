//! (in construction)
pub mod dead_letters;
pub mod events;
pub mod files;
pub mod generate;
pub mod lake;
