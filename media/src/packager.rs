//! Packager: the entries of the sample log in, finished Media Segments out.
//!
//! Its whole state is `Clone`: kept at every cut, it is where a restarted segmenter goes on.
//!
//! It gathers first, until it knows which tracks there are and how long the first two GOPs last or will last
//! (they fix the target duration), then runs. A sample waits for the next one of its track, which
//! tells its duration, so a segment holds only samples whose end is known.

use crate::sample::{Entry, Sample, TICKS_PER_MS, TICKS_PER_SECOND, TrackKind, Tracks};
use crate::segment::{Container, Continuity, Initialization, MAX_SEGMENT_BYTES, OpenSegment, Segment, TimedSample};
use bytes::Bytes;

mod gather;
mod running;

use gather::{Gathering, target_for};
use running::Running;

/// Longest target duration, seconds. A GOP beyond it is cut by force.
pub const MAX_TARGET_DURATION: u32 = 10;
/// Shortest: two segments without a discontinuity are longer than 2 s together, so counting them does not outrun the clock.
pub const MIN_TARGET_DURATION: u32 = 2;
/// What a segment may exceed its target by, ticks: 100 ms, far inside the rounding of EXTINF
/// (RFC 8216 section 4.3.3.1), so that 60 frames at 29.97 a second fit in 2 s.
const TOLERANCE: i64 = TICKS_PER_SECOND / 10;
/// How long video may be missing before audio goes on alone, ticks.
const VIDEO_PATIENCE: i64 = TICKS_PER_SECOND * 3 / 10;
/// A step from one sample to the next of its track that may be a pause of the encoder, ticks.
const LEAST_PAUSE: i64 = TICKS_PER_SECOND / 2;
/// An audio sample that waited for its successor this long at a cut goes into the segment before it, ticks.
const STALE_AUDIO: i64 = TICKS_PER_SECOND / 2;
/// Duration of a video sample without a successor and without a predecessor, ticks: 40 ms.
const LONE_VIDEO_DURATION: i64 = 40 * TICKS_PER_MS;

/// How a stream is packaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Container of all segments.
    pub container: Container,
    /// Configured target duration, seconds, [`MIN_TARGET_DURATION`] to [`MAX_TARGET_DURATION`].
    pub target_duration: u32,
}

/// What the packager has made.
#[derive(Debug, Clone)]
pub enum Output {
    /// A finished segment.
    Segment(Segment),
    /// The session is over; no segment follows.
    End,
}

/// What the packager had to do that an operator may want to know, since the last [`Packager::take_counts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segments cut at an ordinary sample because a GOP was longer than the target duration.
    pub forced_cuts: u64,
    /// Samples dropped because nothing can decode them: before the first random access point,
    /// without a configuration, or of a track that appeared late.
    pub undecodable: u64,
}

/// Turns one session's entries into segments.
#[derive(Debug, Clone)]
pub struct Packager {
    settings: Settings,
    /// EXT-X-TARGETDURATION, once fixed; it never changes during a session.
    target: Option<u32>,
    configs: Tracks,
    wall_ms_at_zero: i64,
    /// End of the last segment on the wall clock; PROGRAM-DATE-TIME never goes back behind it.
    last_end_ms: i64,
    discontinuity: bool,
    all_independent: bool,
    continuity: Continuity,
    counts: Counts,
    phase: Phase,
}

#[derive(Debug, Clone)]
enum Phase {
    Gathering(Gathering),
    Running(Box<Running>),
}

impl Packager {
    /// A packager for a new session.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            target: None,
            configs: Tracks::default(),
            wall_ms_at_zero: 0,
            last_end_ms: 0,
            discontinuity: false,
            all_independent: true,
            continuity: Continuity::default(),
            counts: Counts::default(),
            phase: Phase::Gathering(Gathering::default()),
        }
    }

    /// A packager for a session that another process began: what must not change during a session does not.
    pub fn continuing(settings: Settings, target_duration: u32, all_independent: bool, last_end_ms: i64) -> Self {
        Self { target: Some(target_duration), all_independent, last_end_ms, ..Self::new(settings) }
    }

    /// Counts since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Bytes of samples that are in no finished segment yet.
    pub fn held_bytes(&self) -> usize {
        match &self.phase {
            Phase::Gathering(gathering) => gathering.bytes(),
            Phase::Running(running) => {
                let pending: usize = running.pending.iter().flatten().map(|sample| sample.data.len()).sum();
                pending + running.open.as_ref().map_or(0, OpenSegment::held_bytes)
            }
        }
    }

    /// Takes the next entry of the log; what it finished.
    pub fn push(&mut self, entry: &Entry) -> Vec<Output> {
        let mut done = Vec::new();
        match entry {
            Entry::Epoch { wall_ms_at_zero, .. } => {
                self.interrupt(&mut done);
                self.configs = Tracks::default();
                self.wall_ms_at_zero = *wall_ms_at_zero;
            }
            Entry::EpochEnd => self.interrupt(&mut done),
            Entry::Video(config) => self.configs.video = Some(config.clone()),
            Entry::Audio(config) => self.configs.audio = Some(config.clone()),
            Entry::Discontinuity => self.jump(&mut done),
            Entry::Sample(sample) => self.sample(sample.clone(), &mut done),
            Entry::End => {
                self.interrupt(&mut done);
                done.push(Output::End);
            }
        }
        done
    }

    /// Finishes what is open and starts gathering anew, after a discontinuity.
    pub fn interrupt(&mut self, done: &mut Vec<Output>) {
        if let Phase::Gathering(gathering) = &mut self.phase
            && !gathering.is_empty()
        {
            let gathering = std::mem::take(gathering);
            self.run(gathering, done);
        }
        self.flush(done);
        self.phase = Phase::Gathering(Gathering::default());
        self.discontinuity = true;
    }

    /// Drops what is open and starts gathering anew: for a state that fails even when it is finished.
    pub fn abandon(&mut self) {
        self.phase = Phase::Gathering(Gathering::default());
        self.discontinuity = true;
    }

    /// The encoder's clock jumped: the tracks stay what they are, the timestamps do not.
    fn jump(&mut self, done: &mut Vec<Output>) {
        let Phase::Running(running) = &self.phase else { return self.interrupt(done) };
        let init = running.init.clone();
        self.flush(done);
        self.discontinuity = true;
        self.phase = Phase::Running(Box::new(Running::new(init, None)));
    }

    fn sample(&mut self, sample: Sample, done: &mut Vec<Output>) {
        if !self.configs.has(sample.kind) {
            self.counts.undecodable += 1;
            return;
        }
        match &mut self.phase {
            Phase::Running(_) => self.running_sample(sample, done),
            Phase::Gathering(gathering) => {
                if !gathering.push(sample, &self.configs) {
                    self.counts.undecodable += 1;
                }
                let least = self.target.is_none().then_some(self.settings.target_duration);
                if gathering.is_ready(least) {
                    let gathering = std::mem::take(gathering);
                    self.run(gathering, done);
                }
            }
        }
    }

    /// From gathering to running: fixes the target duration if this session has none, replays what was gathered.
    fn run(&mut self, gathering: Gathering, done: &mut Vec<Output>) {
        let tracks = gathering.tracks();
        let longest = gathering.longest_gop();
        self.target.get_or_insert(target_for(longest, self.settings.target_duration));
        let start = gathering.first_dts();
        let init = Initialization::new(self.settings.container, tracks);
        self.phase = Phase::Running(Box::new(Running { longest_gop: longest, ..Running::new(init, start) }));
        let latest = std::mem::take(&mut self.configs);
        for (sample, configs) in gathering.into_samples() {
            self.configs = configs;
            self.running_sample(sample, done);
        }
        self.configs = latest;
    }

    fn running_sample(&mut self, sample: Sample, done: &mut Vec<Output>) {
        if self.must_reconfigure(&sample) {
            self.reconfigure(sample.kind, done);
        }
        if self.is_after_pause(&sample) {
            self.jump(done);
        }
        let Phase::Running(running) = &mut self.phase else { return };
        if !running.init.tracks.has(sample.kind) {
            running.late_track = true;
            self.counts.undecodable += 1;
            return;
        }
        self.close_pending(sample.kind, Some(sample.dts));
        if self.must_cut(&sample) {
            let alone = sample.kind == TrackKind::Audio && self.has_video();
            let boundary = if alone { self.packaged_end().unwrap_or(sample.dts) } else { sample.dts };
            self.cut(boundary, done);
        }
        let Phase::Running(running) = &mut self.phase else { return };
        running.came(sample.kind, sample.dts);
        if sample.kind == TrackKind::Video && sample.random_access {
            running.gop_start = Some(sample.dts);
        }
        let kind = sample.kind as usize;
        running.pending[kind] = Some(sample);
    }

    /// Whether everything paused, and for so long that no segment may hold the pause: what comes goes on elsewhere.
    fn is_after_pause(&self, sample: &Sample) -> bool {
        let Phase::Running(running) = &self.phase else { return false };
        let Some(latest) = running.latest[sample.kind as usize] else { return false };
        let start = running.start.unwrap_or(latest);
        let step = sample.dts - latest;
        let paused = step > LEAST_PAUSE && running.gone_on_without(sample.kind) < step / 2;
        paused && running.packaged_end().unwrap_or(start) - start + step > self.limit()
    }

    fn has_video(&self) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.init.tracks.video.is_some())
    }

    fn packaged_end(&self) -> Option<i64> {
        if let Phase::Running(running) = &self.phase { running.packaged_end() } else { None }
    }

    /// Longest a segment may be, ticks.
    fn limit(&self) -> i64 {
        i64::from(self.target.unwrap_or(self.settings.target_duration)) * TICKS_PER_SECOND + TOLERANCE
    }

    /// Whether this sample needs another initialization than the one in use.
    fn must_reconfigure(&self, sample: &Sample) -> bool {
        let Phase::Running(running) = &self.phase else { return false };
        let tracks = &running.init.tracks;
        match sample.kind {
            TrackKind::Video if tracks.video.is_none() => sample.random_access,
            TrackKind::Video => tracks.video != self.configs.video || running.late_track && sample.random_access,
            TrackKind::Audio => tracks.audio.is_some() && tracks.audio != self.configs.audio,
        }
    }

    fn reconfigure(&mut self, kind: TrackKind, done: &mut Vec<Output>) {
        self.flush(done);
        let Phase::Running(running) = &self.phase else { return };
        let (old, late) = (&running.init.tracks, running.late_track);
        let wanted = |track: TrackKind| old.has(track) || late || track == kind;
        let tracks = Tracks {
            video: self.configs.video.clone().filter(|_| wanted(TrackKind::Video)),
            audio: self.configs.audio.clone().filter(|_| wanted(TrackKind::Audio)),
        };
        self.discontinuity = true;
        let init = Initialization::new(self.settings.container, tracks);
        self.phase = Phase::Running(Box::new(Running::new(init, None)));
    }

    /// Whether the open segment must end before this sample.
    fn must_cut(&mut self, sample: &Sample) -> bool {
        let Phase::Running(running) = &self.phase else { return false };
        let (Some(start), Some(open)) = (running.start, &running.open) else { return false };
        let elapsed = sample.dts - start;
        let limit = self.limit();
        let too_large = open.len() + sample.data.len() > MAX_SEGMENT_BYTES;
        let step = running.last_duration[sample.kind as usize].unwrap_or(0);
        let has_video = running.init.tracks.video.is_some();
        let forced = match (sample.kind, sample.random_access) {
            (TrackKind::Video, true) => {
                let gop = running.gop_start.map_or(0, |gop_start| sample.dts - gop_start);
                return elapsed + gop.max(running.longest_gop) > limit || too_large;
            }
            (TrackKind::Video, false) => elapsed + step > limit,
            (TrackKind::Audio, _) if has_video => {
                running.gone_on_without(TrackKind::Video) > VIDEO_PATIENCE
                    && running.packaged_end().is_some_and(|end| end - start > limit)
            }
            (TrackKind::Audio, _) => return elapsed + step > limit - TOLERANCE || too_large,
        };
        self.counts.forced_cuts += u64::from(forced || too_large);
        forced || too_large
    }

    /// Gives the waiting sample of a track its duration and a place in the open segment.
    fn close_pending(&mut self, kind: TrackKind, next_dts: Option<i64>) {
        let Phase::Running(running) = &mut self.phase else { return };
        let Some(sample) = running.pending[kind as usize].take() else { return };
        let last = running.last_duration[kind as usize];
        let usual = match kind {
            TrackKind::Video => last.unwrap_or(LONE_VIDEO_DURATION),
            TrackKind::Audio => running.init.tracks.audio.as_ref().map_or(0, |config| config.frame_ticks()),
        };
        let step = next_dts.map_or(usual, |next| next - sample.dts);
        // A pause of the microphone is a hole in the track, not one very long frame.
        let paused = kind == TrackKind::Audio && step > 2 * usual + TOLERANCE;
        let duration = if paused { usual } else { step };
        running.last_duration[kind as usize] = Some(duration);
        running.end[kind as usize] = Some(sample.dts + duration);
        let start = *running.start.get_or_insert(sample.dts);
        let container = self.settings.container;
        let open = running.open.get_or_insert_with(|| OpenSegment::new(container, running.init.clone(), start));
        // Steps are at most timeline::JUMP_MS, far inside 32 bits.
        open.append(TimedSample { sample, duration: duration as u32 });
    }

    /// Ends the open segment at `boundary`, where the next one starts.
    fn cut(&mut self, boundary: i64, done: &mut Vec<Output>) {
        let Phase::Running(running) = &mut self.phase else { return };
        if running.pending[TrackKind::Audio as usize].as_ref().is_some_and(|audio| boundary - audio.dts > STALE_AUDIO) {
            self.close_pending(TrackKind::Audio, None);
        }
        let Phase::Running(running) = &mut self.phase else { return };
        for waiting in running.pending.iter_mut().flatten() {
            // It came with samples of the segment that ends here: their memory is to go with them.
            waiting.data = Bytes::copy_from_slice(&waiting.data);
        }
        running.start = Some(boundary);
        running.longest_gop = 0;
        if let Some(open) = running.open.take() {
            done.push(Output::Segment(self.finish(open, boundary)));
        }
    }

    /// Ends the open segment where its last samples end.
    fn flush(&mut self, done: &mut Vec<Output>) {
        self.close_pending(TrackKind::Video, None);
        self.close_pending(TrackKind::Audio, None);
        let Phase::Running(running) = &mut self.phase else { return };
        if let Some(open) = running.open.take() {
            let end = running.packaged_end().unwrap_or(open.start).max(open.start + 1);
            done.push(Output::Segment(self.finish(open, end)));
        }
    }

    fn finish(&mut self, open: OpenSegment, end: i64) -> Segment {
        let (start, init) = (open.start, open.init.clone());
        let finished = open.finish(&mut self.continuity);
        self.all_independent &= finished.independent;
        let discontinuity = std::mem::take(&mut self.discontinuity);
        // Whatever paused, and however: EXTINF never rounds to more than the target. What follows a
        // segment that was said to be shorter than it is does not continue it.
        let latest_end = start + self.limit() + VIDEO_PATIENCE;
        self.discontinuity = end > latest_end;
        let end = end.clamp(start + 1, latest_end);
        let mut program_date_time_ms = self.wall_ms_at_zero + start / TICKS_PER_MS;
        if discontinuity && program_date_time_ms < self.last_end_ms {
            // The wall clock was set back between two epochs: keep to the later time.
            self.wall_ms_at_zero += self.last_end_ms - program_date_time_ms;
            program_date_time_ms = self.last_end_ms;
        }
        self.last_end_ms = program_date_time_ms + (end - start) / TICKS_PER_MS;
        Segment {
            bytes: finished.bytes,
            digest: finished.digest,
            parts: finished.parts,
            start,
            duration: end - start,
            independent: finished.independent,
            discontinuity,
            program_date_time_ms,
            init,
            video_samples: finished.video_samples,
            target_duration: self.target.unwrap_or(self.settings.target_duration),
            all_independent: self.all_independent,
        }
    }
}

#[cfg(test)]
#[path = "packager/tests.rs"]
mod tests;
