//! A clip as RTMP chunks, serialized once for all publishers and all rounds.

use anyhow::{Context, ensure};
use std::ops::Range;
use std::path::Path;

/// Bytes of the FLV file header and its first back pointer.
const FLV_HEADER: usize = 13;
/// Bytes of an FLV tag header.
const TAG_HEADER: usize = 11;
/// Chunk size announced to the server, bytes: no message of a clip is split, and nginx-rtmp takes at most 10 MiB.
pub const CHUNK_SIZE: u32 = 8 << 20;
const VIDEO_CHUNK_STREAM: u8 = 4;
const AUDIO_CHUNK_STREAM: u8 = 5;
/// From the last tag of a round to the first of the next, milliseconds, per track.
const SEAM_MS: u32 = 33;

/// Chunks of a clip. Each message's timestamp is a delta to the one before it in its track, so that the
/// same bytes are right in every round.
#[derive(Debug)]
pub struct Clip {
    /// Sequence headers with absolute timestamps, sent once.
    pub headers: Vec<u8>,
    bytes: Vec<u8>,
    /// When each message is due in its round, milliseconds, and where it lies.
    messages: Vec<(u32, Range<usize>)>,
    /// Which of them are key frames; one at least.
    pub key_frames: Vec<usize>,
    /// Length of a round, milliseconds.
    pub round_ms: u32,
}

impl Clip {
    /// Reads an FLV file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::read(path).with_context(|| format!("clip {}", path.display()))?;
        Self::parse(&file).with_context(|| format!("clip {} is no FLV file with H.264 and AAC", path.display()))
    }

    fn parse(file: &[u8]) -> anyhow::Result<Self> {
        let tags = tags(file)?;
        let frames = || tags.iter().filter(|tag| !tag.is_header());
        let last_ms = frames().map(|tag| tag.timestamp).max().context("no media")?;
        let round_ms = last_ms + SEAM_MS;
        let mut clip =
            Self { headers: Vec::new(), bytes: Vec::new(), messages: Vec::new(), key_frames: Vec::new(), round_ms };
        for tag in tags.iter().filter(|tag| tag.is_header()) {
            absolute(tag, &mut clip.headers);
        }
        // The first message of a track in a round follows the last one of the round before.
        let last_of = |kind| frames().filter(|tag| tag.kind == kind).map(|tag| tag.timestamp).next_back();
        let mut before =
            [last_of(9), last_of(8)].map(|last| last.map_or(0, |last| i64::from(last) - i64::from(round_ms)));
        for tag in frames() {
            let before = &mut before[usize::from(tag.kind == 8)];
            let delta = u32::try_from(i64::from(tag.timestamp) - *before).unwrap_or(0);
            *before = i64::from(tag.timestamp);
            let from = clip.bytes.len();
            relative(tag, delta, &mut clip.bytes);
            if tag.is_key_frame() {
                clip.key_frames.push(clip.messages.len());
            }
            clip.messages.push((tag.timestamp, from..clip.bytes.len()));
        }
        ensure!(!clip.key_frames.is_empty(), "no key frame");
        Ok(clip)
    }

    /// How many messages a round has.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it has none; `read` refuses such a clip.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// When message `n`, counted over all rounds, is due, milliseconds from the start.
    pub fn due_ms(&self, n: usize) -> u64 {
        let round = (n / self.len()) as u64;
        round * u64::from(self.round_ms) + u64::from(self.messages[n % self.len()].0)
    }

    /// The bytes of messages `from..to`, which must be of one round.
    pub fn bytes(&self, from: usize, to: usize) -> &[u8] {
        let first = &self.messages[from % self.len()].1;
        let last = &self.messages[(to - 1) % self.len()].1;
        &self.bytes[first.start..last.end]
    }
}

/// The access units of an FLV file's H.264 track, in decode order.
pub fn pictures(file: &[u8]) -> anyhow::Result<Vec<&[u8]>> {
    /// Bytes before the access unit: frame type and codec, packet type, composition time (FLV 10.1, E.4.3).
    const HEADER: usize = 5;
    Ok(tags(file)?
        .into_iter()
        .filter(|tag| tag.kind == 9 && !tag.is_header())
        .filter_map(|tag| tag.body.get(HEADER..))
        .collect())
}

struct Tag<'a> {
    kind: u8,
    timestamp: u32,
    body: &'a [u8],
}

impl Tag<'_> {
    /// A video message whose frame type is 1 (FLV 10.1, E.4.3.1).
    fn is_key_frame(&self) -> bool {
        self.kind == 9 && !self.is_header() && self.body.first().is_some_and(|first| first >> 4 == 1)
    }

    fn is_header(&self) -> bool {
        self.body.get(1) == Some(&0)
    }
}

/// Audio and video tags without ends of sequence.
fn tags(file: &[u8]) -> anyhow::Result<Vec<Tag<'_>>> {
    ensure!(file.starts_with(b"FLV"), "no FLV header");
    let (mut rest, mut tags) = (file.get(FLV_HEADER..).context("too short")?, Vec::new());
    while rest.len() > TAG_HEADER {
        let length = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let timestamp = u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]);
        let body = rest.get(TAG_HEADER..TAG_HEADER + length).context("cut short")?;
        let kind = rest[0];
        if kind == 8 || kind == 9 && body.get(1) != Some(&2) {
            tags.push(Tag { kind, timestamp, body });
        }
        rest = rest.get(TAG_HEADER + length + 4..).unwrap_or_default();
    }
    Ok(tags)
}

/// A format 0 chunk (RTMP 1.0 section 5.3.1.2.1) at timestamp 0 of message stream 1.
fn absolute(tag: &Tag<'_>, out: &mut Vec<u8>) {
    out.push(chunk_stream(tag));
    out.extend([0; 3]);
    out.extend(&(tag.body.len() as u32).to_be_bytes()[1..]);
    out.push(tag.kind);
    out.extend(1u32.to_le_bytes());
    out.extend(tag.body);
}

/// A format 1 chunk: its timestamp is a delta.
fn relative(tag: &Tag<'_>, delta: u32, out: &mut Vec<u8>) {
    out.push(0x40 | chunk_stream(tag));
    out.extend(&delta.to_be_bytes()[1..]);
    out.extend(&(tag.body.len() as u32).to_be_bytes()[1..]);
    out.push(tag.kind);
    out.extend(tag.body);
}

fn chunk_stream(tag: &Tag<'_>) -> u8 {
    if tag.kind == 9 { VIDEO_CHUNK_STREAM } else { AUDIO_CHUNK_STREAM }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_one_another_without_time_going_back() {
        let clip = Clip::parse(include_bytes!("../../src/demo.flv")).expect("valid clip");
        let dues: Vec<u64> = (0..3 * clip.len()).map(|n| clip.due_ms(n)).collect();
        assert!(dues.windows(2).all(|pair| pair[1] + 200 > pair[0]), "interleaving is small");
        assert!(dues[clip.len()] > dues[clip.len() - 1]);
        let deltas: u64 = (0..clip.len())
            .map(|n| clip.bytes(n, n + 1))
            .filter(|bytes| bytes[0] & 0x3F == VIDEO_CHUNK_STREAM)
            .map(|bytes| u64::from(u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]])))
            .sum();
        assert_eq!(deltas, u64::from(clip.round_ms), "a round of deltas is a round of time");
        let is_key_frame = |n: &usize| clip.bytes(*n, n + 1)[0] & 0x3F == VIDEO_CHUNK_STREAM;
        assert!(!clip.key_frames.is_empty() && clip.key_frames.iter().all(is_key_frame));
    }

    #[test]
    fn what_is_no_clip_is_refused() {
        assert!(Clip::parse(b"nonsense").is_err());
        assert!(Clip::parse(b"FLV\x01\x05\0\0\0\x09\0\0\0\0").is_err());
    }
}
