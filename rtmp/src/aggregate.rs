//! Aggregate messages (RTMP 1.0 section 7.1.6): several FLV tags in one message.

use crate::chunk::Message;
use bytes::Bytes;

/// Parts of one aggregate: seconds of media, and no room for a flood of empty ones.
const MAX_PARTS: usize = 4096;
/// Bytes of an FLV tag header.
const TAG_HEADER: usize = 11;

/// The messages an aggregate is made of; none if its parts do not fit its length. Timestamps follow its own.
pub(crate) fn split(message: &Message) -> Option<Vec<Message>> {
    let payload = &message.payload;
    let (mut at, mut first, mut parts) = (0, None, Vec::new());
    while at < payload.len() {
        let header = payload.get(at..at + TAG_HEADER)?;
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let timestamp = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        let body = at + TAG_HEADER..at + TAG_HEADER + length;
        if body.end > payload.len() || parts.len() == MAX_PARTS {
            return None;
        }
        let offset = timestamp.wrapping_sub(*first.get_or_insert(timestamp));
        // The back pointer after the last tag may be missing.
        at = body.end + 4;
        parts.push(Message {
            timestamp: message.timestamp.wrapping_add(offset),
            type_id: header[0] & 0x1F,
            stream_id: message.stream_id,
            // Copied: a slice would keep the whole aggregate alive for as long as its smallest part.
            payload: Bytes::copy_from_slice(&payload[body]),
        });
    }
    Some(parts)
}
