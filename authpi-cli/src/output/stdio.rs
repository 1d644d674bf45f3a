//! Standard output and standard error. A pipe that is closed by its reader does not cause a panic.

use std::{
    io::{self, ErrorKind, Write as _},
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    thread,
    time::Duration,
};

use crate::failure::{Failure, Result};

/// The maximum number of queued lines; further lines are dropped and counted.
const WAITING: usize = 1024;
/// How long the end of the program waits for the remaining lines.
const GRACE: Duration = Duration::from_millis(200);

/// Prints a text to standard output in one write.
///
/// If its reader has closed it, as `head` does, the program ends without a message.
pub(crate) fn print(text: &str) -> Result {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(closed) if closed.kind() == ErrorKind::BrokenPipe => Err(Failure::closed()),
        Err(error) => Err(Failure::because("cannot write to standard output", &error)),
    }
}

/// Prints a line to standard error, if it is open.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "authpi: {text}");
}

/// Prints lines to standard error without waiting for the reader.
pub(crate) struct Lines {
    lines: SyncSender<String>,
    done: Receiver<()>,
}

impl Lines {
    pub(crate) fn start() -> Self {
        let (lines, to_print) = mpsc::sync_channel::<String>(WAITING);
        let (tell, done) = mpsc::channel();
        thread::spawn(move || {
            for line in to_print {
                // Without a reader, there is nothing else to do.
                let _ = writeln!(io::stderr(), "{line}");
            }
            let _ = tell.send(());
        });
        Self { lines, done }
    }

    /// The function that queues lines.
    pub(crate) fn sender(&self) -> impl Fn(String) + Send + Sync + 'static {
        let lines = self.lines.clone();
        let dropped = std::sync::Mutex::new(0_u64);
        move |line| {
            let mut dropped = dropped
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if *dropped > 0 {
                match lines.try_send(format!(
                    "({dropped} lines were dropped: standard error is read too slowly)"
                )) {
                    Ok(()) => *dropped = 0,
                    Err(_) => *dropped += 1,
                }
            }
            if *dropped == 0
                && let Err(TrySendError::Full(_)) = lines.try_send(line)
            {
                *dropped = 1;
            }
        }
    }

    /// Waits briefly for the remaining lines. All senders must have been dropped.
    pub(crate) fn finish(self) {
        drop(self.lines);
        let _ = self.done.recv_timeout(GRACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_reader_are_dropped_and_counted_without_waiting() {
        let (lines, printed) = mpsc::sync_channel(2);
        let (_tell, done) = mpsc::channel();
        let send = Lines { lines, done }.sender();
        for n in 0..5 {
            send(n.to_string());
        }
        assert_eq!(printed.try_iter().collect::<Vec<_>>(), ["0", "1"]);
        send("5".to_owned());
        let rest: Vec<_> = printed.try_iter().collect();
        assert_eq!(
            rest,
            [
                "(3 lines were dropped: standard error is read too slowly)",
                "5"
            ]
        );
    }
}
