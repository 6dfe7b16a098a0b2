//! Single stories of a lock.

use super::*;

pub(super) const GRACES: Graces = Graces { unpublished: Duration::from_secs(1), lost: Duration::from_secs(2) };
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn claims(policy: Policy) -> Claims<u8> {
    Claims::resuming(policy, GRACES, Publisher::Free, 0, Instant::now())
}

pub(super) fn heard(media: Instant, read: Instant) -> Heard {
    Heard { media: Some(media), read }
}

#[test]
fn a_claim_waits_until_the_holder_is_heard_again_or_is_found_stale() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    for (media_ms, expected) in [(1_400, Some(Decision::Refuse(2, Denial::Taken))), (1_200, None)] {
        let mut claims = claims(Policy::Hold);
        assert_eq!(claims.claim(1, at(0), heard(at(0), at(0)), at(0)), [Decision::Grant(1, 1)]);
        assert_eq!(claims.claim(2, at(1000), heard(at(900), at(1000)), at(1000)), []);
        assert_eq!(claims.claim(2, at(1000), heard(at(900), at(1000)), at(1100)), [], "it asks again");
        let decided = claims.look(heard(at(media_ms), at(1_500)), at(1_500));
        assert_eq!(decided.first(), expected.as_ref());
        if expected.is_none() {
            let decided = claims.look(heard(at(media_ms), at(4_200)), at(4_200));
            let closed = Decision::Close(1, Leaving::Lost);
            assert_eq!(decided, [Decision::Evict(1, "stale"), closed, Decision::Grant(2, 2)]);
        }
    }
}

#[test]
fn a_socket_that_we_do_not_read_condemns_nobody_before_it_is_nobody_s() {
    let start = Instant::now();
    let mut claims = claims(Policy::Hold);
    claims.claim(1, start, heard(start, start), start);
    claims.claim(2, start, heard(start, start), start);
    // For nine seconds this process did not get to read what the holder sent.
    assert_eq!(claims.look(heard(start, start), start + 9 * SECOND), []);
    assert_eq!(claims.look(heard(start, start + 3 * SECOND), start + 9 * SECOND)[0], Decision::Evict(1, "stale"));
    // Nobody reads it, and time passes: it is nobody's. A process that was stopped for as long condemns nobody.
    let unread = |steps: u32| {
        let mut claims = Claims::resuming(Policy::Hold, GRACES, Publisher::Free, 0, start);
        claims.claim(1, start, heard(start, start), start);
        let looks = (1..=steps).map(|step| claims.look(heard(start, start), start + STALE * step / steps));
        looks.flatten().next()
    };
    assert_eq!(unread(60), Some(Decision::Evict(1, "unread")));
    assert_eq!(unread(1), None);
}

#[test]
fn where_the_newest_wins_a_claim_takes_the_stream_at_once() {
    let now = Instant::now();
    let mut claims = claims(Policy::Takeover);
    claims.claim(1, now, heard(now, now), now);
    let taken = [Decision::Evict(1, "takeover"), Decision::Close(1, Leaving::Lost), Decision::Grant(2, 2)];
    assert_eq!(claims.claim(2, now, heard(now, now), now), taken);
}

#[test]
fn how_a_publisher_left_decides_how_long_its_session_waits_and_who_waits_goes_first() {
    let now = Instant::now();
    for (leaving, grace) in [(Leaving::Unpublished, GRACES.unpublished), (Leaving::Lost, GRACES.lost)] {
        let mut claims = claims(Policy::Hold);
        claims.claim(1, now, heard(now, now), now);
        assert_eq!(claims.ended(1, leaving, now), [Decision::Close(1, leaving)]);
        assert_eq!(claims.publisher(), Publisher::Grace { until: now + grace });
        assert_eq!(claims.look(heard(now, now), now + grace), [Decision::End]);
    }
    let mut claims = claims(Policy::Hold);
    claims.claim(1, now, heard(now, now), now);
    claims.claim(2, now, heard(now, now), now);
    assert_eq!(claims.ended(7, Leaving::Lost, now), [], "not the holder");
    let next = [Decision::Close(1, Leaving::Lost), Decision::Grant(2, 2)];
    assert_eq!(claims.ended(1, Leaving::Lost, now), next);
}

#[test]
fn more_claims_than_can_wait_are_refused_and_those_that_waited_too_long_are_forgotten() {
    let now = Instant::now();
    let mut claims = claims(Policy::Hold);
    claims.claim(0, now, heard(now, now), now);
    for asker in 1..=MAX_WAITING as u8 {
        assert_eq!(claims.claim(asker, now, heard(now, now), now), []);
    }
    let one_more = claims.claim(99, now, heard(now, now), now);
    assert_eq!(one_more, [Decision::Refuse(99, Denial::Taken)]);
    claims.look(heard(now, now), now + ANSWER_DEADLINE);
    assert_eq!(claims.waiting(), 0);
}
