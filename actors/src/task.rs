//! The one place that spawns tasks which are no actors.

use std::future::Future;
use tokio::task::JoinHandle;

/// Spawns a short task that ends by itself: nobody restarts it, so it must only wait and send a message.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    #[expect(clippy::disallowed_methods, reason = "this is the wrapper the lint points to")]
    tokio::spawn(task)
}
