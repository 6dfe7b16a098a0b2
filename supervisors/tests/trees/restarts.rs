//! Any actor may fail; the show goes on.

use crate::harness::{Show, Tree, packaged, published, wait_for};
use actors::{Fault, archiver, publisher_lock, segmenter, watcher};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, Message, SupervisionEvent};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use supervisors::children::{Children, Learned, Respawn};
use supervisors::streams;
use supervisors::tree::{self, Strike};
use supervisors::{ChildSpec, Intensity, Restart};

/// Something that ends an actor.
type Blow = Box<dyn Fn(&ActorCell)>;

/// Every way an actor ends that is not its own wish.
fn blows<M: Message>(fail: fn(Fault) -> M) -> [Blow; 3] {
    let send = move |fault| move |cell: &ActorCell| cell.send_message(fail(fault)).expect("it runs");
    [Box::new(send(Fault::Panic)), Box::new(send(Fault::Error)), Box::new(ActorCell::kill)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_segmenter_continues_the_numbering_without_losing_or_repeating_a_sample() {
    let tree = Tree::start().await;
    let mut show = tree.publish("show").await;
    let stream = tree.stream("show");
    let first = stream.window.snapshot().next_sequence;
    for blow in blows(segmenter::Msg::Fail).iter().cycle().take(9) {
        show.send(80);
        let segmenter = tree.child::<segmenter::Msg>().await;
        blow(&segmenter);
        tree.successor::<segmenter::Msg>(&segmenter).await;
    }
    show.send(usize::MAX >> 1);
    show.session.stop(None);
    wait_for("the loss is noticed", || (!holds(&tree)).then_some(())).await;
    packaged(&stream).await;
    assert_eq!(published(&stream), show.undisturbed());
    assert_eq!(stream.window.snapshot().next_sequence, first + show.undisturbed().len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segmenter_that_does_not_start_at_once_loses_nothing_once_it_does() {
    let tree = Tree::start().await;
    let mut show = tree.publish("show").await;
    let stream = tree.stream("show");
    show.send(80);
    let segmenter = tree.child::<segmenter::Msg>().await;
    let (name, child) = (stream.name.clone(), "segmenter".to_owned());
    let strike = Strike { stream: Some(name), child, blow: tree::Blow::Stillborn(3) };
    tree.streams.send_message(streams::Msg::Strike(strike)).expect("alive");
    show.send(usize::MAX >> 1);
    tree.successor::<segmenter::Msg>(&segmenter).await;
    let generation = || {
        let all = tree.environment.view.all();
        let supervisor = all.iter().find(|supervisor| supervisor.name == "live/show").expect("it runs");
        supervisor.children["segmenter"].generation
    };
    assert_eq!(generation(), 5, "one was killed, and three did not start");
    show.session.stop(None);
    wait_for("the loss is noticed", || (!holds(&tree)).then_some(())).await;
    packaged(&stream).await;
    assert_eq!(published(&stream), show.undisturbed());
}

fn holds(tree: &Tree) -> bool {
    matches!(tree.stream("show").publisher(), storage::Publisher::Held { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn archiver_watcher_and_lock_fail_without_a_trace_in_what_viewers_get() {
    let tree = Tree::start().await;
    let mut show = tree.publish("show").await;
    let stream = tree.stream("show");
    hit_each_way::<archiver::Msg>(&tree, &mut show, archiver::Msg::Fail).await;
    hit_each_way::<watcher::Msg>(&tree, &mut show, watcher::Msg::Fail).await;
    hit_each_way::<publisher_lock::Msg>(&tree, &mut show, publisher_lock::Msg::Fail).await;
    show.send(usize::MAX >> 1);
    assert!(holds(&tree), "the session still holds the stream");
    show.session.stop(None);
    wait_for("the loss is noticed", || (!holds(&tree)).then_some(())).await;
    packaged(&stream).await;
    assert_eq!(published(&stream), show.undisturbed());
    // And the archive holds it all.
    wait_for("the archive is current", || {
        (stream.ledger.documents().map(|there| there.version) == Some(stream.window.snapshot().version)).then_some(())
    })
    .await;
    assert!(stream.window.snapshot().files().keys().all(|name| stream.ledger.files().contains_key(*name)));
}

async fn hit_each_way<M: Message>(tree: &Tree, show: &mut Show, fail: fn(Fault) -> M) {
    for blow in &blows(fail) {
        show.send(60);
        let child = tree.child::<M>().await;
        blow(&child);
        tree.successor::<M>(&child).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_given_up_is_rebuilt_around_the_same_stream_and_no_other_notices() {
    let tree = Tree::start().await;
    let mut other = tree.publish("other").await;
    let [other_supervisor] = &tree.supervisors()[..] else { panic!("one stream") };
    let others: Vec<_> = other_supervisor.get_children().iter().map(ActorCell::get_id).collect();
    let mut show = tree.publish("show").await;
    let (stream, numbers) = (tree.stream("show"), tree.stream("show").window.snapshot().next_sequence);
    show.send(400);
    wait_for("segments", || (stream.window.snapshot().next_sequence > numbers + 1).then_some(())).await;
    let before = stream.window.snapshot().next_sequence;
    let supervisor =
        tree.supervisors().into_iter().find(|cell| cell.get_id() != other_supervisor.get_id()).expect("two streams");
    let watcher_of = |supervisor: &ActorCell| {
        supervisor.get_children().into_iter().find(|child| child.is_message_type_of::<watcher::Msg>() == Some(true))
    };
    let mut last = None;
    while supervisor.get_status() == ractor::ActorStatus::Running {
        if let Some(watcher) = watcher_of(&supervisor).filter(|watcher| Some(watcher.get_id()) != last) {
            last = Some(watcher.get_id());
            watcher.kill();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    wait_for("the session is ended with its tree", || {
        (show.session.get_status() == ractor::ActorStatus::Stopped).then_some(())
    })
    .await;
    // The encoder comes back: same session, same numbers.
    let mut again = tree.publish("show").await;
    assert!(Arc::ptr_eq(&again.grant.stream, &stream) && again.grant.epoch > show.grant.epoch);
    again.send(400);
    wait_for("segments again", || (stream.window.snapshot().next_sequence > before + 1).then_some(())).await;
    let discontinuities = stream.window.snapshot().listed.iter().filter(|segment| segment.listed.discontinuity).count();
    assert_eq!(discontinuities, 1);
    assert_eq!(other_supervisor.get_children().iter().map(ActorCell::get_id).collect::<Vec<_>>(), others);
    other.send(10);
}

/// Does not start the first `failures` times.
#[derive(Default)]
struct Reluctant;

/// Takes its time to be dropped, as a state with files and sockets may; the two counters tell of overlap.
struct Held(Arc<Counts>);

impl Drop for Held {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(30));
        self.0.held.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Counts {
    failures: AtomicUsize,
    held: AtomicUsize,
    most: AtomicUsize,
}

impl Actor for Reluctant {
    type Msg = ();
    type State = Held;
    type Arguments = Arc<Counts>;

    async fn pre_start(&self, _: ActorRef<()>, counts: Arc<Counts>) -> Result<Held, ActorProcessingErr> {
        let left = counts.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err("not yet".into());
        }
        let held = counts.held.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most.fetch_max(held, Ordering::SeqCst);
        Ok(Held(counts))
    }

    async fn handle(&self, _: ActorRef<()>, (): (), _: &mut Held) -> Result<(), ActorProcessingErr> {
        Err("failed on request".into())
    }
}

/// A supervisor of one reluctant child.
struct Patient;

enum PatientMsg {
    Respawn(Respawn),
}

impl Actor for Patient {
    type Msg = PatientMsg;
    type State = Children;
    type Arguments = Arc<Counts>;

    async fn pre_start(
        &self,
        myself: ActorRef<PatientMsg>,
        counts: Arc<Counts>,
    ) -> Result<Children, ActorProcessingErr> {
        let spec = ChildSpec::new::<Reluctant>("reluctant", Restart::Permanent, counts, |_| {});
        let intensity = Intensity { restarts: 5, period: Duration::from_secs(60) };
        let again = myself.clone();
        let respawn = move |respawn| drop(again.send_message(PatientMsg::Respawn(respawn)));
        Ok(Children::new(("test".to_owned(), Arc::default()), myself.get_cell(), intensity, vec![spec], respawn))
    }

    async fn post_start(&self, _: ActorRef<PatientMsg>, children: &mut Children) -> Result<(), ActorProcessingErr> {
        children.start_all().await.map_err(Into::into)
    }

    async fn handle(
        &self,
        _: ActorRef<PatientMsg>,
        msg: PatientMsg,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let PatientMsg::Respawn(again) = msg;
        children.respawn(again).await.map_err(Into::into)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<PatientMsg>,
        event: SupervisionEvent,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        if let Learned::GiveUp(child) = children.event(event) { Err(child.into()) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_start_is_tried_again_and_given_up_in_the_end() {
    let (patient, handle) = Actor::spawn(None, Patient, counts(5)).await.expect("it starts");
    wait_for("the child starts at last", || patient.get_cell().get_children().into_iter().next()).await;
    patient.kill();
    handle.await.expect("joined");
    let (given_up, handle) = Actor::spawn(None, Patient, counts(6)).await.expect("it starts");
    handle.await.expect("joined");
    assert_eq!(given_up.get_status(), ractor::ActorStatus::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_restarted_only_when_the_dead_one_has_let_go() {
    let counts = counts(0);
    let (patient, _) = Actor::spawn(None, Patient, counts.clone()).await.expect("it starts");
    let mut child = wait_for("the child", || patient.get_cell().get_children().into_iter().next()).await;
    for _ in 0..5 {
        child.send_message(()).expect("it runs");
        let dead = child.get_id();
        child = wait_for("its successor", || {
            patient.get_cell().get_children().into_iter().find(|child| child.get_id() != dead)
        })
        .await;
    }
    assert_eq!(counts.most.load(Ordering::SeqCst), 1, "two generations held the same thing");
}

fn counts(failures: usize) -> Arc<Counts> {
    Arc::new(Counts { failures: AtomicUsize::new(failures), ..Counts::default() })
}
