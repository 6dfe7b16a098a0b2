//! An encoder's socket, read in one of two ways: at once while it opens, in step while it publishes.
//!
//! A publisher's media is not urgent to the millisecond, and waking for every packet costs more than the
//! packet: all publishers of a process are read in the same steps, without asking the kernel to report each
//! arrival. What is not read yet waits in the socket's buffer, where it would wait anyway.

use crate::steps::next_step;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout};

/// How often publishers are read: a seventh of a segment, far below what a viewer could notice.
pub const STEP: Duration = Duration::from_millis(300);
/// How soon a publisher is read again that had this much to say or more: 2.5 Mbit/s sustained, or a large key frame.
const SHORT_STEP: Duration = Duration::from_millis(5);
const MUCH: usize = 96 << 10;
/// How often a peer is tried again that does not take our few answers.
const WRITE_AGAIN: Duration = Duration::from_millis(10);

/// The socket of a connection.
#[derive(Debug)]
pub struct EncoderSocket {
    reading: Reading,
    /// Bytes read since it was last waited for.
    came: usize,
}

#[derive(Debug)]
enum Reading {
    /// The kernel reports arrivals.
    AtOnce(TcpStream),
    /// Not blocking, looked at in steps.
    InStep(std::net::TcpStream),
    /// It could not be changed from one into the other.
    Lost,
}

impl EncoderSocket {
    /// A socket that is read at once.
    pub fn new(socket: TcpStream) -> Self {
        // Answers are small and waited for. A socket that refuses the option still works.
        let _ = socket.set_nodelay(true);
        Self { reading: Reading::AtOnce(socket), came: 0 }
    }

    /// From now on it is read in step.
    pub fn read_in_step(&mut self) -> io::Result<()> {
        self.reading = match std::mem::replace(&mut self.reading, Reading::Lost) {
            Reading::AtOnce(socket) => Reading::InStep(socket.into_std()?),
            changed @ (Reading::InStep(_) | Reading::Lost) => changed,
        };
        Ok(())
    }

    /// Waits until it should be read, at most `slice`; in step until the next step, whatever `slice` is. False if nothing has come.
    pub async fn ready(&mut self, slice: Duration) -> io::Result<bool> {
        let came = std::mem::take(&mut self.came);
        match &self.reading {
            Reading::AtOnce(socket) => {
                timeout(slice, socket.readable()).await.map_or(Ok(false), |ready| ready.map(|()| true))
            }
            Reading::InStep(_) => {
                let step = if came >= MUCH { SHORT_STEP } else { STEP };
                sleep_until(next_step(Instant::now(), step)).await;
                Ok(true)
            }
            Reading::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.reading {
            Reading::AtOnce(socket) => socket.try_read(buffer),
            Reading::InStep(socket) => socket.read(buffer),
            Reading::Lost => Err(io::ErrorKind::NotConnected.into()),
        };
        self.came += read.as_ref().unwrap_or(&0);
        read
    }

    /// Sends all of it. The caller sets the deadline.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match &mut self.reading {
            Reading::AtOnce(socket) => socket.write_all(bytes).await,
            Reading::InStep(socket) => {
                while !bytes.is_empty() {
                    match socket.write(bytes) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(written) => bytes = &bytes[written..],
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(WRITE_AGAIN).await,
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
            Reading::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says that no more is sent. A peer that is gone already needs no farewell; reading tells.
    pub async fn shutdown(&mut self) {
        let _ = match &mut self.reading {
            Reading::AtOnce(socket) => socket.shutdown().await,
            Reading::InStep(socket) => socket.shutdown(Shutdown::Write),
            Reading::Lost => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (EncoderSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let peer = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connected");
        (EncoderSocket::new(listener.accept().await.expect("accepted").0), peer)
    }

    #[tokio::test]
    async fn what_was_sent_before_the_change_is_read_after_it_and_answers_arrive() {
        let (mut socket, mut peer) = pair().await;
        peer.write_all(b"first").await.expect("sent");
        assert!(socket.ready(Duration::from_secs(5)).await.expect("connected"));
        socket.read_in_step().expect("changed");
        let mut buffer = [0; 16];
        // Loopback delivers before `write` returns, and readiness was awaited: it is there at the first step.
        assert!(socket.ready(Duration::ZERO).await.expect("connected"));
        assert_eq!(socket.try_read(&mut buffer).expect("read"), 5);
        socket.write_all(b"answer").await.expect("sent");
        socket.shutdown().await;
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.expect("read");
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn a_peer_that_reads_late_still_gets_all_of_a_long_answer() {
        let (mut socket, mut peer) = pair().await;
        socket.read_in_step().expect("changed");
        let answer = vec![7; 16 << 20];
        let (sent, received) = tokio::join!(socket.write_all(&answer), async {
            let mut received = vec![0; 16 << 20];
            peer.read_exact(&mut received).await.map(|_| received)
        });
        sent.expect("sent");
        assert_eq!(received.expect("received"), answer);
    }
}
