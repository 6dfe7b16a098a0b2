//! What every tree needs to be built, and blows dealt to it on purpose.

use crate::view::View;
use actors::{
    Fault, Vitals, archiver, publisher_lock, recorder, retention, rtmp_listener, segmenter, slate, storage_probe,
    watcher,
};
use ractor::ActorCell;
use std::sync::Arc;
use std::time::Duration;
use storage::Numbers;
use storage::continuity::Records;
use storage::live::StreamSettings;
use storage::retention::Limits;
use storage::{Mounts, Registry, StreamName};

/// How often supervisors show that they run.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

/// What a process has one of.
#[derive(Clone)]
pub struct Environment {
    /// All streams.
    pub registry: Arc<Registry>,
    /// Continuity records.
    pub records: Records,
    /// Archives.
    pub mounts: Mounts,
    /// Which recordings are kept.
    pub retention: Limits,
    /// Vital signs of all actors.
    pub vitals: Arc<Vitals>,
    /// The tree as it is.
    pub view: Arc<View>,
    /// What is shown while an encoder is away, where that is wanted; without a clip the last picture.
    pub slate: Option<Arc<actors::slate::Clip>>,
    /// How new streams are packaged.
    pub settings: StreamSettings,
    /// Highest numbers found in the archive at start, or used since by streams that are forgotten: windows without a
    /// record begin above them.
    pub used: Numbers,
}

/// What is done to an actor on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// A fault in its handler.
    Fault(Fault),
    /// It is killed.
    Kill,
    /// It is killed, and does not start so many times.
    Stillborn(u32),
}

/// Whom a blow is for.
#[derive(Debug, Clone)]
pub struct Strike {
    /// The stream whose child is meant; none for a child of the root.
    pub stream: Option<StreamName>,
    /// Name of the child.
    pub child: String,
    /// What is done to it.
    pub blow: Blow,
}

/// Deals a blow to a child known by its name.
pub(crate) fn strike(cell: &ActorCell, child: &str, blow: Blow) {
    let fault = match blow {
        Blow::Kill | Blow::Stillborn(_) => return cell.kill(),
        Blow::Fault(fault) => fault,
    };
    // A child that has just ended needs no blow; one without faults of its own is killed.
    let _ = match child {
        "publisher_lock" => cell.send_message(publisher_lock::Msg::Fail(fault)).is_ok(),
        "segmenter" => cell.send_message(segmenter::Msg::Fail(fault)).is_ok(),
        "archiver" => cell.send_message(archiver::Msg::Fail(fault)).is_ok(),
        "recorder" => cell.send_message(recorder::Msg::Fail(fault)).is_ok(),
        "slate" => cell.send_message(slate::Msg::Fail(fault)).is_ok(),
        "watcher" => cell.send_message(watcher::Msg::Fail(fault)).is_ok(),
        "session" => cell.send_message(actors::session::Msg::Fail(fault)).is_ok(),
        "rtmp_listener" => cell.send_message(rtmp_listener::Msg::Fail(fault)).is_ok(),
        "retention" => cell.send_message(retention::Msg::Fail(fault)).is_ok(),
        "storage_probe" => cell.send_message(storage_probe::Msg::Fail(fault)).is_ok(),
        _ => {
            cell.kill();
            true
        }
    };
}
