//! Bytes that are held for a while: samples until their segment is finished, segments until nobody may
//! fetch them any more.

mod blocks;
mod content;
mod files;
mod large;

pub use blocks::{Blocks, MAX_WHOLE};
pub use content::Content;
pub use files::{ALIGNMENT, FileWriter};
pub use large::Large;
