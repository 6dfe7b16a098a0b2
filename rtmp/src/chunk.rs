//! Chunk reader (RTMP 1.0 section 5.3): chunks of interleaved chunk streams in, whole messages out.

use bytes::{Buf, Bytes};
use thiserror::Error;

/// Chunk size before the peer sets one (RTMP 1.0 section 5.4.1), bytes.
const INITIAL_CHUNK_SIZE: u32 = 128;
/// Largest chunk size: the field's first bit must be zero (RTMP 1.0 section 5.4.1), bytes.
const MAX_CHUNK_SIZE: u32 = 0x7FFF_FFFF;
/// Chunk streams one peer may use. Encoders use three to six; each one costs memory.
pub const MAX_CHUNK_STREAMS: usize = 64;
/// Unfinished messages one peer may hold here, in messages of the largest size: audio and video interleave.
const MAX_PARTIAL_MESSAGES: usize = 2;
/// Largest message of a peer that has not been let in, bytes: commands are far smaller.
pub const MAX_FIRST_MESSAGE: usize = 64 << 10;
/// The timestamp field that says "see the extended timestamp" (RTMP 1.0 section 5.3.1.3).
const EXTENDED: u32 = 0x00FF_FFFF;
/// First allocation of a message. It grows as bytes arrive, so that little is allocated on a promise: to twice as much as
/// there is, ...
const FIRST_ALLOCATION: usize = 4096;
/// ... or, from who has been let in, to this many times as much, ...
const GROWTH: usize = 8;
/// ... as long as that is not more than this. A key frame that comes in many chunks is moved once or twice then, not five times.
const MAX_GROWN: usize = 256 << 10;
/// What was read ends inside a message more often than not, with every publisher, and the rest comes with a later read: until
/// then there is no room for it, unless so much is there already that a peer could have us copy it again and again.
const MAX_SHRUNK: usize = 64 << 10;

/// A whole RTMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Milliseconds, wrapping at 2^32.
    pub timestamp: u32,
    /// Message type id (RTMP 1.0 section 6.1.1).
    pub type_id: u8,
    /// Message stream id.
    pub stream_id: u32,
    /// The message's bytes; where they came in one chunk, a part of what was read.
    pub payload: Bytes,
}

/// A peer's violation of the chunk stream protocol; its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// A compressed header refers to a header that was never sent.
    #[error("chunk stream {0} starts with a compressed header")]
    NoPreviousHeader(u32),
    /// A new message header came in the middle of a message.
    #[error("a new message starts inside an unfinished one on chunk stream {0}")]
    Unfinished(u32),
    /// More chunk streams than [`MAX_CHUNK_STREAMS`].
    #[error("more than {MAX_CHUNK_STREAMS} chunk streams")]
    TooManyChunkStreams,
    /// More unfinished bytes than two messages of the largest size allowed.
    #[error("too many bytes of unfinished messages")]
    TooManyPartialBytes,
    /// A message longer than the peer may send at this point.
    #[error("a message of {0} bytes is too long here")]
    TooLong(usize),
    /// Chunk size zero or with its first bit set.
    #[error("chunk size {0} is not between 1 and {MAX_CHUNK_SIZE}")]
    ChunkSize(u32),
    /// A protocol control message shorter than its field.
    #[error("protocol control message {0} is too short")]
    ShortControl(u8),
}

/// Reassembles messages; state is kept per chunk stream, so audio and video may interleave.
#[derive(Debug)]
pub struct ChunkReader {
    chunk_size: u32,
    streams: Vec<ChunkStream>,
    /// The chunk being read: index into `streams` and payload bytes of the chunk still to come.
    open: Option<(usize, usize)>,
    partial_bytes: usize,
    max_message: usize,
}

#[derive(Debug)]
struct ChunkStream {
    id: u32,
    timestamp: u32,
    delta: u32,
    /// The extended field as last sent, if the last header had one.
    extended: Option<u32>,
    length: usize,
    type_id: u8,
    stream_id: u32,
    in_message: bool,
    payload: Vec<u8>,
}

/// A parsed chunk header and how many bytes it took.
struct Header {
    index: usize,
    length: usize,
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self {
            chunk_size: INITIAL_CHUNK_SIZE,
            streams: Vec::new(),
            open: None,
            partial_bytes: 0,
            max_message: MAX_FIRST_MESSAGE,
        }
    }
}

impl ChunkReader {
    /// Takes the next whole message out of `input`, advancing it past what was used.
    ///
    /// `None` means that more bytes are needed: keep what is left of `input` (less than one chunk
    /// header, 18 bytes) in front of the next bytes. SetChunkSize and Abort are obeyed here and not returned.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Message>, ChunkError> {
        loop {
            if self.open.is_none() {
                let Some(header) = self.read_header(input)? else { return Ok(None) };
                input.advance(header.length);
                self.begin_chunk(header.index)?;
            }
            let Some(message) = self.read_payload(input)? else {
                if self.open.is_some() {
                    return Ok(None);
                }
                continue;
            };
            match message.type_id {
                1 => self.set_chunk_size(&message.payload)?,
                2 => self.abort(&message.payload)?,
                _ => return Ok(Some(message)),
            }
        }
    }

    /// Lets messages be this long from now on, bytes.
    pub fn set_max_message(&mut self, length: usize) {
        self.max_message = length;
    }

    fn begin_chunk(&mut self, index: usize) -> Result<(), ChunkError> {
        let stream = &self.streams[index];
        if stream.length > self.max_message {
            return Err(ChunkError::TooLong(stream.length));
        }
        let wanted = stream.length - stream.payload.len();
        self.open = Some((index, wanted.min(self.chunk_size as usize)));
        Ok(())
    }

    /// Takes payload of the open chunk; the message, when this chunk completed it.
    fn read_payload(&mut self, input: &mut Bytes) -> Result<Option<Message>, ChunkError> {
        let Some((index, wanted)) = self.open else { return Ok(None) };
        let taken = wanted.min(input.len());
        if self.partial_bytes + taken > MAX_PARTIAL_MESSAGES * self.max_message {
            return Err(ChunkError::TooManyPartialBytes);
        }
        let stream = &mut self.streams[index];
        // Most messages arrive whole: they stay where they are.
        if taken == stream.length {
            self.open = None;
            return Ok(Some(stream.finish(input.split_to(taken))));
        }
        let growth = if self.max_message > MAX_FIRST_MESSAGE { GROWTH } else { 2 };
        stream.append(&input[..taken], growth);
        self.partial_bytes += taken;
        input.advance(taken);
        if taken < wanted {
            if stream.payload.len() < MAX_SHRUNK {
                stream.payload.shrink_to_fit();
            }
            self.open = Some((index, wanted - taken));
            return Ok(None);
        }
        self.open = None;
        if stream.payload.len() < stream.length {
            return Ok(None);
        }
        self.partial_bytes -= stream.payload.len();
        let payload = std::mem::take(&mut stream.payload);
        Ok(Some(stream.finish(payload.into())))
    }

    /// Parses one chunk header; `None` if `input` does not hold all of it.
    fn read_header(&mut self, input: &[u8]) -> Result<Option<Header>, ChunkError> {
        let Some((format, id, basic_length)) = basic_header(input) else { return Ok(None) };
        let field_length = [11, 7, 3, 0][format as usize];
        let Some(fields) = input.get(basic_length..basic_length + field_length) else { return Ok(None) };
        let rest = &input[basic_length + field_length..];
        let known = self.streams.iter().position(|stream| stream.id == id);
        let extended_length = if format == 3 {
            let stream = &self.streams[known.ok_or(ChunkError::NoPreviousHeader(id))?];
            match stream.repeated_extended(rest) {
                Some(length) => length,
                None => return Ok(None),
            }
        } else if u24(fields) == EXTENDED {
            if rest.len() < 4 {
                return Ok(None);
            }
            4
        } else {
            0
        };
        let index = match known {
            Some(index) => index,
            None if format != 0 => return Err(ChunkError::NoPreviousHeader(id)),
            None => self.open_stream(id)?,
        };
        let extended = (extended_length == 4).then(|| u32_be(rest));
        self.streams[index].apply(format, fields, extended)?;
        Ok(Some(Header { index, length: basic_length + field_length + extended_length }))
    }

    fn open_stream(&mut self, id: u32) -> Result<usize, ChunkError> {
        if self.streams.len() == MAX_CHUNK_STREAMS {
            return Err(ChunkError::TooManyChunkStreams);
        }
        self.streams.push(ChunkStream {
            id,
            timestamp: 0,
            delta: 0,
            extended: None,
            length: 0,
            type_id: 0,
            stream_id: 0,
            in_message: false,
            payload: Vec::new(),
        });
        Ok(self.streams.len() - 1)
    }

    fn set_chunk_size(&mut self, payload: &[u8]) -> Result<(), ChunkError> {
        let size = control_field(1, payload)?;
        if size == 0 || size > MAX_CHUNK_SIZE {
            return Err(ChunkError::ChunkSize(size));
        }
        self.chunk_size = size;
        Ok(())
    }

    /// Abort (RTMP 1.0 section 5.4.2): forgets the unfinished message of a chunk stream.
    fn abort(&mut self, payload: &[u8]) -> Result<(), ChunkError> {
        let id = control_field(2, payload)?;
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            self.partial_bytes -= stream.payload.len();
            stream.payload = Vec::new();
            stream.in_message = false;
        }
        Ok(())
    }
}

impl ChunkStream {
    /// Length of the extended timestamp before this format 3 chunk's payload; `None` needs more bytes.
    ///
    /// The specification repeats the field (section 5.3.1.3); several encoders leave it out. Four
    /// bytes equal to what was sent before are taken for the field.
    fn repeated_extended(&self, rest: &[u8]) -> Option<usize> {
        let Some(extended) = self.extended else { return Some(0) };
        if rest.len() < 4 {
            return None;
        }
        let value = u32_be(rest);
        Some(if value == extended || value == self.timestamp { 4 } else { 0 })
    }

    fn apply(&mut self, format: u8, fields: &[u8], extended: Option<u32>) -> Result<(), ChunkError> {
        if format == 3 {
            if !self.in_message {
                self.timestamp = self.timestamp.wrapping_add(self.delta);
                self.in_message = true;
            }
            return Ok(());
        }
        if self.in_message {
            // Encoders built on rml_rtmp repeat the whole header in each chunk of a command.
            return if format == 0 && self.repeats(fields) { Ok(()) } else { Err(ChunkError::Unfinished(self.id)) };
        }
        self.in_message = true;
        self.extended = extended;
        // After a format 0 header the timestamp itself is the delta of a format 3 message (section 5.3.1.2.4).
        self.delta = extended.unwrap_or_else(|| u24(fields));
        self.timestamp = if format == 0 { self.delta } else { self.timestamp.wrapping_add(self.delta) };
        if format <= 1 {
            self.length = u24(&fields[3..]) as usize;
            self.type_id = fields[6];
        }
        if format == 0 {
            self.stream_id = u32::from_le_bytes([fields[7], fields[8], fields[9], fields[10]]);
        }
        Ok(())
    }

    fn repeats(&self, fields: &[u8]) -> bool {
        u24(&fields[3..]) as usize == self.length
            && fields[6] == self.type_id
            && fields[7..11] == self.stream_id.to_le_bytes()
    }

    fn append(&mut self, bytes: &[u8], growth: usize) {
        let (length, needed) = (self.payload.len(), self.payload.len() + bytes.len());
        if needed > self.payload.capacity() {
            let grown = needed.max(2 * length).max(MAX_GROWN.min(growth * length)).max(FIRST_ALLOCATION);
            self.payload.reserve_exact(grown.min(self.length) - length);
        }
        self.payload.extend_from_slice(bytes);
    }

    fn finish(&mut self, payload: Bytes) -> Message {
        self.in_message = false;
        Message { timestamp: self.timestamp, type_id: self.type_id, stream_id: self.stream_id, payload }
    }
}

/// Format, chunk stream id and length of the basic header (section 5.3.1.1).
fn basic_header(input: &[u8]) -> Option<(u8, u32, usize)> {
    let first = *input.first()?;
    let format = first >> 6;
    Some(match first & 0x3F {
        0 => (format, u32::from(*input.get(1)?) + 64, 2),
        1 => (format, u32::from(*input.get(1)?) + u32::from(*input.get(2)?) * 256 + 64, 3),
        id => (format, u32::from(id), 1),
    })
}

fn control_field(type_id: u8, payload: &[u8]) -> Result<u32, ChunkError> {
    if payload.len() < 4 { Err(ChunkError::ShortControl(type_id)) } else { Ok(u32_be(payload)) }
}

fn u24(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])
}

fn u32_be(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
