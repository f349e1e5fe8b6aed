//! `fairlead monitor --top`: the busiest flows, Services and drop reasons, full-screen.
//!
//! Invariant: the terminal is as it was before, however this ends but by SIGKILL.

use std::{
    io,
    process::ExitCode,
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
};

use super::{Ended, MonitorArguments, board::Board, listen, screen};
use crate::api::monitor::MonitorUpdate;

/// How often the screen is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);
/// How many updates wait to be counted; the agent counts what it can't send.
const QUEUE: usize = 4096;

/// Shows the view until it is interrupted, or the agent ends.
pub fn run(arguments: &MonitorArguments) -> io::Result<ExitCode> {
    // Before there are other threads, which would take the signals otherwise.
    let signals = signals()?;
    let (sender, updates) = sync_channel(QUEUE);
    let arguments = arguments.clone();
    thread::spawn(move || {
        let end = sender.clone();
        // Whoever receives may have ended.
        let forward = |update: &MonitorUpdate| {
            sender.send(Ok(update.clone())).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        };
        if let Err(ended) = listen(&arguments, forward) {
            let _ = end.send(Err(ended));
        }
    });
    // An agent that isn't there is said to be so where it can be read.
    match updates.recv() {
        Ok(Ok(_)) => {}
        Ok(Err(ended)) => return super::finish(Err(ended)),
        Err(_) => return Ok(ExitCode::SUCCESS),
    }
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &signals, &updates);
    let restored = ratatui::try_restore();
    let result = super::finish(shown);
    restored.and(result)
}

/// The signals that end this, for which is asked between two pictures.
fn signals() -> io::Result<SignalFd> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn show(
    terminal: &mut DefaultTerminal,
    signals: &SignalFd,
    updates: &Receiver<Result<MonitorUpdate, Ended>>,
) -> Result<(), Ended> {
    let mut board = Board::new();
    let mut second = Instant::now();
    loop {
        take_in(&mut board, updates)?;
        while second.elapsed() >= SECOND {
            second += SECOND;
            board.next_second();
        }
        terminal.draw(|frame| screen::draw(frame, &board)).map_err(Ended::Output)?;
        let until = Instant::now() + DRAW_EVERY;
        while event::poll(until.saturating_duration_since(Instant::now())).map_err(Ended::Output)? {
            match event::read().map_err(Ended::Output)? {
                Event::Key(key) if ends(&key) => return Ok(()),
                // Another size: drawn at once.
                Event::Resize(..) => break,
                _ => {}
            }
        }
        if signals.read_signal().map_err(|errno| Ended::Output(errno.into()))?.is_some() {
            return Ok(());
        }
    }
}

/// Counts what has been told. What comes meanwhile waits for the next picture.
fn take_in(board: &mut Board, updates: &Receiver<Result<MonitorUpdate, Ended>>) -> Result<(), Ended> {
    for _ in 0..QUEUE {
        match updates.try_recv() {
            Ok(Ok(MonitorUpdate::Event(event))) => board.note(&event),
            Ok(Ok(MonitorUpdate::Missed(missed))) => board.miss(&missed),
            Ok(Ok(MonitorUpdate::Listening)) => {}
            Ok(Err(ended)) => return Err(ended),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    Ok(())
}

/// Whether a key ends the view. A terminal in raw mode sends Ctrl-C as a key.
fn ends(key: &KeyEvent) -> bool {
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}
