//! (in construction)
pub mod lake;
pub mod generate;
pub mod dead_letters;
pub mod events;
pub mod files;
