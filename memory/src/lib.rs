//! Bytes that are held for a while: segments until nobody may fetch them any more, and lengths of memory for samples, and lists of
//! them, until their segment is finished.

mod blocks;
mod content;
mod files;
mod pages;

pub use blocks::Blocks;
pub use content::Content;
pub use files::{ALIGNMENT, FileWriter};
pub use pages::{MAX_PACKED, PAGE, taken};
