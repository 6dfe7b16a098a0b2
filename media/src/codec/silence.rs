//! Silence: the shortest AAC frame that decodes to nothing (ISO/IEC 14496-3, 4.4.2).

use super::aac::AacConfig;
use bytes::Bytes;

/// Audio object type of the Low Complexity profile, whose syntax this is.
const LC: u8 = 2;

/// Syntactic elements (table 4.85).
#[derive(Debug, Clone, Copy)]
enum Element {
    Single,
    Pair,
    LowFrequency,
}

/// Elements of each channelConfiguration (table 1.19).
const ELEMENTS: [&[Element]; 8] = [
    &[],
    &[Element::Single],
    &[Element::Pair],
    &[Element::Single, Element::Pair],
    &[Element::Single, Element::Pair, Element::Single],
    &[Element::Single, Element::Pair, Element::Pair],
    &[Element::Single, Element::Pair, Element::Pair, Element::LowFrequency],
    &[Element::Single, Element::Pair, Element::Pair, Element::Pair, Element::LowFrequency],
];

/// A silent frame for decoders of this configuration; none if its core coder is another than LC.
pub fn silence(config: &AacConfig) -> Option<Bytes> {
    if config.core_object_type != LC {
        return None;
    }
    let elements = ELEMENTS.get(usize::from(config.channel_configuration))?;
    let (mut bits, mut tags) = (BitWriter::default(), [0; 4]);
    for element in *elements {
        let id = match element {
            Element::Single => 0,
            Element::Pair => 1,
            Element::LowFrequency => 3,
        };
        bits.put(id, 3);
        // element_instance_tag tells elements of a kind apart.
        bits.put(tags[id as usize], 4);
        tags[id as usize] += 1;
        if matches!(element, Element::Pair) {
            // common_window, then no ms_mask.
            bits.put(1, 1);
            window(&mut bits);
            bits.put(0, 2);
            channel(&mut bits, false);
            channel(&mut bits, false);
        } else {
            channel(&mut bits, true);
        }
    }
    // ID_END
    bits.put(7, 3);
    Some(bits.finish())
}

/// individual_channel_stream (table 4.50) without any scale factor band: global_gain, then no pulses, no noise shaping
/// and no gain control.
fn channel(bits: &mut BitWriter, has_window: bool) {
    bits.put(0, 8);
    if has_window {
        window(bits);
    }
    bits.put(0, 3);
}

/// ics_info (table 4.6): one long window of the sine shape, max_sfb of zero, no prediction.
fn window(bits: &mut BitWriter) {
    bits.put(0, 1 + 2 + 1 + 6 + 1);
}

#[derive(Debug, Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (7 - self.used % 8);
            }
            self.used += 1;
        }
    }

    fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: [u8; 2]) -> Option<Vec<u8>> {
        let config = AacConfig::parse(Bytes::copy_from_slice(&config)).expect("valid");
        silence(&config).map(|frame| frame.to_vec())
    }

    #[test]
    fn a_frame_says_which_channels_there_are_and_that_nothing_is_in_them() {
        // 44100 Hz, mono: ID_SCE, tag 0, 22 zero bits, ID_END.
        assert_eq!(of([0x12, 0x08]), Some(vec![0, 0, 0, 0b0000_0111]));
        // Stereo: ID_CPE (001), tag 0000, common_window, 11 + 2 + 11 + 11 zero bits, ID_END.
        assert_eq!(of([0x12, 0x10]), Some(vec![0b0010_0001, 0, 0, 0, 0, 0b0001_1100]));
        let lengths: Vec<_> = (1..8).map(|channels| of([0x12, channels << 3]).map(|frame| frame.len())).collect();
        assert_eq!(lengths, [4, 6, 10, 13, 15, 19, 24].map(Some));
        assert_eq!(of([0x0A, 0x10]), None, "AAC Main has other rules");
    }
}
