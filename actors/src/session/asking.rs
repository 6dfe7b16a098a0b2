//! How a session asks for its stream, and is told to leave it.

use super::{End, Meter, Msg, PUBLISH_DEADLINE, Phase, Publishing, State};
use crate::authorizer::Verdict;
use crate::door::{Ask, Denial, Farewell, Grant};
use crate::publisher_lock::claims::{ANSWER_DEADLINE, Leaving};
use crate::vitals::Place;
use media::Intake;
use ractor::ActorRef;
use rtmp::{PublishRequest, Refusal};
use storage::StreamName;
use tokio::time::{Duration, Instant};

/// While it waits for its answer it asks again and again, in case whoever was asked has failed meanwhile.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Characters of a peer's text that go into the log.
const MAX_LOGGED: usize = 200;

impl State {
    /// Asks for the stream, or refuses at once what can never be granted.
    pub(super) fn ask(&mut self, myself: &ActorRef<Msg>, request: &PublishRequest) {
        self.asked = format!("{}/{}", request.app, request.name).chars().take(MAX_LOGGED).collect();
        let name = match StreamName::new(&request.app, &request.name) {
            Ok(name) => name,
            Err(error) => return self.refuse(Refusal::BadName, "bad_name", &error.to_string()),
        };
        if let Verdict::Denied(reason) = self.authorizer.authorize(&name, &request.parameters, self.peer) {
            return self.refuse(Refusal::Denied, "denied", &reason);
        }
        self.phase = Phase::Asking(name, Instant::now());
        self.send_ask(myself);
        myself.send_after(ANSWER_DEADLINE, || Msg::AnswerOverdue);
    }

    fn send_ask(&mut self, myself: &ActorRef<Msg>) {
        let Phase::Asking(name, since) = &self.phase else { return };
        let (stream, since) = (name.clone(), *since);
        let ask = Ask { stream, session: myself.clone(), since, deadline: since + ANSWER_DEADLINE };
        myself.send_after(ASK_AGAIN, || Msg::AskAgain);
        if self.door.send_message(ask).is_err() {
            self.refuse(Refusal::BadName, Denial::NotOpened.label(), &Denial::NotOpened.to_string());
        }
    }

    pub(super) async fn answered(&mut self, myself: &ActorRef<Msg>, answer: Result<Grant, Denial>) -> Result<(), End> {
        if !matches!(self.phase, Phase::Asking(..)) {
            return Err(End::new("late_answer", "the answer to its publish came too late"));
        }
        match answer {
            Ok(grant) => {
                self.protocol.accept();
                self.waiting.left();
                self.vital.moved(Place::Stream(grant.stream.name.clone()));
                self.socket.read_in_step().map_err(End::io)?;
                let intake = Intake::starting_at(grant.start_ms);
                self.phase = Phase::Publishing(Publishing {
                    grant,
                    intake,
                    entries: Vec::new(),
                    meter: Meter::starting(Instant::now(), self.max_bitrate),
                });
                let kept = std::mem::take(&mut self.tail).into();
                let (events, failed) = self.parse(&kept);
                self.act(myself, events).await?;
                failed.map_or(Ok(()), Err)?;
            }
            // The session before is being closed: it will be asked for again.
            Err(Denial::Closing) => return Ok(()),
            Err(denial) => self.refuse(Refusal::BadName, denial.label(), &denial.to_string()),
        }
        self.flush().await?;
        self.wants_to_read = true;
        Ok(())
    }

    pub(super) async fn ask_again(&mut self, myself: &ActorRef<Msg>) -> Result<(), End> {
        if !matches!(self.phase, Phase::Asking(..)) {
            return Ok(());
        }
        let _busy = self.vital.enter("AskAgain");
        self.send_ask(myself);
        self.wants_to_read = !matches!(self.phase, Phase::Asking(..));
        self.flush().await
    }

    pub(super) async fn answer_overdue(&mut self) -> Result<(), End> {
        if matches!(self.phase, Phase::Asking(..)) {
            self.refuse(Refusal::BadName, "overdue", "the server is busy; try again in a second");
            self.flush().await?;
            self.wants_to_read = true;
        }
        Ok(())
    }

    /// It loses its stream: what it sent so far counts, and it is told.
    pub(super) async fn leave(&mut self, farewell: Farewell) -> Result<(), End> {
        match self.phase {
            Phase::Publishing(_) | Phase::Asking(..) => {}
            Phase::Opening => return Err(End::new("told_to_leave", farewell.text())),
            Phase::Refused(_) | Phase::Ended(_) => return Ok(()),
        }
        let asks = matches!(self.phase, Phase::Asking(..));
        self.protocol.finish(farewell.text());
        self.end(Phase::Refused, Leaving::Lost);
        // While it asks nothing is read; from now on its end is waited for.
        self.wants_to_read |= asks;
        self.flush().await
    }

    pub(super) fn publish_overdue(&self) -> Result<(), End> {
        match self.phase {
            Phase::Opening => {
                let text = format!("it did not publish within {} s", PUBLISH_DEADLINE.as_secs());
                Err(End::new("publish_overdue", text))
            }
            Phase::Asking(..) | Phase::Publishing(_) | Phase::Refused(_) | Phase::Ended(_) => Ok(()),
        }
    }
}
