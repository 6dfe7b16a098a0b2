//! The auditor against an origin that is right, and against the same origin with one fault at a time.
//!
//! The media is ffmpeg's, the playlists are made here: nothing of the server is in this test.

use chaos::audit::finding::{Finding, Report, Rule};
use chaos::audit::{Audit, content, run};
use chaos::broken::Broken;
use chaos::scenario::judge::Observed;
use chaos::scenario::witness::{Order, Testimony};
use chaos::standstill;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// Segments last a second, so that an audit of a few seconds sees many.
const WINDOW: usize = 6;
/// Segments that are listed when the origin starts.
const HEAD_START: usize = 8;
const SEGMENTS: usize = 24;
const AUDITED: Duration = Duration::from_secs(11);
/// How long a machine that stands still is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a slow origin's playlists are on their way.
const ON_ITS_WAY: Duration = Duration::from_millis(600);
/// How long a segment of an origin is on its way that is too slow: more than one and a half target durations.
const TOO_SLOW: Duration = Duration::from_millis(1700);
/// The segment at which faults strike: it is listed two seconds after the start.
const STRUCK: usize = HEAD_START + 2;

/// One thing that is wrong with an origin.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    PlaylistStatus,
    SegmentStatus,
    PlaylistType,
    SegmentType,
    CachedPlaylist,
    Garbage,
    SequenceBack,
    SequenceJump,
    DiscontinuitySequence,
    DurationChanges,
    BytesChange,
    TargetChanges,
    DurationOverTarget,
    Ends,
    EndsAndGoesOn,
    Stands,
    Short,
    GoneEarly,
    ClockBack,
    ClockWrong,
    WrongDuration,
    MissingMedia,
    LostPackets,
    NotIndependent,
    AudioApart,
    DigestMissing,
    DigestWrong,
    NameReused,
    /// Every third second the newest two segments are not listed.
    Withdrawn,
    Vod,
    Event,
    OldVersion,
    Encrypted,
    SlowSegments,
    /// None: segments have titles, with commas.
    Titled,
    /// None: the playlist is elsewhere, and what it names lies there.
    Moved,
    /// None: playlists are a while on their way, and segments go as soon as they may.
    Slow,
}

/// The fault, in which container, and the rule that must be found broken.
const FAULTS: [(Fault, Container, Rule); 36] = {
    use Container::{Cmaf, Ts};
    use Fault as F;
    use Rule as R;
    [
        (F::PlaylistStatus, Ts, R::Status),
        (F::SegmentStatus, Cmaf, R::Status),
        (F::PlaylistType, Ts, R::ContentType),
        (F::SegmentType, Cmaf, R::ContentType),
        (F::CachedPlaylist, Ts, R::Caching),
        (F::Garbage, Ts, R::Unreadable),
        (F::Garbage, Cmaf, R::Unreadable),
        (F::SequenceBack, Ts, R::MediaSequence),
        (F::SequenceJump, Cmaf, R::MediaSequence),
        (F::DiscontinuitySequence, Ts, R::DiscontinuitySequence),
        (F::DurationChanges, Cmaf, R::EntryChanged),
        (F::BytesChange, Cmaf, R::BytesChanged),
        (F::TargetChanges, Ts, R::TargetDurationChanged),
        (F::DurationOverTarget, Cmaf, R::TargetDurationExceeded),
        (F::Ends, Ts, R::EndedUnexpectedly),
        (F::EndsAndGoesOn, Cmaf, R::ChangedAfterEnd),
        (F::Stands, Ts, R::NoNewSegment),
        (F::Short, Cmaf, R::ShortPlaylist),
        (F::GoneEarly, Ts, R::GoneTooEarly),
        (F::ClockBack, Cmaf, R::ProgramDateTime),
        (F::ClockWrong, Ts, R::ProgramDateTime),
        (F::WrongDuration, Ts, R::Duration),
        (F::WrongDuration, Cmaf, R::Duration),
        (F::MissingMedia, Ts, R::Timestamps),
        (F::MissingMedia, Cmaf, R::Timestamps),
        (F::LostPackets, Ts, R::Unreadable),
        (F::NotIndependent, Cmaf, R::NotIndependent),
        (F::AudioApart, Cmaf, R::AudioVideo),
        (F::DigestMissing, Cmaf, R::Digest),
        (F::DigestWrong, Ts, R::Digest),
        (F::Withdrawn, Ts, R::Withdrawn),
        (F::Vod, Ts, R::PlaylistType),
        (F::Event, Cmaf, R::PlaylistType),
        (F::OldVersion, Cmaf, R::Version),
        (F::Encrypted, Ts, R::NotSupported),
        (F::SlowSegments, Ts, R::SlowSegment),
    ]
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Container {
    Ts,
    Cmaf,
}

/// Segments as ffmpeg made them.
struct Media {
    init: Option<Vec<u8>>,
    segments: Vec<(Vec<u8>, f64)>,
}

fn made(container: Container, name: &str, input: &[&str], output: &[&str]) -> Arc<Media> {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("auditor-{name}-{container:?}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let kind = if container == Container::Ts { "mpegts" } else { "fmp4" };
    let extension = if container == Container::Ts { "ts" } else { "m4s" };
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.current_dir(&directory).args(["-v", "error", "-y", "-nostdin"]).args(input).args(output);
    ffmpeg.args(["-f", "hls", "-hls_time", "1", "-hls_list_size", "0", "-hls_segment_type", kind]);
    ffmpeg.args([
        "-hls_fmp4_init_filename",
        "init.mp4",
        "-hls_segment_filename",
        &format!("%03d.{extension}"),
        "list.m3u8",
    ]);
    let status = ffmpeg.status().expect("install what `make tools` installs: ffmpeg");
    assert!(status.success(), "{ffmpeg:?}");
    let text = std::fs::read_to_string(directory.join("list.m3u8")).expect("playlist");
    let playlist = m3u8_rs::parse_media_playlist_res(text.as_bytes()).expect("playlist");
    let read = |uri: &str| std::fs::read(directory.join(uri)).expect("segment");
    let segments = playlist.segments.iter().map(|segment| (read(&segment.uri), f64::from(segment.duration))).collect();
    let init = (container == Container::Cmaf).then(|| read("init.mp4"));
    std::fs::remove_dir_all(&directory).expect("removed");
    Arc::new(Media { init, segments })
}

const CODECS: [&str; 14] = [
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-bf",
    "2",
    "-g",
    "25",
    "-keyint_min",
    "25",
    "-sc_threshold",
    "0",
    "-c:a",
    "aac",
];
const VIDEO: &str = "testsrc2=size=160x90:rate=25:duration=24";
const AUDIO: &str = "sine=frequency=440:sample_rate=48000:duration=24";

/// Twenty-four seconds with B-frames, a key frame every second.
fn media(container: Container) -> Arc<Media> {
    static MADE: [OnceLock<Arc<Media>>; 2] = [OnceLock::new(), OnceLock::new()];
    let input = ["-f", "lavfi", "-i", VIDEO, "-f", "lavfi", "-i", AUDIO];
    MADE[container as usize].get_or_init(|| made(container, "clean", &input, &CODECS)).clone()
}

/// An origin that publishes a segment a second.
struct Origin {
    container: Container,
    fault: Fault,
    media: Arc<Media>,
    begun: Instant,
    begun_wall: SystemTime,
}

type Answer = (u16, &'static str, &'static str, Vec<u8>);

impl Origin {
    fn start(container: Container, fault: Fault) -> SocketAddr {
        let origin =
            Self { container, fault, media: media(container), begun: Instant::now(), begun_wall: SystemTime::now() };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let mut line = String::new();
                let mut reader = BufReader::new(connection);
                if reader.read_line(&mut line).is_err() {
                    continue;
                }
                // The rest of the request must be read, or closing resets the connection.
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
                    header.clear();
                }
                let (status, kind, caching, body) = origin.answer(line.split(' ').nth(1).unwrap_or("/"));
                let location = if status == 307 { "Location: /elsewhere/live.m3u8\r\n" } else { "" };
                let head = format!(
                    "HTTP/1.1 {status} X\r\n{location}Content-Type: {kind}\r\nCache-Control: {caching}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let mut connection = reader.into_inner();
                let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&body));
            }
        });
        address
    }

    /// How many segments have been listed by now.
    fn listed(&self) -> usize {
        let elapsed = self.begun.elapsed().as_secs() as usize;
        let most = if self.fault == Fault::Stands { STRUCK } else { SEGMENTS };
        (HEAD_START + elapsed).min(most)
    }

    fn struck(&self) -> bool {
        self.listed() > STRUCK
    }

    fn answer(&self, path: &str) -> Answer {
        let name = path.rsplit('/').next().unwrap_or(path);
        let number =
            || name.split('.').next().and_then(|number| number.parse::<usize>().ok()).filter(|n| *n < SEGMENTS);
        let gone: Answer = (404, "text/plain", "no-cache", Vec::new());
        if self.fault == Fault::Moved && !path.starts_with("/elsewhere/") {
            return if name == "live.m3u8" { (307, "text/plain", "no-cache", Vec::new()) } else { gone };
        }
        match name {
            "live.m3u8" => {
                let answer = self.playlist();
                if self.fault == Fault::Slow {
                    // The fault itself: what was true when it was sent may no longer be when it is read.
                    std::thread::sleep(ON_ITS_WAY);
                }
                answer
            }
            "segments-sha256.json" => (200, "application/json", "no-cache", self.digests()),
            "init.mp4" => (200, "video/mp4", "no-cache", self.media.init.clone().unwrap_or_default()),
            _ => {
                if self.fault == Fault::SlowSegments {
                    // The fault itself.
                    std::thread::sleep(TOO_SLOW);
                }
                number().map_or(gone, |number| self.segment(number))
            }
        }
    }

    fn playlist(&self) -> Answer {
        let newest = self.listed();
        let window = if self.fault == Fault::Short { 2 } else { WINDOW };
        let first = newest - window;
        let struck = self.struck();
        let when = |fault: Fault| self.fault == fault && struck;
        let target = if when(Fault::TargetChanges) { 2 } else { 1 };
        let sequence = match self.fault {
            Fault::SequenceBack if struck => first - 3,
            Fault::SequenceJump if struck => first + 3,
            _ => first,
        };
        let version = if self.fault == Fault::OldVersion { 5 } else { 6 };
        let kind = match self.fault {
            Fault::Vod => "#EXT-X-PLAYLIST-TYPE:VOD\n",
            Fault::Event => "#EXT-X-PLAYLIST-TYPE:EVENT\n",
            Fault::Encrypted => "#EXT-X-KEY:METHOD=AES-128,URI=\"key\"\n",
            _ => "",
        };
        let discontinuities = u64::from(when(Fault::DiscontinuitySequence));
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:{version}\n{kind}#EXT-X-TARGETDURATION:{target}\n#EXT-X-MEDIA-SEQUENCE:{sequence}\n#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuities}\n#EXT-X-INDEPENDENT-SEGMENTS\n"
        );
        if self.container == Container::Cmaf {
            text.push_str("#EXT-X-MAP:URI=\"init.mp4\"\n");
        }
        let withdrawn = if self.fault == Fault::Withdrawn && newest.is_multiple_of(3) { 2 } else { 0 };
        for number in first..newest - withdrawn {
            self.list(number, &mut text);
        }
        if matches!(self.fault, Fault::Ends | Fault::EndsAndGoesOn) && struck {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        let status = if when(Fault::PlaylistStatus) { 503 } else { 200 };
        let kind = if self.fault == Fault::PlaylistType { "text/html" } else { "application/vnd.apple.mpegurl" };
        let caching = if self.fault == Fault::CachedPlaylist { "max-age=60" } else { "no-cache" };
        (status, kind, caching, text.into_bytes())
    }

    fn list(&self, number: usize, text: &mut String) {
        let mut duration = self.media.segments[number].1;
        let struck = number == STRUCK;
        match self.fault {
            Fault::WrongDuration if struck => duration = 0.7,
            Fault::DurationOverTarget if struck => duration = 1.6,
            Fault::DurationChanges if self.struck() => duration -= 0.05,
            _ => {}
        }
        // Segment `n` is complete and listed `n - HEAD_START + 1` seconds after the start.
        let mut offset = number as f64 - HEAD_START as f64;
        match self.fault {
            Fault::ClockBack if number >= STRUCK => offset -= 5.0,
            Fault::ClockWrong => offset -= 3600.0,
            _ => {}
        }
        let start = self.begun_wall.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64() + offset;
        let time = chrono::DateTime::from_timestamp_millis((start * 1000.0) as i64).expect("a time");
        let name = if self.fault == Fault::NameReused && number > STRUCK { number - HEAD_START } else { number };
        let extension = if self.container == Container::Ts { "ts" } else { "m4s" };
        let title = if self.fault == Fault::Titled { "an artist, a song, #1" } else { "" };
        let _ = write!(
            text,
            "#EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:{duration:.5},{title}\n{name:03}.{extension}\n",
            time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
        );
    }

    fn segment(&self, number: usize) -> Answer {
        let struck = number == STRUCK;
        // It was listed until the second `number - HEAD_START + 1 + WINDOW`, and stays for its own one and the window's.
        let may_go = Duration::from_secs((number + 2 * WINDOW + 2 - HEAD_START) as u64);
        let gone = match self.fault {
            Fault::GoneEarly => number + WINDOW < self.listed(),
            Fault::Slow => self.begun.elapsed() >= may_go,
            _ => false,
        };
        if gone || struck && self.fault == Fault::SegmentStatus {
            return (404, "text/plain", "no-cache", Vec::new());
        }
        let kind = match (self.fault, self.container) {
            (Fault::SegmentType, _) => "application/octet-stream",
            (_, Container::Ts) => "video/mp2t",
            (_, Container::Cmaf) => "video/mp4",
        };
        let mut bytes = self.media.segments[number].0.clone();
        match self.fault {
            Fault::Garbage if struck => bytes.truncate(bytes.len() / 2 + 7),
            Fault::BytesChange if struck && self.listed() > STRUCK + 2 => *bytes.last_mut().expect("bytes") ^= 1,
            // The struck segment's place is taken by the one after it.
            Fault::MissingMedia if struck => bytes.clone_from(&self.media.segments[number + 1].0),
            Fault::LostPackets if struck => drop(bytes.drain(188 * 20..188 * 23)),
            Fault::NotIndependent if struck => clear_sync(&mut bytes),
            Fault::AudioApart => delay_audio(&mut bytes),
            _ => {}
        }
        (200, kind, "max-age=60", bytes)
    }

    fn digests(&self) -> Vec<u8> {
        let extension = if self.container == Container::Ts { "ts" } else { "m4s" };
        let mut digests = serde_json::Map::new();
        for number in 0..self.listed() {
            let (_, _, _, bytes) = self.segment(number);
            let real: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            match self.fault {
                Fault::DigestMissing if number == STRUCK => continue,
                Fault::DigestWrong if number == STRUCK => {
                    digests.insert(format!("{number:03}.{extension}"), "00".into())
                }
                _ => digests.insert(format!("{number:03}.{extension}"), real.into()),
            };
        }
        if let Some(init) = &self.media.init {
            let real: String = Sha256::digest(init).iter().map(|byte| format!("{byte:02x}")).collect();
            digests.insert("init.mp4".to_owned(), real.into());
        }
        serde_json::to_vec(&digests).expect("JSON")
    }
}

/// Marks the first video sample as no random access point, wherever ffmpeg has said that it is one: in the
/// first-sample flags or the defaults of the track run.
fn clear_sync(bytes: &mut [u8]) {
    let trun = bytes.windows(4).position(|window| window == b"trun").expect("a track run");
    let flags = u32::from_be_bytes([0, bytes[trun + 5], bytes[trun + 6], bytes[trun + 7]]);
    assert!(flags & 0x4 != 0 || flags & 0x400 != 0, "flags are in the run: {flags:x}");
    // Sample count, then data offset if present; then the first sample's flags or its fields.
    let mut at = trun + 12 + if flags & 1 != 0 { 4 } else { 0 };
    if flags & 0x4 == 0 {
        at += [0x100, 0x200].iter().filter(|field| flags & **field != 0).count() * 4;
    }
    bytes[at + 1] |= 1;
}

/// Adds two seconds to the decode time of every second track fragment: ffmpeg writes video first.
fn delay_audio(bytes: &mut [u8]) {
    const TWO_SECONDS: u64 = 2 * 48_000;
    let boxes: Vec<usize> = bytes.windows(4).enumerate().filter(|(_, w)| *w == b"tfdt").map(|(at, _)| at).collect();
    for at in boxes.into_iter().skip(1).step_by(2) {
        assert_eq!(bytes[at + 4], 1, "64 bits");
        let field = &mut bytes[at + 8..at + 16];
        let time = u64::from_be_bytes((&*field).try_into().expect("eight bytes")) + TWO_SECONDS;
        field.copy_from_slice(&time.to_be_bytes());
    }
}

fn audit(container: Container, fault: Fault) -> Report {
    let address = Origin::start(container, fault);
    let audit = Audit { url: format!("http://{address}/live.m3u8"), duration: AUDITED, expect_end: false, seen: None };
    run(&audit).expect("a playlist").remove(0)
}

/// Audits an origin that is right; on a machine that stood still, until segments come in time.
fn audit_in_time(container: Container, fault: Fault) -> Report {
    let broken = |report: &Report| report.findings.iter().map(Finding::broken).collect();
    standstill::judged(PATIENCE, || audit(container, fault), broken).came
}

#[test]
fn an_origin_that_is_slow_passes() {
    let broken = |report: &Report| {
        let findings = report.findings.iter().map(Finding::broken);
        // Once before they leave the playlist, which the window's have not, and once more shortly before they may go; an
        // audit that is held up does not.
        let looked = report.refetched + 3 > report.segments;
        findings.chain((!looked).then(|| Broken::Late(format!("it did not look: {report:?}")))).collect()
    };
    let judged = standstill::judged(PATIENCE, || audit(Container::Ts, Fault::Slow), broken);
    assert_eq!(broken(&judged.came), []);
}

#[test]
fn an_origin_that_is_right_passes() {
    for (container, fault) in [
        (Container::Ts, Fault::None),
        (Container::Cmaf, Fault::None),
        (Container::Cmaf, Fault::Moved),
        (Container::Ts, Fault::Titled),
    ] {
        let report = audit_in_time(container, fault);
        assert_eq!(report.findings, [], "{container:?}");
        assert!(report.segments as usize >= WINDOW + 8 && report.refetched >= 8, "{report:?}");
        assert!(report.digests && report.longest_wait < Duration::from_millis(1500), "{report:?}");
    }
}

#[test]
fn every_single_fault_is_found_and_called_by_its_name() {
    media(Container::Ts);
    media(Container::Cmaf);
    let audits: Vec<_> = FAULTS
        .iter()
        .map(|(fault, container, rule)| (fault, rule, std::thread::spawn(move || audit(*container, *fault))))
        .collect();
    let mut table = String::new();
    let mut missed = Vec::new();
    for (fault, rule, audit) in audits {
        let report = audit.join().expect("audited");
        let found: Vec<Rule> = report.findings.iter().map(|finding| finding.rule).collect();
        let _ = writeln!(table, "{fault:?}: {found:?}");
        if !found.contains(rule) {
            missed.push((fault, rule, report.findings));
        }
    }
    println!("{table}");
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn segments_that_are_slow_are_not_taken_for_a_playlist_that_stands() {
    let others = |report: &Report| {
        let others = report.findings.iter().filter(|finding| finding.rule != Rule::SlowSegment);
        others.map(Finding::broken).collect::<Vec<_>>()
    };
    let slow = standstill::judged(PATIENCE, || audit(Container::Ts, Fault::SlowSegments), others).came;
    assert_eq!(others(&slow), []);
    assert!(slow.findings.len() == 1 && !slow.stopped && slow.segments >= 3, "{slow:?}");
    let stands = audit(Container::Ts, Fault::Stands);
    assert!(stands.stopped && stands.findings.iter().any(|finding| finding.rule == Rule::NoNewSegment), "{stands:?}");
}

#[test]
fn a_name_that_is_used_again_is_found() {
    let report = audit(Container::Ts, Fault::NameReused);
    assert!(report.findings.iter().any(|finding| finding.rule == Rule::MediaSequence), "{report:?}");
}

#[test]
fn the_judge_catches_each_invariant_that_is_broken_on_purpose() {
    let judged = |fault| {
        let report = if fault == Fault::None { audit_in_time } else { audit }(Container::Cmaf, fault);
        let mut order = Order::default();
        order.pictures = 1;
        let segments = (0..report.segments).map(|n| (n.to_string(), [0; 32])).collect();
        let mut observed = Observed::undisturbed(format!("{fault:?}"), Duration::from_secs(1));
        observed.saw(Testimony { report, segments, order });
        observed.broken()
    };
    assert_eq!(judged(Fault::None), []);
    // A playlist before its digests, a name that is used again, other bytes under a name, a live path that waits.
    for (fault, part) in [
        (Fault::DigestMissing, "Digest at"),
        (Fault::NameReused, "MediaSequence at"),
        (Fault::BytesChange, "BytesChanged at"),
        (Fault::Stands, "no new segment"),
    ] {
        let broken = judged(fault);
        assert!(broken.iter().any(|broken| broken.to_string().contains(part)), "{fault:?}: {broken:?}");
    }
}

#[test]
fn an_end_is_expected_only_where_it_is() {
    let address = Origin::start(Container::Ts, Fault::None);
    let audit = Audit {
        url: format!("http://{address}/live.m3u8"),
        duration: Duration::from_secs(2),
        expect_end: true,
        seen: None,
    };
    let report = run(&audit).expect("a playlist").remove(0);
    assert!(report.findings.iter().any(|finding| finding.rule == Rule::NotEnded), "{report:?}");
}

/// ffprobe's view of a file: first decode time, packets, by track kind.
fn probed(file: &Path, kind: &str, container: Container) -> (f64, usize) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", kind, "-show_entries", "packet=dts_time", "-of", "csv=p=0"])
        // The decode times themselves, without the edit lists that ffmpeg writes.
        .args(if container == Container::Cmaf { &["-ignore_editlist", "1"][..] } else { &[] })
        .arg(file)
        .output()
        .expect("ffprobe");
    let text = String::from_utf8(output.stdout).expect("text");
    let times: Vec<f64> = text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    (times[0], times.len())
}

#[test]
fn segments_are_read_as_ffprobe_reads_them() {
    for container in [Container::Ts, Container::Cmaf] {
        let media = media(container);
        for number in [0, 5, 17] {
            let mut whole = media.init.clone().unwrap_or_default();
            whole.extend(&media.segments[number].0);
            let file: PathBuf =
                std::env::temp_dir().join(format!("auditor-{}-{container:?}-{number}", std::process::id()));
            std::fs::write(&file, whole).expect("written");
            let content = content::read(&media.segments[number].0, media.init.as_deref()).expect("readable");
            for (kind, video) in [("v", true), ("a", false)] {
                let track = content.tracks.values().find(|track| track.video == video).expect("a track");
                let (start, packets) = probed(&file, kind, container);
                assert!(
                    (track.start - start).abs() < 0.001,
                    "{container:?} {number} {kind}: {track:?}, ffprobe {start}"
                );
                // A PES packet of ffmpeg's holds several audio frames.
                assert!(
                    track.samples == packets || container == Container::Ts && !video,
                    "{track:?}, ffprobe {packets}"
                );
            }
            std::fs::remove_file(&file).expect("removed");
        }
    }
}
