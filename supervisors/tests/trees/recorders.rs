//! Recorders that outlive their streams.

use crate::harness::{Tree, wait_for};
use actors::vitals::Stuck;
use actors::{Place, recorder};
use ractor::ActorCell;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::LiveStream;
use supervisors::streams;

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
    let remembered = || tree.environment.records.read(&stream.name);
    assert!(remembered().is_some(), "by this the next process tells what is missing");
    fs::remove_file(&recordings).expect("removed");
    wait_for("the recording is finished, and its session forgotten", || remembered().is_none().then_some(())).await;
    assert!(stream.spool.is_finished());
}
