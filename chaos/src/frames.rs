//! Frame counter: pictures that carry their number, and what a playback did to their order.
//!
//! The number is drawn as a row of black and white blocks, large enough to survive any encoder, with a check
//! byte: a picture that is damaged says nothing rather than something wrong.

mod ffmpeg;

use crate::interrupted::is_interrupted;
use anyhow::{Context, bail, ensure};
use ffmpeg::{Player, ffmpeg, heard, listen, ran};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

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
/// Media may end this much before the time that was asked for, milliseconds: a picture, and what audio is longer by.
const END_TOLERANCE_MS: u64 = 500;

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
    /// How many times a segment, or a live playlist, could not be fetched, ...
    pub not_fetched: u64,
    /// ... as ffmpeg tells of the first of them.
    pub not_fetched_lines: Vec<String>,
    /// Why it was ended before its end, if it was.
    pub cut_short: Option<String>,
}

impl Count {
    /// What is to be said against this playback, of which so many seconds were asked for.
    pub fn verdict(&self, asked: Option<u32>) -> Result<(), String> {
        let asked_ms = u64::from(asked.unwrap_or(0)) * 1000;
        let there = format!("{:.1} s of media were there", self.media_ms as f64 / 1000.0);
        let there = asked.map_or(there.clone(), |asked| format!("{there}, {asked} s were asked for"));
        if let Some(why) = &self.cut_short {
            Err(format!("{why}: this is what was counted until then"))
        } else if self.frames > 0 && self.unreadable == self.frames {
            Err("none of these pictures has a number: `chaos numbered` makes such that have".to_owned())
        } else if self.not_fetched > 0 {
            Err(format!("segments or playlists could not be fetched, {} times; {there}", self.not_fetched))
        } else if !self.is_whole() {
            Err("the frames are not all there once and in order".to_owned())
        } else if self.media_ms + END_TOLERANCE_MS < asked_ms {
            Err(there)
        } else {
            Ok(())
        }
    }

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

    /// Whether every number from the first to the last was shown once and in order; `verdict` says whether that is all there
    /// should have been.
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
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-v", "level+error", "-y", "-f", "rawvideo", "-pix_fmt", "gray", "-s", &size, "-r", &rate, "-i", "-"]);
    ffmpeg.args(["-f", "lavfi", "-i", &tone, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]);
    ffmpeg.args(["-bf", "2", "-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0", "-crf", "28", "-c:a", "aac"]);
    // A link stays one.
    let linked = || fs::read_link(file).map(|to| file.with_file_name(to));
    let file = &fs::canonicalize(file).or_else(|_| linked()).unwrap_or_else(|_| file.to_owned());
    let part = part_of(file);
    ffmpeg.args(["-f", "flv"]).arg(&part).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut encoder = ffmpeg.spawn().context("setpriv, of util-linux, is needed")?;
    let mut pipe = encoder.stdin.take().context("no pipe")?;
    let said = listen(encoder.stderr.take().context("no pipe")?);
    let mut picture = vec![0; WIDTH * HEIGHT];
    // What cannot be written has ended, and says why.
    let all_drawn = (first..first + fps * seconds).all(|number| {
        draw(number, &mut picture);
        !is_interrupted() && pipe.write_all(&picture).is_ok()
    });
    drop(pipe);
    if is_interrupted() {
        // One that has ended by itself meanwhile needs no end.
        let _ = encoder.kill();
    }
    let status = ran(encoder.wait()?)?;
    let said = heard(said)?.errors.join("; ");
    // That a file could not be finished is said, and is no failure of ffmpeg's.
    if !all_drawn || !status.success() || !said.is_empty() {
        if part != *file {
            // It may not even be there.
            let _ = fs::remove_file(&part);
        }
        ensure!(!is_interrupted(), "interrupted: {} is not made", file.display());
        bail!("{} could not be made ({status}): {said}", file.display());
    }
    if part != *file {
        fs::rename(&part, file).with_context(|| format!("{} is made, but not renamed", part.display()))?;
    }
    Ok(())
}

/// What is written until it is whole, so that half a file is not taken for one; a device has no such.
fn part_of(file: &Path) -> PathBuf {
    match file.file_name() {
        Some(name) if !file.exists() || file.is_file() => {
            let mut part = name.to_owned();
            part.push(".part");
            file.with_file_name(part)
        }
        _ => file.to_owned(),
    }
}

/// Plays a file or a playlist with ffmpeg, every frame it decodes once, for at most `seconds` of media, until it shows nothing for
/// longer than `patience`.
pub fn count(input: &str, seconds: Option<u32>, patience: Duration) -> anyhow::Result<Count> {
    let mut ffmpeg = ffmpeg();
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
    let mut player = ffmpeg.spawn().context("setpriv, of util-linux, is needed")?;
    let pipe = player.stdout.take().context("no pipe")?;
    let said = listen(player.stderr.take().context("no pipe")?);
    let (player, mut counted) = (Player::guarded(player, patience), Count::default());
    player.read(pipe, &mut [0; WIDTH * HEIGHT], |picture| counted.take(read(picture)));
    let (status, cut_short) = player.wait()?;
    let status = ran(status)?;
    let said = heard(said)?;
    said.errors.iter().for_each(|line| eprintln!("{line}"));
    ensure!(cut_short.is_some() || status.success(), "{input} could not be played: {status}");
    counted.cut_short = cut_short;
    (counted.media_ms, counted.not_fetched) = (said.media_us / 1000, said.not_fetched);
    counted.not_fetched_lines = said.not_fetched_lines;
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const PATIENCE: Duration = Duration::from_secs(60);

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
    fn a_playback_is_judged_by_what_was_asked_for_and_by_the_cause_first() {
        let whole = Count { media_ms: 9_600, ..counted(&[7, 8, 9]) };
        assert_eq!(whole.verdict(None), Ok(()));
        assert_eq!(whole.verdict(Some(10)), Ok(()));
        for (count, asked, why) in [
            (Count::default(), None, "not all there"),
            (counted(&[7, 9]), None, "not all there"),
            (Count { frames: 2, unreadable: 2, ..Count::default() }, None, "has a number"),
            (whole.clone(), Some(11), "9.6 s of media were there, 11 s were asked for"),
            (Count { not_fetched: 3, ..counted(&[7, 9]) }, None, "could not be fetched, 3 times"),
            (Count { cut_short: Some("interrupted".to_owned()), ..whole.clone() }, None, "interrupted: this is"),
            (Count { not_fetched: 1, ..whole }, None, "could not be fetched, 1 times"),
        ] {
            let said = count.verdict(asked).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_that_says_why() {
        let directory = std::env::temp_dir().join(format!("not-made-{}", std::process::id()));
        fs::create_dir_all(directory.join("kept.flv.part")).expect("directories");
        let kept = directory.join("kept.flv");
        fs::write(&kept, "what was there").expect("written");
        for (file, fps, seconds, first, why) in [
            (kept.to_str().expect("a name"), 10, 1, 0, "Is a directory"),
            ("/dev/full", 10, 1, 0, "No space left"),
            ("/nowhere/numbered.flv", 10, 1, 0, "No such file"),
            ("/dev/null", 10, 1, MAX_NUMBER - 5, "numbers end at"),
        ] {
            let error = make(Path::new(file), fps, seconds, first).expect_err(file).to_string();
            assert!(error.contains(why), "{file}: {error}");
            let is_there = Path::new(file).exists() && !Path::new(file).is_file();
            assert!(!file.starts_with("/dev") || is_there, "{file} is no device any more");
        }
        assert_eq!(fs::read(&kept).expect("read"), b"what was there");
        fs::remove_dir_all(&directory).expect("removed");
    }

    #[test]
    fn numbers_survive_an_encoder_and_a_frame_that_was_cut_out_is_missed() {
        let directory = std::env::temp_dir().join(format!("frames-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let file = directory.join("numbered.flv");
        make(&file, 30, 4, 1000).expect("made");
        let whole = count(&file.display().to_string(), None, PATIENCE).expect("counted");
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
        let cut = count(&cut.display().to_string(), None, PATIENCE).expect("counted");
        assert_eq!((cut.missing_ranges, cut.repeated.len()), (vec![(1050, 1050)], 0));
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
