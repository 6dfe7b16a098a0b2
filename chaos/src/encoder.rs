//! One encoder in this process: it publishes a clip in real time, and dies in the ways encoders do.

use crate::clip::Clip;
use crate::rtmp_client::{Target, publish};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it writes: as an encoder of 30 frames a second does.
const TICK: Duration = Duration::from_millis(33);
/// How long a server may leave what it sends unread before it gives up.
const UNREAD: Duration = Duration::from_secs(20);
/// An acknowledgement (RTMP 1.0 section 5.4.3) in a chunk of format 0 on the control stream.
const ACKNOWLEDGEMENT: [u8; 16] = [2, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 1, 0, 0];

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Sends media.
    Sends,
    /// Sends nothing, and keeps its connection.
    Nothing,
    /// Sends acknowledgements, and no media.
    Acknowledges,
}

#[derive(Debug)]
struct Control {
    /// Held while it decides and writes: who changes it knows that nothing is begun any more of what it did before.
    doing: Mutex<Doing>,
    stop: AtomicBool,
    lost: AtomicBool,
}

/// An encoder at work. Dropped, it is gone: the kernel closes its connection.
#[derive(Debug)]
pub struct Encoder {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    /// Its end of the connection.
    pub port: u16,
    /// From the first packet to the accepted `publish`.
    pub took: Duration,
}

impl Encoder {
    /// Publishes; an error if it is refused.
    pub fn publish(target: &Target, clip: &Arc<Clip>) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut socket = publish(target)?;
        let took = begun.elapsed();
        socket.write_all(&clip.headers)?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        let (doing, stop, lost) = (Mutex::new(Doing::Sends), AtomicBool::default(), AtomicBool::default());
        let control = Arc::new(Control { doing, stop, lost });
        let (theirs, clip) = (control.clone(), clip.clone());
        let thread = std::thread::spawn(move || {
            if run(socket, &clip, &theirs).is_err() {
                theirs.lost.store(true, Ordering::Release);
            }
        });
        Ok(Self { control, thread: Some(thread), port, took })
    }

    /// It sends nothing any more, and keeps its connection: frozen, or half-open.
    pub fn freeze(&self) {
        *self.control.doing() = Doing::Nothing;
    }

    /// It sends acknowledgements, and no media.
    pub fn only_acknowledge(&self) {
        *self.control.doing() = Doing::Acknowledges;
    }

    /// The server has ended its connection.
    pub fn is_lost(&self) -> bool {
        self.control.lost.load(Ordering::Acquire)
    }
}

impl Control {
    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut socket: TcpStream, clip: &Clip, control: &Control) -> std::io::Result<()> {
    let (begun, mut next, mut unsent, mut read) = (Instant::now(), 0, Vec::new(), [0; 4096]);
    let mut unread_since = None;
    while !control.stop.load(Ordering::Acquire) {
        // The pace of its pictures.
        std::thread::sleep(TICK);
        match socket.read(&mut read) {
            Ok(0) => return Err(ErrorKind::ConnectionReset.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let doing = control.doing();
        let now = begun.elapsed().as_millis() as u64;
        match *doing {
            Doing::Sends => {
                while unsent.is_empty() && clip.due_ms(next) <= now {
                    let from = next;
                    while clip.due_ms(next) <= now {
                        next += 1;
                        if next.is_multiple_of(clip.len()) {
                            break;
                        }
                    }
                    unsent.extend_from_slice(clip.bytes(from, next));
                }
            }
            Doing::Acknowledges if unsent.is_empty() => unsent.extend(ACKNOWLEDGEMENT),
            Doing::Acknowledges => {}
            // What is half sent is finished by nobody who is frozen.
            Doing::Nothing => continue,
        }
        let written = match socket.write(&unsent) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            written => written?,
        };
        drop(doing);
        unsent.drain(..written);
        unread_since = if unsent.is_empty() { None } else { unread_since.or_else(|| Some(Instant::now())) };
        if unread_since.is_some_and(|since: Instant| since.elapsed() > UNREAD) {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
