//! The run of all benchmarks, and `docs/benchmarks.md`.

use super::contender::Contender;
use super::ingest::{self, Ingest, Setting, WARM_UP};
use super::machine;
use super::volume::Volume;
use super::web::{self, Web};
use anyhow::Context;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CMAF: Contender = Contender::Steadycast { container: "cmaf", sync: "grouped" };
const TS: Contender = Contender::Steadycast { container: "mpegts", sync: "grouped" };
const UNSYNCED: Contender = Contender::Steadycast { container: "cmaf", sync: "never" };

/// What to measure.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Our binary.
    pub program: PathBuf,
    /// Where clips, archives and file systems go.
    pub directory: PathBuf,
    /// Streams at which all contenders are measured, one after the other, in each round.
    pub streams: Vec<usize>,
    /// Streams at which only we are, to see whether cost grows evenly. Zero for none.
    pub most: usize,
    /// Rounds.
    pub rounds: usize,
    /// How long each run measures.
    pub window: Duration,
    /// The report.
    pub report: PathBuf,
}

/// That a program is there, before anything is made for it.
pub fn present(program: &Path) -> anyhow::Result<()> {
    let name = program.display();
    anyhow::ensure!(program.is_file(), "{name} is not there: build it, or name another one with --program");
    // It would be looked for elsewhere.
    anyhow::ensure!(program.components().count() > 1, "name the program with its directory: ./{name}");
    Ok(())
}

/// Measures everything and writes the report.
pub fn run(bench: &Bench) -> anyhow::Result<()> {
    present(&bench.program)?;
    let place = bench.report.parent().filter(|place| !place.as_os_str().is_empty());
    anyhow::ensure!(place.is_none_or(Path::is_dir), "there is no directory for {}", bench.report.display());
    let runs = 2 + bench.rounds * bench.streams.len() * 4 + usize::from(bench.most > 0);
    let seconds = (WARM_UP + bench.window).as_secs() + ingest::LOOKING.as_secs();
    eprintln!("{runs} runs of at least {seconds} s each, and what viewers cost; those with one stream come first");
    std::fs::create_dir_all(&bench.directory).with_context(|| format!("{}", bench.directory.display()))?;
    let directory = std::fs::canonicalize(&bench.directory)?;
    let clip = clip(&directory.join("clip.flv"), "850k", "96k")?;
    let large = clip_of_two_megabits(&directory)?;
    let mut ingests = Vec::new();
    // What the process has for itself, however many streams there are.
    for contender in [CMAF, TS] {
        ingests.push(ingest_on_fresh(bench, &directory, &clip, contender, 1)?);
    }
    for _ in 0..bench.rounds {
        for streams in &bench.streams {
            for contender in [Contender::NginxRtmp, CMAF, TS, UNSYNCED] {
                ingests.push(ingest_on_fresh(bench, &directory, &clip, contender, *streams)?);
            }
        }
    }
    if bench.most > 0 {
        // Most machines are too busy with so many: what was measured before is not lost for that.
        match ingest_on_fresh(bench, &directory, &clip, CMAF, bench.most) {
            Ok(ingest) => ingests.push(ingest),
            Err(error) => eprintln!("not in the report: {error:#}"),
        }
    }
    let mut webs = Vec::new();
    for _ in 0..bench.rounds {
        for contender in [Contender::NginxRtmp, CMAF, TS] {
            let volume = Volume::fresh(&directory)?;
            let web = web::measure(setting(bench, volume.path(), &large), contender)?;
            eprintln!("{}", serde_json::to_string(&web)?);
            webs.push(web);
        }
    }
    std::fs::write(&bench.report, markdown(bench, &ingests, &webs)).context("the report")
}

fn setting<'a>(bench: &'a Bench, directory: &'a Path, clip: &'a Path) -> Setting<'a> {
    Setting { program: &bench.program, directory, clip, window: bench.window }
}

fn ingest_on_fresh(
    bench: &Bench,
    directory: &Path,
    clip: &Path,
    who: Contender,
    streams: usize,
) -> anyhow::Result<Ingest> {
    let volume = Volume::fresh(directory)?;
    let ingest = ingest::measure(setting(bench, volume.path(), clip), who, streams)?;
    eprintln!("{}", serde_json::to_string(&ingest)?);
    Ok(ingest)
}

/// Twenty seconds of 640x360 at 30 frames a second, a key frame every two seconds.
fn clip(file: &Path, video: &str, audio: &str) -> anyhow::Result<PathBuf> {
    if !file.exists() {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=30:duration=20"]);
        ffmpeg.args(["-f", "lavfi", "-i", "anoisesrc=sample_rate=44100:duration=20:amplitude=0.1", "-c:v", "libx264"]);
        ffmpeg.args(["-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "60", "-keyint_min", "60"]);
        ffmpeg.args(["-sc_threshold", "0", "-nal-hrd", "cbr", "-b:v", video, "-minrate", video, "-maxrate", video]);
        ffmpeg.args(["-bufsize", video, "-c:a", "aac", "-b:a", audio, "-f", "flv"]).arg(file);
        anyhow::ensure!(ffmpeg.status().context("ffmpeg")?.success(), "{ffmpeg:?}");
    }
    Ok(file.to_owned())
}

/// Segments of two seconds have 500 kB.
fn clip_of_two_megabits(directory: &Path) -> anyhow::Result<PathBuf> {
    clip(&directory.join("large.flv"), "1900k", "96k")
}

/// KiB resident beyond what the process had before and what must be held; none if the server does not say what it holds.
fn beyond(row: &Ingest) -> Option<f64> {
    Some((row.resident as f64 - row.resident_before as f64 - row.held? as f64) / 1024.0)
}

/// What more streams cost, without what the process has for itself however many there are: a sentence for each contender that
/// was measured with fewer and with more.
fn further_streams(ingests: &[Ingest]) -> String {
    let mut all: BTreeMap<&str, BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
    for row in ingests {
        if let Some(beyond) = beyond(row) {
            all.entry(&row.contender).or_default().entry(row.streams).or_default().push(beyond);
        }
    }
    let sentences = all.into_iter().filter_map(|(contender, measured)| {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mut measured = measured.into_iter();
        let (fewest, least) = measured.next()?;
        let further = measured.map(|(streams, most)| {
            let each = (mean(&most) - mean(&least)) / (streams - fewest) as f64;
            format!("{each:.0} to {streams}")
        });
        let further = further.collect::<Vec<_>>().join(", ");
        let sentence = format!("{contender}: KiB beyond for each further stream, from {fewest} on: {further}.");
        (!further.is_empty()).then_some(sentence)
    });
    sentences.collect::<Vec<_>>().join(" ")
}

fn markdown(bench: &Bench, ingests: &[Ingest], webs: &[Web]) -> String {
    let mut text = format!(
        "# Benchmarks\n\nWritten by `make bench`; run it again to repeat them.\n\nMachine: {}. Clip: 640x360, 30 frames a second, H.264 and AAC, 945 kbit/s, 2 s from key frame to key frame; segments of 2 s, 6 in the playlist; the archive on a fresh ext4 for each run (a loop device on the disk, the same for all), digests on. Each figure is of {} s after {} s of warm-up. Publishers begin at key frames spread over the clip, as different shows would. One stream alone tells what the process takes for itself once it serves. Contenders take turns; machines are noisy, so compare within a round. A run in which the machine was busier than 80 % is void and repeated. nginx: Debian's nginx-light and libnginx-mod-rtmp with [benches/nginx.conf](../benches/nginx.conf).\n\n## Publishing\n\n`ms` is user and system time of the whole process tree, in milliseconds for one second of one stream. `ratio` is to nginx-rtmp in the same round. `beyond` is resident memory a stream, in the mean of ten looks a second apart after the time was measured, beyond what the process had before it served anybody and the bytes it must hold (what viewers can fetch: playlists, digests, segments, expired ones that must stay fetchable; and samples of the open one), as it says in `steadycast_stream_held_bytes`. `waits` counts how often a thread gave up its core. `late` is how late the load generator and the server's reading were at worst.\n\n| streams | who | ms | ratio | MiB resident | KiB beyond | waits a stream-second | busy | late, ms | disconnected | void |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        machine::description(),
        bench.window.as_secs(),
        WARM_UP.as_secs(),
    );
    let mut nginx = None;
    for row in ingests {
        if row.contender == Contender::NginxRtmp.to_string() {
            nginx = Some((row.streams, row.cpu_ms));
        }
        let ratio =
            nginx.filter(|(streams, _)| *streams == row.streams).map(|(_, ms)| format!("{:.2}", row.cpu_ms / ms));
        let beyond = beyond(row).map(|beyond| beyond / row.streams as f64);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.3} | {} | {} | {} | {:.1} | {:.0} % | {} / {} | {} | {} |",
            row.streams,
            row.contender,
            row.cpu_ms,
            ratio.unwrap_or_else(|| "-".to_owned()),
            row.resident >> 20,
            beyond.map_or_else(|| "-".to_owned(), |beyond| format!("{beyond:.0}")),
            row.waits,
            row.busy * 100.0,
            row.generator_lag_ms,
            row.server_lag_ms,
            row.disconnected,
            row.void,
        );
    }
    let _ = write!(text, "\n{}\n", further_streams(ingests));
    text.push_str("\n## Viewers\n\nOne publisher; wrk with one thread and 64 connections beside the server on the same cores. `µs` is user and system time of the server's process tree for a request; `first segment` is the time from the publisher's first sample until a segment was listed, with a key frame every 2 s, looked for every 50 ms.\n\n| who | segment, kB | µs a segment | ratio | segments a second | µs a playlist | ratio | playlists a second | first segment, s |\n|---|---|---|---|---|---|---|---|---|\n");
    let mut nginx: Option<&Web> = None;
    for row in webs {
        if row.contender == Contender::NginxRtmp.to_string() {
            nginx = Some(row);
        }
        let ratio =
            |of: fn(&Web) -> f64| nginx.map_or_else(|| "-".to_owned(), |nginx| format!("{:.2}", of(row) / of(nginx)));
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {} | {:.0} | {:.1} | {} | {:.0} | {:.2} |",
            row.contender,
            row.segment_bytes / 1000,
            row.segment_us,
            ratio(|web| web.segment_us),
            row.segments_per_second,
            row.playlist_us,
            ratio(|web| web.playlist_us),
            row.playlists_per_second,
            row.first_segment,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_further_stream_holds_is_told_without_what_the_process_has_for_itself() {
        let row = |contender: &str, streams: usize, own: u64, each: u64, held: Option<u64>| Ingest {
            contender: contender.to_owned(),
            streams,
            cpu_ms: 1.0,
            resident_before: 9 << 20,
            resident: (9 << 20) + own + streams as u64 * (each << 10) + held.unwrap_or(0),
            held,
            waits: 0.0,
            busy: 0.1,
            generator_lag_ms: 0,
            server_lag_ms: 0,
            disconnected: 0,
            void: 0,
        };
        let ours = |streams, own| row("ours", streams, own, 100, Some(streams as u64 * 1000));
        let more = ours(700, (6 << 20) + (5000 << 10));
        let rows = [ours(200, 5 << 20), ours(200, 7 << 20), ours(500, 6 << 20), more, row("nginx", 200, 0, 1, None)];
        assert_eq!(
            further_streams(&rows),
            "ours: KiB beyond for each further stream, from 200 on: 100 to 500, 110 to 700."
        );
        assert_eq!(further_streams(&rows[..2]), "", "with one count nothing is known");
    }
}
