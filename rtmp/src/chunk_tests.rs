use super::*;
use proptest::prelude::*;

/// A format 0 chunk header.
fn full(id: u8, timestamp: u32, length: usize, type_id: u8) -> Vec<u8> {
    let mut bytes = vec![id];
    bytes.extend(&timestamp.min(EXTENDED).to_be_bytes()[1..]);
    bytes.extend(&(length as u32).to_be_bytes()[1..]);
    bytes.push(type_id);
    bytes.extend(1u32.to_le_bytes());
    if timestamp >= EXTENDED {
        bytes.extend(timestamp.to_be_bytes());
    }
    bytes
}

/// A reader of a peer that has been let in.
fn reader() -> ChunkReader {
    let mut reader = ChunkReader::default();
    reader.set_max_message(0xFF_FFFF);
    reader
}

fn read_all(reader: &mut ChunkReader, bytes: &[u8]) -> Result<Vec<Message>, ChunkError> {
    let (mut messages, mut bytes) = (Vec::new(), Bytes::copy_from_slice(bytes));
    while let Some(message) = reader.next(&mut bytes)? {
        messages.push(message);
    }
    Ok(messages)
}

#[test]
fn interleaved_audio_and_video_come_out_whole() {
    let (video, audio) = (vec![9u8; 200], vec![8u8; 150]);
    let mut bytes = full(4, 40, 200, 9);
    bytes.extend(&video[..128]);
    bytes.extend(full(5, 41, 150, 8));
    bytes.extend(&audio[..128]);
    bytes.push(0xC4);
    bytes.extend(&video[128..]);
    bytes.push(0xC5);
    bytes.extend(&audio[128..]);
    let messages = read_all(&mut reader(), &bytes).expect("valid chunks");
    assert_eq!(messages.iter().map(|m| (m.type_id, m.timestamp)).collect::<Vec<_>>(), [(9, 40), (8, 41)]);
    assert_eq!((&messages[0].payload[..], &messages[1].payload[..]), (&video[..], &audio[..]));
}

#[test]
fn a_format_3_message_repeats_the_delta() {
    let mut bytes = full(4, 0, 1, 8);
    bytes.push(1);
    bytes.extend([0x44, 0, 0, 23, 0, 0, 1, 8, 2]);
    bytes.extend([0xC4, 3, 0xC4, 4]);
    let messages = read_all(&mut reader(), &bytes).expect("valid chunks");
    assert_eq!(messages.iter().map(|m| m.timestamp).collect::<Vec<_>>(), [0, 23, 46, 69]);
}

#[test]
fn the_extended_timestamp_may_be_repeated_in_continuations_or_left_out() {
    for repeated in [true, false] {
        let mut bytes = full(4, 0x0100_0000, 200, 9);
        bytes.extend([7; 128]);
        bytes.push(0xC4);
        if repeated {
            bytes.extend(0x0100_0000u32.to_be_bytes());
        }
        bytes.extend([7; 72]);
        let messages = read_all(&mut reader(), &bytes).expect("valid chunks");
        assert_eq!((messages.len(), messages[0].timestamp), (1, 0x0100_0000), "repeated: {repeated}");
        assert_eq!(messages[0].payload, vec![7; 200], "repeated: {repeated}");
    }
}

#[test]
fn a_header_repeated_inside_its_message_continues_it() {
    let bytes = [full(3, 0, 200, 20), vec![1; 128], full(3, 0, 200, 20), vec![1; 72]].concat();
    let messages = read_all(&mut reader(), &bytes).expect("valid chunks");
    assert_eq!((messages.len(), messages[0].payload.len()), (1, 200));
}

#[test]
fn timestamps_wrap_at_32_bits() {
    let mut bytes = full(4, u32::MAX - 10, 1, 8);
    bytes.push(1);
    bytes.extend([0x44, 0, 0, 23, 0, 0, 1, 8, 2]);
    let messages = read_all(&mut reader(), &bytes).expect("valid chunks");
    assert_eq!(messages[1].timestamp, 12);
}

#[test]
fn abort_forgets_the_unfinished_message() {
    let mut bytes = full(4, 0, 200, 9);
    bytes.extend([9; 128]);
    bytes.extend(full(2, 0, 4, 2));
    bytes.extend(4u32.to_be_bytes());
    bytes.extend(full(4, 7, 1, 9));
    bytes.push(5);
    let messages = read_all(&mut reader(), &bytes).expect("valid chunks");
    assert_eq!((messages.len(), messages[0].timestamp, &messages[0].payload[..]), (1, 7, &[5][..]));
}

/// Sends a message of so many bytes in one chunk, a little at a time: memory for it is never more than what arrived allows,
/// which is that much while it is little, then `growth` times as much up to a bound, and twice beyond it.
fn assert_allocates_what_arrived(mut reader: ChunkReader, announced: usize, growth: usize) {
    const STEP: usize = 4000;
    let mut bytes = full(2, 0, 4, 1);
    bytes.extend(MAX_CHUNK_SIZE.to_be_bytes());
    bytes.extend(full(4, 0, announced, 9));
    assert_eq!(read_all(&mut reader, &bytes), Ok(vec![]));
    for arrived in (STEP..announced).step_by(STEP) {
        assert_eq!(read_all(&mut reader, &[1; STEP]), Ok(vec![]));
        let capacity = reader.streams.iter().map(|stream| stream.payload.capacity()).max().unwrap_or(0);
        let most = (growth * arrived).min(MAX_GROWN).max(2 * arrived).max(FIRST_ALLOCATION);
        let most = if arrived < MAX_SHRUNK { arrived } else { most };
        assert!(capacity <= most, "{arrived} of {announced}: {capacity}");
    }
}

#[test]
fn a_stranger_s_message_has_about_twice_the_memory_of_what_arrived() {
    assert_allocates_what_arrived(ChunkReader::default(), MAX_FIRST_MESSAGE - 1, 2);
}

#[test]
fn who_is_let_in_has_some_more_room_and_long_messages_no_more_than_twice_what_arrived() {
    let mut reader = reader();
    reader.set_max_message(16 << 20);
    assert_allocates_what_arrived(reader, 2 << 20, GROWTH);
}

#[test]
fn hostile_chunks_end_in_an_error() {
    let too_many: Vec<u8> =
        (0..=64u8).flat_map(|n| [vec![0, n], full(3, 0, 9, 9)[1..].to_vec(), vec![0; 9]].concat()).collect();
    let mut zero = full(2, 0, 4, 1);
    zero.extend([0; 4]);
    let mut inside = full(4, 0, 200, 9);
    inside.extend([0; 128]);
    inside.extend(full(4, 0, 3, 9));
    for (bytes, expected) in [
        (vec![0xC3], ChunkError::NoPreviousHeader(3)),
        (vec![0x43, 0, 0, 0, 0, 0, 1, 9], ChunkError::NoPreviousHeader(3)),
        (too_many, ChunkError::TooManyChunkStreams),
        (zero, ChunkError::ChunkSize(0)),
        (inside, ChunkError::Unfinished(4)),
        ([full(2, 0, 1, 1), vec![0]].concat(), ChunkError::ShortControl(1)),
    ] {
        assert_eq!(read_all(&mut reader(), &bytes), Err(expected));
    }
}

#[test]
fn a_peer_that_is_not_let_in_sends_small_messages() {
    let bytes = full(3, 0, MAX_FIRST_MESSAGE + 1, 20);
    assert_eq!(read_all(&mut ChunkReader::default(), &bytes), Err(ChunkError::TooLong(MAX_FIRST_MESSAGE + 1)));
}

#[test]
fn unfinished_messages_are_bounded_together() {
    let mut reader = reader();
    let mut bytes = full(2, 0, 4, 1);
    bytes.extend(MAX_CHUNK_SIZE.to_be_bytes());
    read_all(&mut reader, &bytes).expect("valid chunk size");
    // A chunk must end before another may start, so the third stream finds two nearly whole ones.
    let mut set = full(2, 0, 4, 1);
    set.extend(0xFF_FFFEu32.to_be_bytes());
    read_all(&mut reader, &set).expect("valid chunk size");
    let mut ended = Ok(vec![]);
    for id in 4..8 {
        let bytes = [full(id, 0, 0xFF_FFFF, 9), vec![0; 0xFF_FFFE]].concat();
        ended = read_all(&mut reader, &bytes);
        if ended.is_err() {
            break;
        }
    }
    assert_eq!(ended, Err(ChunkError::TooManyPartialBytes));
}

proptest! {
    /// However the bytes are cut, and whatever the chunk size, what the serializer wrote comes out.
    #[test]
    fn what_a_serializer_writes_is_read_back_however_it_is_cut(
        payloads in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..600), 0u32..0x0200_0000, prop::bool::ANY), 1..12),
        chunk_size in 1u32..700,
        cut in 1usize..97,
    ) {
        use rml_rtmp::{chunk_io::ChunkSerializer, messages::MessagePayload, time::RtmpTimestamp};
        let mut serializer = ChunkSerializer::new();
        let mut bytes = serializer.set_max_chunk_size(chunk_size, RtmpTimestamp::new(0)).expect("chunk size").bytes;
        let mut timestamp = 0u32;
        let mut sent = Vec::new();
        for (data, step, video) in payloads {
            timestamp = timestamp.wrapping_add(step);
            let message = MessagePayload {
                timestamp: RtmpTimestamp::new(timestamp),
                type_id: if video { 9 } else { 8 },
                message_stream_id: 1,
                data: data.into(),
            };
            bytes.extend(serializer.serialize(&message, false, false).expect("serializable").bytes);
            sent.push((timestamp, message.type_id, message.data));
        }
        let (mut reader, mut read, mut kept) = (super::tests::reader(), Vec::new(), Vec::new());
        for piece in bytes.chunks(cut) {
            kept.extend_from_slice(piece);
            let mut input = Bytes::copy_from_slice(&kept);
            while let Some(message) = reader.next(&mut input).expect("valid chunks") {
                read.push((message.timestamp, message.type_id, message.payload));
            }
            prop_assert!(input.len() < 18);
            kept = input.to_vec();
        }
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read_all(&mut reader(), &bytes);
    }
}
