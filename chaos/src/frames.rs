//! Frame counter: pictures that carry their number, and what a playback did to their order.
//!
//! The number is drawn as a row of black and white blocks, large enough to survive any encoder, with a check
//! byte: a picture that is damaged says nothing rather than something wrong.

use anyhow::{Context, ensure};
use serde::Serialize;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};

/// Size of a picture, pixels.
pub const WIDTH: usize = 320;
/// Its height, pixels.
pub const HEIGHT: usize = 180;
/// Bits of the number, then of its check byte.
const NUMBER_BITS: usize = 24;
/// The highest number there is room for.
const MAX_NUMBER: u32 = (1 << NUMBER_BITS) - 1;
const BITS: usize = NUMBER_BITS + 8;
/// A block for each bit, pixels.
const BLOCK: usize = WIDTH / BITS;
/// Height of the row of blocks, pixels: two macroblocks.
const ROW: usize = 32;
const BLACK: u8 = 16;
const WHITE: u8 = 235;
/// Ranges and numbers kept in a report; what is beyond is counted only.
const MAX_LISTED: usize = 100;
/// How long ffmpeg waits for an answer, microseconds.
const ANSWER_US: &str = "20000000";

/// Draws a frame number into a grey picture.
pub fn draw(number: u32, picture: &mut [u8]) {
    let code = u64::from(number & MAX_NUMBER) << 8 | u64::from(check(number));
    // Something that moves, so that no encoder may skip the picture.
    let bar = number as usize * 3 % WIDTH;
    for (at, pixel) in picture.iter_mut().enumerate() {
        let (x, y) = (at % WIDTH, at / WIDTH);
        *pixel = match y {
            0..ROW if code >> (BITS - 1 - (x / BLOCK).min(BITS - 1)) & 1 == 1 => WHITE,
            0..ROW => BLACK,
            _ if x.abs_diff(bar) < 8 => WHITE,
            _ => 100,
        };
    }
}

/// The number in a picture, if it can be read.
pub fn read(picture: &[u8]) -> Option<u32> {
    let middle = |bit: usize| picture.get(ROW / 2 * WIDTH + bit * BLOCK + BLOCK / 2).copied();
    let mut code = 0u64;
    for bit in 0..BITS {
        let grey = middle(bit)?;
        // Neither black nor white: a picture that was put together from two, or is none of ours.
        if (80..170).contains(&grey) {
            return None;
        }
        code = code << 1 | u64::from(grey >= 128);
    }
    let number = (code >> 8) as u32;
    (check(number) == code as u8).then_some(number)
}

/// Differs for all pictures that follow one another, and is never the number's own complement.
fn check(number: u32) -> u8 {
    let [_, a, b, c] = number.to_be_bytes();
    (a ^ b.rotate_left(3) ^ c.rotate_left(5)).wrapping_add(0x5A)
}

/// What a playback showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Pictures.
    pub frames: u64,
    /// First and last number.
    pub first: Option<u32>,
    /// The highest number.
    pub last: Option<u32>,
    /// Numbers between them that were never shown.
    pub missing: u64,
    /// Where: first and last of each range.
    pub missing_ranges: Vec<(u32, u32)>,
    /// Numbers shown again.
    pub repeated: Vec<u32>,
    /// Numbers shown after a higher one.
    pub misordered: Vec<u32>,
    /// Pictures whose number could not be read.
    pub unreadable: u64,
    /// Media that was played, milliseconds.
    pub media_ms: u64,
    /// Segments that could not be fetched, as ffmpeg tells it.
    pub not_fetched: Vec<String>,
}

impl Count {
    /// Takes the next picture's number.
    pub fn take(&mut self, number: Option<u32>) {
        self.frames += 1;
        let Some(number) = number else {
            self.unreadable += 1;
            return;
        };
        self.first.get_or_insert(number);
        match self.last {
            Some(last) if number <= last => return self.came_late(number),
            Some(last) if number > last + 1 => {
                self.missing += u64::from(number - last - 1);
                note(&mut self.missing_ranges, (last + 1, number - 1));
            }
            _ => {}
        }
        self.last = Some(number);
    }

    fn came_late(&mut self, number: u32) {
        let Some(at) = self.missing_ranges.iter().position(|(from, to)| (*from..=*to).contains(&number)) else {
            return note(&mut self.repeated, number);
        };
        note(&mut self.misordered, number);
        self.missing -= 1;
        let (from, to) = self.missing_ranges.remove(at);
        let rest = [(from, number.wrapping_sub(1)), (number + 1, to)];
        self.missing_ranges.extend(rest.into_iter().filter(|(a, b)| a <= b && *b != u32::MAX));
    }

    /// Whether every number from the first to the last was shown once and in order. Whether that is all there should have been is
    /// told by `media_ms` and `not_fetched`.
    pub fn is_whole(&self) -> bool {
        let clean = self.repeated.is_empty() && self.misordered.is_empty();
        self.frames > 0 && self.missing == 0 && self.unreadable == 0 && clean
    }
}

fn note<T>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_LISTED {
        list.push(item);
    }
}

/// Makes an FLV file of numbered pictures and a tone, with B-frames; `first` is the first number.
pub fn make(file: &Path, fps: u32, seconds: u32, first: u32) -> anyhow::Result<()> {
    let beyond = u64::from(first) + u64::from(fps) * u64::from(seconds);
    ensure!(beyond <= u64::from(MAX_NUMBER) + 1, "numbers end at {MAX_NUMBER}: make the file shorter, or begin lower");
    let size = format!("{WIDTH}x{HEIGHT}");
    let (rate, gop) = (fps.to_string(), (2 * fps).to_string());
    let tone = format!("sine=frequency=440:sample_rate=48000:duration={seconds}");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "gray", "-s", &size, "-r", &rate, "-i", "-"]);
    ffmpeg.args(["-f", "lavfi", "-i", &tone, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]);
    ffmpeg.args(["-bf", "2", "-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0", "-crf", "28", "-c:a", "aac"]);
    ffmpeg.args(["-f", "flv"]).arg(file).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut encoder = ffmpeg.spawn().context("ffmpeg is missing: install what `make tools` installs")?;
    let mut pipe = encoder.stdin.take().context("no pipe")?;
    let said = listen(encoder.stderr.take().context("no pipe")?);
    let mut picture = vec![0; WIDTH * HEIGHT];
    for number in first..first + fps * seconds {
        draw(number, &mut picture);
        // It has ended, and says why.
        if pipe.write_all(&picture).is_err() {
            break;
        }
    }
    drop(pipe);
    let status = encoder.wait()?;
    let said = said.join().unwrap_or_default().errors;
    // That a file could not be finished is said, and is no failure of ffmpeg's.
    ensure!(status.success() && said.is_empty(), "{} could not be made: {}", file.display(), said.join("; "));
    Ok(())
}

/// Plays a file or a playlist with ffmpeg, every frame it decodes once, for at most `seconds` of media.
pub fn count(input: &str, seconds: Option<u32>) -> anyhow::Result<Count> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "level+warning", "-nostdin", "-progress", "pipe:2"]);
    if input.starts_with("http") {
        ffmpeg.args(["-rw_timeout", ANSWER_US]);
    }
    if input.ends_with(".m3u8") {
        ffmpeg.args(["-live_start_index", "0"]);
    }
    ffmpeg.args(["-i", input]);
    if let Some(seconds) = seconds {
        ffmpeg.args(["-t", &seconds.to_string()]);
    }
    // Timestamps are passed on: ffmpeg must neither repeat nor drop a picture to keep a rate.
    let size = format!("{WIDTH}x{HEIGHT}");
    ffmpeg.args(["-an", "-vsync", "passthrough", "-s", &size, "-f", "rawvideo", "-pix_fmt", "gray", "-"]);
    ffmpeg.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut player = ffmpeg.spawn().context("ffmpeg is missing: install what `make tools` installs")?;
    let mut pipe = player.stdout.take().context("no pipe")?;
    let said = listen(player.stderr.take().context("no pipe")?);
    let (mut picture, mut counted) = (vec![0; WIDTH * HEIGHT], Count::default());
    while pipe.read_exact(&mut picture).is_ok() {
        counted.take(read(&picture));
    }
    let status = player.wait()?;
    let said = said.join().unwrap_or_default();
    said.errors.iter().for_each(|line| eprintln!("{line}"));
    ensure!(status.success(), "{input} could not be played: {status}");
    (counted.media_ms, counted.not_fetched) = (said.media_us / 1000, said.not_fetched);
    Ok(counted)
}

/// What ffmpeg said.
#[derive(Debug, Default)]
struct Said {
    /// Errors.
    errors: Vec<String>,
    /// Segments that could not be fetched.
    not_fetched: Vec<String>,
    /// Media that has been put out, microseconds.
    media_us: u64,
}

impl Said {
    /// A line that tells of progress, or a message, with its level where that was asked for.
    fn take(&mut self, line: String) {
        match line.split_once('=') {
            Some(("out_time_us", time)) => self.media_us = time.trim().parse().unwrap_or(self.media_us),
            Some((key, _)) if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {}
            _ if line.contains("Failed to open segment") => note(&mut self.not_fetched, line),
            _ if line.contains("[warning]") => {}
            _ => note(&mut self.errors, line),
        }
    }
}

/// Reads what ffmpeg says until it ends: one that is not read waits.
fn listen(stderr: ChildStderr) -> JoinHandle<Said> {
    thread::spawn(move || {
        let mut said = Said::default();
        BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| said.take(line));
        said
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(numbers: &[u32]) -> Count {
        let mut count = Count::default();
        numbers.iter().for_each(|number| count.take(Some(*number)));
        count
    }

    #[test]
    fn a_number_is_read_back_and_damage_is_not_taken_for_a_number() {
        let mut picture = vec![0; WIDTH * HEIGHT];
        for number in [0, 1, 2, 255, 256, 65_535, 1_000_000, 0xFF_FFFF] {
            draw(number, &mut picture);
            assert_eq!(read(&picture), Some(number));
            for block in 0..BITS {
                let mut damaged = picture.clone();
                for row in 0..ROW {
                    damaged[row * WIDTH + block * BLOCK..][..BLOCK].iter_mut().for_each(|pixel| *pixel = 255 - *pixel);
                }
                assert_eq!(read(&damaged), None, "block {block} of {number}");
            }
        }
        assert_eq!(read(&[100; WIDTH * HEIGHT]), None);
        assert_eq!(read(&[0; WIDTH * HEIGHT]), None);
    }

    #[test]
    fn what_is_missing_repeated_or_misordered_is_listed() {
        assert!(counted(&[7, 8, 9]).is_whole());
        assert_eq!(counted(&[1, 2, 5, 6]).missing_ranges, [(3, 4)]);
        assert_eq!(counted(&[1, 2, 2, 3]).repeated, [2]);
        assert_eq!(counted(&[1, 2, 3, 2, 4]).repeated, [2]);
        let swapped = counted(&[1, 3, 2, 4]);
        assert_eq!((swapped.missing, &swapped.misordered[..], swapped.is_whole()), (0, &[2][..], false));
        let late = counted(&[0, 5, 3, 6]);
        assert_eq!((late.missing, &late.missing_ranges[..]), (3, &[(1, 2), (4, 4)][..]));
        assert!(!counted(&[]).is_whole());
    }

    #[test]
    fn what_ffmpeg_says_is_progress_a_segment_that_is_missing_or_an_error() {
        let mut said = Said::default();
        let lines = ["frame=30", "out_time_us=N/A", "out_time_us=1500000", "speed=   1x", "progress=end"];
        let messages = [
            "[hls @ 0x1] [warning] Failed to open segment 3 of playlist 0",
            "[hls @ 0x1] [warning] a=b",
            "[error] it = broken",
        ];
        lines.into_iter().chain(messages).for_each(|line| said.take(line.to_owned()));
        assert_eq!(
            (said.media_us, said.not_fetched.len(), &said.errors[..]),
            (1_500_000, 1, &["[error] it = broken".to_owned()][..])
        );
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_that_says_why() {
        for (file, fps, seconds, first, why) in [
            ("/dev/full", 10, 1, 0, "No space left"),
            ("/nowhere/numbered.flv", 10, 1, 0, "No such file"),
            ("/dev/null", 10, 1, MAX_NUMBER - 5, "numbers end at"),
        ] {
            let error = make(Path::new(file), fps, seconds, first).expect_err(file).to_string();
            assert!(error.contains(why), "{file}: {error}");
        }
    }

    #[test]
    fn numbers_survive_an_encoder_and_a_frame_that_was_cut_out_is_missed() {
        let directory = std::env::temp_dir().join(format!("frames-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let file = directory.join("numbered.flv");
        make(&file, 30, 4, 1000).expect("made");
        let whole = count(&file.display().to_string(), None).expect("counted");
        assert_eq!((whole.first, whole.last, whole.is_whole()), (Some(1000), Some(1119), true), "{whole:?}");
        assert!((3_900..=4_100).contains(&whole.media_ms), "{whole:?}");
        // Frame 1050 is taken out of the picture sequence and the rest encoded again.
        let cut = directory.join("cut.mkv");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y", "-i"]).arg(&file).args([
            "-an",
            "-vf",
            "select=not(eq(n\\,50))",
            "-vsync",
            "passthrough",
        ]);
        assert!(ffmpeg.args(["-c:v", "libx264", "-preset", "ultrafast"]).arg(&cut).status().expect("ffmpeg").success());
        let cut = count(&cut.display().to_string(), None).expect("counted");
        assert_eq!((cut.missing_ranges, cut.repeated.len()), (vec![(1050, 1050)], 0));
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
