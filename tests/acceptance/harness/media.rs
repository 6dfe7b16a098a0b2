//! Media made with ffmpeg, and the packets of a file as an independent reader sees them.

use super::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One clip is made at a time, and once: tests run side by side on two cores.
static MAKING: Mutex<()> = Mutex::new(());

/// What a clip is like.
#[derive(Debug, Clone, Copy)]
pub struct Clip {
    pub seconds: u32,
    pub fps: u32,
    /// Frames from one key frame to the next.
    pub gop: u32,
    pub b_frames: u32,
    pub video: bool,
    pub audio: bool,
    pub width: u32,
    pub sample_rate: u32,
}

pub const CLIP: Clip =
    Clip { seconds: 10, fps: 30, gop: 30, b_frames: 2, video: true, audio: true, width: 320, sample_rate: 48000 };

impl Clip {
    /// The clip as an FLV file, made when first asked for.
    pub fn flv(&self) -> PathBuf {
        let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("media");
        std::fs::create_dir_all(&directory).expect("directory");
        let name: String = format!("{self:?}").chars().filter(char::is_ascii_alphanumeric).collect();
        let file = directory.join(format!("{name}.flv"));
        if !file.exists() {
            let aside = file.with_extension("aside.flv");
            run(self.command().arg(&aside));
            std::fs::rename(&aside, &file).expect("renamed");
        }
        file
    }

    fn command(&self) -> Command {
        let mut ffmpeg = ffmpeg();
        let Self { seconds, fps, gop, b_frames, width, sample_rate, .. } = self;
        if self.video {
            ffmpeg.args(["-f", "lavfi", "-i", &format!("testsrc2=size={width}x180:rate={fps}:duration={seconds}")]);
        }
        if self.audio {
            ffmpeg.args([
                "-f",
                "lavfi",
                "-i",
                &format!("sine=frequency=440:sample_rate={sample_rate}:duration={seconds}"),
            ]);
        }
        let (gop, b_frames) = (gop.to_string(), b_frames.to_string());
        ffmpeg.args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-bf", &b_frames, "-g", &gop]);
        ffmpeg.args(["-keyint_min", &gop, "-sc_threshold", "0", "-c:a", "aac", "-b:a", "64k", "-f", "flv"]);
        ffmpeg
    }
}

/// Debian's ffmpeg.
pub fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]);
    command
}

/// A packet as `ffmpeg` demuxes it, normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Milliseconds from the first packet of the file.
    pub dts_ms: i64,
    pub pts_ms: i64,
    /// Digest of the payload without parameter sets, delimiters and ADTS headers.
    pub digest: String,
}

/// The packets of one kind (`v` or `a`) in the order they are demuxed.
pub fn packets(file: &Path, kind: &str) -> Vec<Packet> {
    let mut command = ffmpeg();
    command.arg("-copyts").arg("-i").arg(file).args(["-map", "0", "-c", "copy"]);
    command.args(["-bsf:v", "h264_mp4toannexb,filter_units=remove_types=7-9"]);
    if file.extension().is_some_and(|extension| extension == "ts") {
        command.args(["-bsf:a", "aac_adtstoasc"]);
    }
    let output = run(command.args(["-f", "framehash", "-hash", "md5", "-"]));
    let text = String::from_utf8(output.stdout).expect("text");
    let all = parse_hashes(&text);
    let first = all.iter().map(|(_, packet)| packet.dts_ms).min().unwrap_or(0);
    let rebase =
        |packet: &Packet| Packet { dts_ms: packet.dts_ms - first, pts_ms: packet.pts_ms - first, ..packet.clone() };
    all.iter().filter(|(of, _)| of == kind).map(|(_, packet)| rebase(packet)).collect()
}

/// Lines of ffmpeg's framehash format, with timestamps in milliseconds.
fn parse_hashes(text: &str) -> Vec<(String, Packet)> {
    let mut streams: Vec<(i64, i64, String)> = Vec::new();
    let mut packets = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("#tb ") {
            let (_, base) = rest.split_once(": ").expect("time base");
            let (numerator, denominator) = base.split_once('/').expect("fraction");
            streams.push((numerator.parse().expect("number"), denominator.parse().expect("number"), String::new()));
        } else if let Some(rest) = line.strip_prefix("#media_type ") {
            let (index, kind) = rest.split_once(": ").expect("media type");
            streams[index.parse::<usize>().expect("index")].2 = kind[..1].to_owned();
        } else if !line.starts_with('#') {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let (numerator, denominator, kind) = &streams[fields[0].parse::<usize>().expect("index")];
            let ms = |field: &str| {
                let ticks: i64 = field.parse().expect("timestamp");
                (ticks * numerator * 1000 + denominator / 2).div_euclid(*denominator)
            };
            packets.push((
                kind.clone(),
                Packet { dts_ms: ms(fields[1]), pts_ms: ms(fields[2]), digest: fields[5].to_owned() },
            ));
        }
    }
    packets
}

/// Asserts that two files hold the same packets, payload for payload and millisecond for millisecond.
pub fn assert_same_packets(published: &Path, delivered: &Path, kinds: &[&str]) {
    for kind in kinds {
        let (sent, got) = (packets(published, kind), packets(delivered, kind));
        assert!(!sent.is_empty(), "nothing was published");
        let first_difference = sent.iter().zip(&got).position(|(sent, got)| sent != got);
        if let Some(at) = first_difference {
            panic!("{kind} packet {at} of {}: published {:?}, delivered {:?}", sent.len(), sent[at], got[at]);
        }
        assert_eq!(sent.len(), got.len(), "{kind} packets");
    }
}

/// Asserts that the same payloads were delivered in the same order, whatever an encoder did to their timestamps.
pub fn assert_same_payloads(published: &Path, delivered: &Path, kinds: &[&str]) {
    for kind in kinds {
        let digests = |file| packets(file, kind).into_iter().map(|packet| packet.digest).collect::<Vec<_>>();
        let (sent, got) = (digests(published), digests(delivered));
        let first_difference = sent.iter().zip(&got).position(|(sent, got)| sent != got);
        assert_eq!((first_difference, got.len()), (None, sent.len()), "{kind}: first difference and number of packets");
    }
}
