//! The publisher lock: one holder at a time, never a dead one.

use crate::harness::{GRACE, Show, Tree, ask, fake_session, wait_for};
use actors::publisher_lock;
use actors::publisher_lock::claims::{STALE, STALE_WHEN_ASKED};
use actors::{Denial, Fault, session};
use ractor::ActorRef;
use storage::Publisher;
use supervisors::streams;
use tokio::time::{Duration, Instant, sleep};

fn fail(session: &ActorRef<session::Msg>, fault: Fault) {
    session.send_message(session::Msg::Fail(fault)).expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_holder_ends_the_next_one_continues_its_session() {
    let tree = Tree::start().await;
    let endings: [fn(&ActorRef<session::Msg>); 4] = [
        |session| session.stop(None),
        |session| session.kill(),
        |session| fail(session, Fault::Panic),
        |session| fail(session, Fault::Error),
    ];
    let mut last = None;
    for end in endings {
        let mut show = tree.publish("show").await;
        assert!(matches!(tree.ask_beside("show", &mut show).await, Err(Denial::Taken)));
        if let Some((epoch, session)) = last {
            assert_eq!((show.grant.epoch, &show.grant.stream.session), (epoch + 1, &session));
        }
        last = Some((show.grant.epoch, show.grant.stream.session.clone()));
        end(&show.session);
        wait_for("grace", || matches!(tree.stream("show").publisher(), Publisher::Grace { .. }).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_ask_at_once_one_is_granted() {
    let tree = Tree::start().await;
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(fake_session().await);
    }
    for (session, _) in &sessions {
        tree.streams.send_message(streams::Msg::Ask(ask("show", session))).expect("alive");
    }
    let mut grants: Vec<Show> = Vec::new();
    let mut answered = 0;
    while answered < sessions.len() {
        for (session, answers) in &mut sessions {
            let Ok(answer) = answers.try_recv() else { continue };
            answered += 1;
            grants.extend(answer.ok().map(|grant| Show::new(session.clone(), grant)));
        }
        grants.iter_mut().for_each(|show| show.send(1));
        // The holder's pace; a test that is never done is ended by its time limit.
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(grants.len(), 1);
    // It keeps what it was granted: this is answered after whatever the tree's start still had to say.
    assert!(matches!(tree.ask_beside("show", &mut grants[0]).await, Err(Denial::Taken)));
    assert!(matches!(tree.stream("show").publisher(), Publisher::Held { epoch: 1, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_fails_forgets_neither_its_holder_nor_the_loss_of_one() {
    let tree = Tree::start().await;
    let mut show = tree.publish("show").await;
    let lock = tree.child::<publisher_lock::Msg>().await;
    lock.send_message(publisher_lock::Msg::Fail(Fault::Panic)).expect("it runs");
    let lock = tree.successor::<publisher_lock::Msg>(&lock).await;
    assert!(matches!(tree.ask_beside("show", &mut show).await, Err(Denial::Taken)));
    // The holder ends in the very moment the lock does.
    lock.kill();
    show.session.kill();
    wait_for("grace", || matches!(tree.stream("show").publisher(), Publisher::Grace { .. }).then_some(())).await;
    assert_eq!(tree.publish("show").await.grant.epoch, show.grant.epoch + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_it_is_granted_the_stream_does_not_hold_it() {
    let tree = Tree::start().await;
    for _ in 0..50 {
        let (session, _answers) = fake_session().await;
        tree.streams.send_message(streams::Msg::Ask(ask("show", &session))).expect("alive");
        session.kill();
    }
    // The last of them may be noticed a moment after this asks: an encoder that is refused asks again.
    for attempt in 0.. {
        if tree.ask("show").await.1.is_ok() {
            break;
        }
        assert!(attempt < 100, "a dead session holds the stream");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_never_sent_anything_leaves_nothing_behind() {
    let tree = Tree::start().await;
    let (session, answer) = tree.ask("show").await;
    assert!(answer.is_ok());
    session.stop(None);
    wait_for("it is forgotten", || tree.environment.registry.get("live/show").is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_forgotten_goes_on_above_the_numbers_it_had() {
    let tree = Tree::start().await;
    let (session, answer) = tree.ask("show").await;
    assert!(answer.is_ok());
    let window = &tree.stream("show").window;
    for _ in 0..5 {
        let before = window.snapshot();
        window.publish(&before, before.new_session(Instant::now())).expect("nobody else publishes");
    }
    let used = window.snapshot();
    session.stop(None);
    wait_for("it is forgotten", || tree.environment.registry.get("live/show").is_none().then_some(())).await;
    let (_session, answer) = tree.ask("show").await;
    assert!(answer.is_ok());
    let next = tree.stream("show").window.snapshot();
    assert!(next.discontinuity_sequence > used.discontinuity_sequence, "{}", next.discontinuity_sequence);
    assert!(next.next_sequence >= used.next_sequence);
}

/// Time passes for the trees, in small steps.
async fn pass(time: Duration) {
    const STEP: Duration = Duration::from_millis(50);
    for _ in 0..time.as_millis() / STEP.as_millis() {
        sleep(STEP).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_loses_the_stream_to_one_that_asks_and_a_live_one_does_not() {
    let tree = Tree::start().await;
    let mut show = tree.publish("show").await;
    assert!(matches!(tree.ask_beside("show", &mut show).await, Err(Denial::Taken)));
    // Its socket is read all the time, and there is nothing in it.
    let (stream, epoch) = (tree.stream("show"), show.grant.epoch);
    let reading = async {
        loop {
            stream.log.looked(epoch, Instant::now());
            // The pace of its reading.
            sleep(Duration::from_millis(50)).await;
        }
    };
    let asked = Instant::now();
    let next = tokio::select! {
        next = tree.publish("show") => next,
        () = reading => unreachable!("it reads for ever"),
    };
    let waited = asked.elapsed();
    assert!(waited <= STALE_WHEN_ASKED + Duration::from_millis(500), "{waited:?}");
    assert_eq!(next.grant.epoch, show.grant.epoch + 1);
    wait_for("the old holder ends", || (show.session.get_status() == ractor::ActorStatus::Stopped).then_some(())).await;
    // Whatever it still sends is not heard.
    let late = show.grant.stream.log.append(show.grant.epoch, [], tokio::time::Instant::now());
    assert!(late.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_wait_outlive_the_lock_they_wait_for() {
    let tree = Tree::start().await;
    let show = tree.publish("show").await;
    let (session, mut answers) = fake_session().await;
    let claim = ask("show", &session);
    tree.streams.send_message(streams::Msg::Ask(claim.clone())).expect("alive");
    let lock = tree.child::<publisher_lock::Msg>().await;
    lock.kill();
    tree.successor::<publisher_lock::Msg>(&lock).await;
    // What a session does every second while it waits.
    tree.streams.send_message(streams::Msg::Ask(claim)).expect("alive");
    show.session.kill();
    let grant = answers.recv().await.expect("answered").expect("granted");
    assert_eq!(grant.epoch, show.grant.epoch + 1);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_publication_even_if_nobody_asks() {
    let tree = Tree::start().await;
    let _show = tree.publish("show").await;
    pass(STALE - Duration::from_secs(1)).await;
    assert!(matches!(tree.stream("show").publisher(), Publisher::Held { .. }));
    pass(Duration::from_secs(2)).await;
    assert!(matches!(tree.stream("show").publisher(), Publisher::Grace { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_grace_does_and_not_before_and_a_new_one_may_follow() {
    let tree = Tree::start().await;
    let mut show = tree.publish("show").await;
    show.send(400);
    wait_for("segments", || tree.stream("show").window.snapshot().has_playlist().then_some(())).await;
    show.session.stop(None);
    pass(GRACE - Duration::from_secs(1)).await;
    assert!(!tree.stream("show").window.snapshot().ended);
    pass(Duration::from_secs(2)).await;
    let ended = tree.stream("show").window.snapshot();
    assert!(ended.ended && tree.stream("show").publisher() == Publisher::Ended);
    let next = tree.publish("show").await;
    assert_ne!(next.grant.stream.session.id, show.grant.stream.session.id);
    let fresh = next.grant.stream.window.snapshot();
    assert_eq!((fresh.next_sequence, fresh.has_playlist(), fresh.ended), (ended.next_sequence, false, false));
}

#[tokio::test(start_paused = true)]
async fn claims_that_were_refused_leave_nothing_behind() {
    let tree = Tree::start().await;
    let mut show = tree.publish("show").await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(matches!(tree.ask_beside("show", &mut show).await, Err(Denial::Taken)));
    pass(Duration::from_secs(1)).await;
    let before = tasks();
    for _ in 0..20 {
        assert!(matches!(tree.ask_beside("show", &mut show).await, Err(Denial::Taken)));
    }
    pass(Duration::from_secs(1)).await;
    // A timer is a task: one that sets itself again would be there for ever.
    assert!(tasks() <= before + 2, "{before} tasks before, {} after", tasks());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_ends_is_heard_of_by_a_lock_that_did_not_grant_it() {
    let tree = Tree::start().await;
    let show = tree.publish("show").await;
    let lock = tree.child::<publisher_lock::Msg>().await;
    lock.kill();
    tree.successor::<publisher_lock::Msg>(&lock).await;
    // Its connection lingers: nobody else tells the lock.
    tree.stream("show").unpublish(show.grant.epoch);
    wait_for("grace", || matches!(tree.stream("show").publisher(), Publisher::Grace { .. }).then_some(())).await;
    assert_eq!(show.session.get_status(), ractor::ActorStatus::Running);
}
