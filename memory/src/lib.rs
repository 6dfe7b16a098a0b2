//! Bytes that are held for a while: samples until their segment is finished, segments until nobody may
//! fetch them any more.

mod content;
mod files;
mod pages;

pub use content::Content;
pub use files::{ALIGNMENT, FileWriter};
pub use pages::FINE;
