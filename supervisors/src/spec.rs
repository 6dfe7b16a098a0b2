//! Child specs: what a supervisor knows about a child, as data.

use crate::strategy::MAX_BACKOFF;
pub use crate::strategy::Restart;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A started child: its cell, and the handle that tells when its state is dropped.
pub type Started = (ActorCell, JoinHandle<()>);
type Starting = Pin<Box<dyn Future<Output = Result<Started, SpawnErr>> + Send>>;
/// Starts a child under a supervisor.
pub type Start = Arc<dyn Fn(ActorCell) -> Starting + Send + Sync>;

/// One child of a supervisor.
#[derive(Clone)]
pub struct ChildSpec {
    /// Its name among its siblings.
    pub name: &'static str,
    /// When it is restarted.
    pub restart: Restart,
    /// Longest wait before that, unless storage is to blame.
    pub longest_wait: Duration,
    /// How it is started; must be quick and not depend on anything that can fail.
    pub start: Start,
}

impl ChildSpec {
    /// A child that is started with `args`; `ready` is told of each new generation.
    pub fn new<A>(
        name: &'static str,
        restart: Restart,
        args: A::Arguments,
        ready: impl Fn(&ActorRef<A::Msg>) + Send + Sync + 'static,
    ) -> Self
    where
        A: Actor + Default,
        A::Arguments: Clone + Sync,
    {
        let ready = Arc::new(ready);
        let start: Start = Arc::new(move |supervisor| {
            let (args, ready) = (args.clone(), ready.clone());
            Box::pin(async move {
                let (child, handle) = spawn::<A>(args, supervisor).await?;
                ready(&child);
                Ok((child.get_cell(), handle))
            })
        });
        Self { name, restart, longest_wait: MAX_BACKOFF, start }
    }

    /// A child that is missed at once: it is never put off for longer than this.
    pub fn within(self, longest_wait: Duration) -> Self {
        Self { longest_wait, ..self }
    }
}

fn spawn<A: Actor + Default>(
    args: A::Arguments,
    supervisor: ActorCell,
) -> impl Future<Output = Result<(ActorRef<A::Msg>, JoinHandle<()>), SpawnErr>> + Send {
    A::spawn_linked(None, A::default(), args, supervisor)
}
