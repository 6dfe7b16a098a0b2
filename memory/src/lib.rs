//! Bytes that are held for a while: samples until their segment is finished, segments until nobody may
//! fetch them any more.

mod blocks;
mod content;

pub use blocks::{ALIGNMENT, Blocks, MAX_WHOLE};
pub use content::Content;
