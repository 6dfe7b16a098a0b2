//! Recorders that outlive their streams.

use crate::harness::{Tree, wait_for};
use actors::interrupted::{Finisher, Left, Returned};
use actors::vitals::Stuck;
use actors::{Place, recorder};
use ractor::ActorCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage::LiveStream;
use storage::recording::{RecordedSegment, RecordingId, SessionRecord, entries, lines};
use supervisors::streams::{self, Unfinished};
use supervisors::tree::Environment;

/// The recorder that is no child of a stream's tree.
fn last(tree: &Tree) -> Option<ActorCell> {
    tree.supervisors().into_iter().find(|child| child.is_message_type_of::<recorder::Msg>() == Some(true))
}

async fn successor(tree: &Tree, of: &ActorCell) -> ActorCell {
    wait_for("another one goes on", || last(tree).filter(|next| next.get_id() != of.get_id())).await
}

/// A session that has ended, and of which nothing can be recorded while a file is where the directory is to be.
async fn ended_and_unrecorded() -> (Tree, Arc<LiveStream>, PathBuf) {
    let tree = Tree::start_recording().await;
    let recordings = tree.directory.path().join("recordings");
    fs::write(&recordings, "").expect("written");
    let mut show = tree.publish("show").await;
    let stream = tree.stream("show");
    show.send(300);
    show.session.stop(None);
    wait_for("the session ends", || stream.window.snapshot().ended.then_some(())).await;
    (tree, stream, recordings)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_recorder_that_outlives_its_stream_fails_or_hangs_another_one_goes_on() {
    let (tree, stream, recordings) = ended_and_unrecorded().await;
    // The next session does not wait for it.
    let _next = tree.publish("show").await;
    let first = wait_for("its tree is gone, and its recorder is not", || last(&tree)).await;
    first.kill();
    let second = successor(&tree, &first).await;
    // Nobody removes it meanwhile, and the next process knows of it: the other session has a record of its own.
    let recording = RecordingId::of(&stream);
    let remembered = || tree.environment.records.left().expect("read").into_iter().map(|record| record.session().id);
    assert!(tree.environment.registry.is_finishing(&recording));
    assert_eq!(remembered().collect::<Vec<_>>(), std::slice::from_ref(&stream.session.id));
    let (place, time) = (Place::Stream(stream.name.clone()), Duration::from_secs(9));
    let (child, message, id) = ("recorder", "handle", second.get_id());
    let stuck = Stuck { child, place, id, message, time, blocks: true, is_replaced: false };
    tree.streams.send_message(streams::Msg::Stuck(stuck)).expect("alive");
    successor(&tree, &second).await;
    assert!(!stream.spool.is_finished());
    fs::remove_file(&recordings).expect("removed");
    wait_for("the recording is finished", || stream.spool.is_finished().then_some(())).await;
    let session = recordings.join("live/show").join(&stream.session.id);
    assert!(session.join("0.m3u8").exists() && session.join("session.json").exists());
    wait_for("the recorder ends", || last(&tree).is_none().then_some(())).await;
    wait_for("it is forgotten", || (remembered().count() == 0).then_some(())).await;
    let finishing = || tree.environment.registry.is_finishing(&recording);
    wait_for("it may be removed", || (!finishing()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_a_session_stays_if_its_name_is_published_again_while_it_is_still_shown() {
    let (tree, stream, _) = ended_and_unrecorded().await;
    tree.supervisors().iter().for_each(|supervisor| supervisor.stop(None));
    wait_for("its tree is gone, and its recorder is not", || last(&tree)).await;
    let mut next = tree.publish("show").await;
    next.send(300);
    let next = tree.stream("show");
    wait_for("it has a record", || tree.environment.records.read(&next.name)).await;
    let left = tree.environment.records.left().expect("read");
    assert_eq!(left.iter().map(|record| record.id()).collect::<Vec<_>>(), [RecordingId::of(&stream)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_was_given_up_has_a_recorder_again_when_its_name_is_published_again() {
    let (tree, stream, recordings) = ended_and_unrecorded().await;
    tree.supervisors().iter().for_each(|supervisor| supervisor.stop(None));
    let recorder = wait_for("its tree is gone, and its recorder is not", || last(&tree)).await;
    let finishing = || tree.environment.registry.is_finishing(&RecordingId::of(&stream));
    recorder.stop(None);
    wait_for("it is given up", || (!finishing()).then_some(())).await;
    let _next = tree.publish("show").await;
    wait_for("it has a recorder", || last(&tree)).await;
    fs::remove_file(&recordings).expect("removed");
    wait_for("the recording is finished", || stream.spool.is_finished().then_some(())).await;
    wait_for("it may be removed", || (!finishing()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_its_mount_is_away_is_finished_where_it_was_recorded() {
    let tree = Tree::start_recording().await;
    let mut show = tree.publish("show").await;
    let stream = tree.stream("show");
    let (recordings, away) = (tree.directory.path().join("recordings"), tree.directory.path().join("away"));
    let session = |root: &Path| root.join("live/show").join(&stream.session.id);
    show.send(300);
    let recorded = || read_index(&session(&recordings)).pop();
    let last = wait_for("some of it is recorded", recorded).await;
    // It has been for hours, of which memory holds nothing.
    let before = |sequence| RecordedSegment { sequence, ..last.clone() };
    let hours: Vec<_> = (last.sequence - 1000..last.sequence - 900).map(before).collect();
    fs::create_dir(session(&recordings).join("2020010100")).expect("made");
    fs::write(session(&recordings).join("2020010100/segments.jsonl"), lines(&hours)).expect("written");
    let recorder = tree.child::<recorder::Msg>().await;
    recorder.kill();
    show.send(300);
    wait_for("its successor has looked at all of it", || recorded().filter(|newer| newer.sequence > last.sequence))
        .await;
    fs::rename(&recordings, &away).expect("away");
    show.session.stop(None);
    wait_for("the session ends", || stream.window.snapshot().ended.then_some(())).await;
    let whole = || stream.window.snapshot().listed.last().map(|last| last.sequence);
    wait_for("what is in memory is recorded in its place", || recorded().filter(|now| Some(now.sequence) == whole()))
        .await;
    fs::remove_dir_all(&recordings).expect("removed");
    fs::rename(&away, &recordings).expect("back");
    wait_for("the recording is finished", || stream.spool.is_finished().then_some(())).await;
    let record: SessionRecord =
        SessionRecord::parse(&fs::read(session(&recordings).join("session.json")).expect("read")).expect("a record");
    assert!(record.ended_at_ms.is_some() && record.segments > 100, "{record:?}");
    assert_eq!(recorded().map(|last| last.sequence), whole());
    let live = tree.directory.path().join("live/live/show");
    let ended = || fs::read_to_string(live.join("0.m3u8")).is_ok_and(|text| text.contains("ENDLIST"));
    let spares = || fs::read_dir(&live).into_iter().flatten().flatten().filter(|file| is_aside(&file.path())).count();
    wait_for("its last playlist is archived", || ended().then_some(())).await;
    wait_for("nothing is kept for another", || (spares() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_was_given_up_tells_what_it_lacks_when_its_archive_is_well() {
    let (tree, stream, recordings) = ended_and_unrecorded().await;
    let listed = stream.window.snapshot().listed.clone();
    let live = tree.directory.path().join("live/live/show");
    let archived = || fs::read_to_string(live.join("0.m3u8")).is_ok_and(|text| text.contains("ENDLIST"));
    wait_for("its window is archived", || archived().then_some(())).await;
    tree.supervisors().iter().for_each(|supervisor| supervisor.stop(None));
    tree.streams.send_message(streams::Msg::Retire(stream.clone())).expect("alive");
    let remembered = |tree: &Tree| tree.environment.records.left_sessions().expect("read");
    wait_for("it is remembered", || (remembered(&tree).len() == 1).then_some(())).await;
    let tree = tree.succeeded().await;
    fs::remove_file(live.join(&listed[1].file.name)).expect("removed");
    fs::remove_file(&recordings).expect("removed");
    let finisher = finisher(&tree, &stream);
    assert!(finisher.begin());
    let session = recordings.join("live/show").join(&stream.session.id);
    let record = finished(&session).await;
    assert_eq!((record.segments, record.gaps), (listed.len() as u64 - 1, 1));
    wait_for("it is forgotten", || remembered(&tree).is_empty().then_some(())).await;
    assert!(!finisher.is_left() && !finisher.begin_left());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_in_the_place_of_a_mount_that_comes_back_after_the_end_is_recorded_there_too() {
    let tree = Tree::start_recording().await;
    let mut show = tree.publish("show").await;
    let stream = tree.stream("show");
    let (recordings, away) = (tree.directory.path().join("recordings"), tree.directory.path().join("away"));
    let session = recordings.join("live/show").join(&stream.session.id);
    show.send(300);
    wait_for("some of it is recorded", || read_index(&session).pop()).await;
    fs::rename(&recordings, &away).expect("away");
    show.send(300);
    wait_for("the rest is recorded in its place", || read_index(&session).pop()).await;
    show.session.stop(None);
    wait_for("the recording is finished", || stream.spool.is_finished().then_some(())).await;
    let whole = read_index(&session).len();
    fs::remove_dir_all(&recordings).expect("removed");
    fs::rename(&away, &recordings).expect("back");
    assert!(read_index(&session).len() < whole);
    let finisher = finisher(&tree, &stream);
    assert!(finisher.begin());
    assert_eq!(finished(&session).await.segments, whole as u64);
    // Later nothing is in memory any more: what is missing there is told.
    fs::remove_dir_all(tree.directory.path().join("live")).expect("removed");
    tree.supervisors().iter().for_each(|supervisor| supervisor.stop(None));
    tree.streams.send_message(streams::Msg::Retire(stream.clone())).expect("alive");
    let registered = || tree.environment.registry.get("live/show");
    wait_for("the window is gone", || registered().is_none().then_some(())).await;
    let _other = tree.publish("other").await;
    let (hour, mut lines) = (stream.spool.map().expect("a map").uri, read_index(&session));
    let index = session.join(hour.split('/').next().unwrap_or_default()).join("segments.jsonl");
    lines.pop();
    fs::write(index, storage::recording::lines(&lines)).expect("written");
    let mut record = finished(&session).await;
    record.ended_at_ms = None;
    fs::write(session.join("session.json"), record.to_json()).expect("written");
    // Remembered as not recorded until a recorder is through: one may give it up again.
    let is_recorded = || tree.environment.records.left().expect("read").pop().map(|record| record.recorded);
    assert_eq!(is_recorded(), Some(true));
    let registry = tree.environment.registry.clone();
    let in_vain = finisher_to(&tree, &stream, Arc::new(move |stream| registry.finish_no_more(&stream)));
    assert!(in_vain.begin());
    wait_for("it is given back", || (!in_vain.is_busy()).then_some(())).await;
    assert_eq!(is_recorded(), Some(false));
    assert!(finisher.begin());
    let record = finished(&session).await;
    assert_eq!((record.segments, record.gaps), (whole as u64 - 1, 1));
}

/// Finishes what is interrupted in a stream's archive.
fn finisher(tree: &Tree, stream: &LiveStream) -> Finisher {
    let streams = tree.streams.clone();
    let go_on = move |stream| streams.send_message(streams::Msg::Finish(Unfinished::new(&stream))).expect("alive");
    finisher_to(tree, stream, Arc::new(go_on))
}

fn finisher_to(tree: &Tree, stream: &LiveStream, returned: Returned) -> Finisher {
    let Environment { registry, records, settings, mounts, .. } = tree.environment.clone();
    let left = Left { registry, records, settings, returned };
    Finisher::new(mounts.of(&stream.name).clone(), mounts, left)
}

/// The record of a session whose recording is finished.
async fn finished(session: &Path) -> SessionRecord {
    wait_for("it is finished", || {
        let record = fs::read(session.join("session.json")).ok().and_then(|text| SessionRecord::parse(&text));
        record.filter(|record| record.ended_at_ms.is_some())
    })
    .await
}

fn is_aside(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "tmp")
}

/// Entries of the hour that is recorded now.
fn read_index(session: &Path) -> Vec<RecordedSegment> {
    let hours = fs::read_dir(session).into_iter().flatten().flatten().map(|entry| entry.path());
    let index =
        hours.filter(|hour| hour.is_dir()).max().and_then(|hour| fs::read_to_string(hour.join("segments.jsonl")).ok());
    index.map_or(Vec::new(), |text| entries(&text))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_a_session_stays_until_its_recording_is_finished() {
    let (tree, stream, recordings) = ended_and_unrecorded().await;
    // Its lock would wait a minute for the archive.
    tree.supervisors().iter().for_each(|supervisor| supervisor.stop(None));
    wait_for("its tree is gone, and its recorder is not", || last(&tree)).await;
    tree.streams.send_message(streams::Msg::Retire(stream.clone())).expect("alive");
    let registered = || tree.environment.registry.get(&stream.name.to_string());
    wait_for("the window is gone", || registered().is_none().then_some(())).await;
    // What `streams` answers to after that has been done.
    let _other = tree.publish("other").await;
    let remembered = || tree.environment.records.left().expect("read").len();
    assert_eq!(remembered(), 1, "by this the next process tells what is missing");
    fs::remove_file(&recordings).expect("removed");
    wait_for("the recording is finished, and its session forgotten", || (remembered() == 0).then_some(())).await;
    assert!(stream.spool.is_finished());
}
