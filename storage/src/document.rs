//! A text that changes with every publication of a window, as it is sent.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use memory::Content;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::OnceLock;

/// A document that changes with every publication.
#[derive(Debug, Default)]
pub struct Document {
    /// The text as sent.
    pub bytes: Bytes,
    /// Strong validator (RFC 9110 section 8.8.3), without quotes.
    pub etag: String,
    gzip: OnceLock<Bytes>,
}

impl Document {
    pub(crate) fn new(text: impl Into<Vec<u8>>) -> Self {
        // In memory that fits: it is held until the next one, or for a minute.
        let bytes = Bytes::from(text.into().into_boxed_slice());
        Self { etag: hex(&Sha256::digest(&bytes)[..16]), bytes, gzip: OnceLock::new() }
    }

    /// The text as files have it.
    pub fn content(&self) -> Content {
        self.bytes.clone().into()
    }

    /// The text compressed, made when first asked for.
    pub fn gzip(&self) -> Bytes {
        self.gzip.get_or_init(|| compress(&self.bytes)).clone()
    }
}

fn compress(bytes: &Bytes) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail; an empty answer would be wrong, the plain one is never cached here.
    let _ = encoder.write_all(bytes);
    encoder.finish().map(|compressed| compressed.into_boxed_slice().into()).unwrap_or_default()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
    text
}
