//! The `command` frames of a session: commands run one at a time and once each; the newest request gets the answer.
//!
//! Two commands are the same if id, text and client are equal. A client is the `clientId` with which the connection
//! attached. A connection that never attached is a separate client and, once closed, equals any client that repeats its
//! command: it may have reconnected, and a second run would be worse than giving the result to another client.

use std::{collections::VecDeque, time::Duration};

use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, Exit, HistoryEntry, ServerFrame},
    ids::{ClientId, ConnectionId},
    limits::{
        COMMAND_RESULT_TTL, COMMAND_TIMEOUT, MAX_COMMAND_QUEUE, MAX_COMMAND_RESULT, MAX_COMMAND_RESULTS,
        MAX_COMMAND_RESULTS_BYTES, MAX_COMMAND_TIMEOUT, MAX_HISTORY, MAX_MESSAGE,
    },
    payload::Payload,
    times::UnixMs,
};

use crate::effect::{Effect, Reply};

/// Room for an answer without its long text, bytes of JSON.
const ANSWER_HEAD: usize = 1024;

/// A request that awaits its answer.
#[derive(Debug)]
pub(crate) struct Requester {
    pub(crate) owner: Owner,
    /// The driver's number of the request.
    pub(crate) request: u64,
}

/// The client that owns a command.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) connection: ConnectionId,
    /// The `clientId` with which that connection attached.
    pub(crate) client: Option<ClientId>,
}

impl Owner {
    /// Whether both are the same client. `exists`: whether a connection still exists.
    fn is(&self, other: &Self, exists: impl Fn(&ConnectionId) -> bool) -> bool {
        match (&self.client, &other.client) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => self.connection == other.connection || !exists(&self.connection),
        }
    }

    /// Notes that the same client repeats its request, possibly over another connection.
    fn repeated_by(&mut self, other: Self) {
        let client = other.client.or_else(|| self.client.take());
        *self = Self { connection: other.connection, client };
    }
}

/// A command as requested.
#[derive(Debug)]
pub(crate) struct Command {
    id: String,
    text: String,
    timeout: Duration,
}

/// Outcome of a command.
#[derive(Debug)]
pub enum CommandOutcome {
    /// It could not be started.
    NotStarted,
    /// It was started, but its end could not be observed.
    Lost,
    /// It ended.
    Ended(CommandEnd),
}

/// How a command ended.
#[derive(Debug)]
pub struct CommandEnd {
    /// stdout and stderr in the order written. Bytes beyond [`MAX_COMMAND_RESULT`] are ignored.
    pub output: Vec<u8>,
    /// Whether there was more output.
    pub truncated: bool,
    /// Its exit status.
    pub exit: Exit,
    /// How long it ran.
    pub took: Duration,
    /// Whether it was killed at its time limit.
    pub timed_out: bool,
}

/// All commands of a session.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    queue: VecDeque<(Command, Requester)>,
    current: Option<(Command, Requester)>,
    results: VecDeque<Done>,
    history: VecDeque<HistoryEntry>,
}

#[derive(Debug)]
struct Done {
    command: Command,
    owner: Owner,
    at: Duration,
    size: usize,
    frame: ServerFrame,
}

impl Command {
    pub(crate) fn new(id: String, text: String, timeout_ms: Option<u64>) -> Self {
        let timeout = timeout_ms.map_or(COMMAND_TIMEOUT, Duration::from_millis).min(MAX_COMMAND_TIMEOUT);
        Self { id, text, timeout }
    }

    /// Whether both are the same command, if they have the same owner.
    fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.text == other.text
    }
}

impl Commands {
    /// Queues a command. Answers at once if it has ended before or the queue is full. `exists`: whether a connection still
    /// exists.
    pub(crate) fn ask(
        &mut self,
        command: Command,
        requester: Requester,
        effects: &mut VecDeque<Effect>,
        now: Duration,
        exists: impl Fn(&ConnectionId) -> bool,
    ) -> Reply {
        self.results.retain(|done| now < done.at + COMMAND_RESULT_TTL);
        let mut results = self.results.iter_mut();
        if let Some(done) =
            results.find(|done| done.command.is(&command) && done.owner.is(&requester.owner, &exists))
        {
            done.owner.repeated_by(requester.owner);
            return Reply::Frame(done.frame.clone());
        }
        let mut pending = self.current.iter_mut().chain(self.queue.iter_mut());
        let same = |known: &Command, earlier: &Requester| {
            known.is(&command) && earlier.owner.is(&requester.owner, &exists)
        };
        if let Some((_, earlier)) = pending.find(|(known, earlier)| same(known, earlier)) {
            // The newest request gets the answer; the older one ends without.
            let to = earlier.owner.connection.clone();
            let request = std::mem::replace(&mut earlier.request, requester.request);
            earlier.owner.repeated_by(requester.owner);
            effects.push_back(Effect::Answer { request, to, frame: None });
            return Reply::Later;
        }
        if self.queue.len() >= MAX_COMMAND_QUEUE {
            let error = ErrorFrame::new(ErrorCode::RateLimited, "too many commands are waiting");
            return Reply::Frame(error.answering(Some(command.id)).into());
        }
        self.queue.push_back((command, requester));
        Reply::Later
    }

    /// A connection has attached: its earlier commands now belong to that client.
    pub(crate) fn attached(&mut self, connection: &ConnectionId, client: &ClientId) {
        let pending =
            self.current.iter_mut().chain(self.queue.iter_mut()).map(|(_, requester)| &mut requester.owner);
        for owner in pending.chain(self.results.iter_mut().map(|done| &mut done.owner)) {
            if owner.client.is_none() && owner.connection == *connection {
                owner.client = Some(client.clone());
            }
        }
    }

    /// Starts the next command if none is running.
    pub(crate) fn start(&mut self, effects: &mut VecDeque<Effect>) {
        if self.current.is_none()
            && let Some((command, requester)) = self.queue.pop_front()
        {
            effects.push_back(Effect::Run { command: command.text.clone(), timeout: command.timeout });
            self.current = Some((command, requester));
        }
    }

    /// Handles the outcome of the running command.
    pub(crate) fn finished(
        &mut self,
        outcome: CommandOutcome,
        timestamp: UnixMs,
        effects: &mut VecDeque<Effect>,
        now: Duration,
    ) {
        let Some((command, requester)) = self.current.take() else { return };
        let failed = |message| ErrorFrame::new(ErrorCode::CommandFailed, message).into();
        let frame = match outcome {
            CommandOutcome::NotStarted => failed("the command cannot be started"),
            CommandOutcome::Lost => failed("the command's end could not be observed"),
            CommandOutcome::Ended(end) => {
                let exit_code = end.exit.exit_code;
                let frame = result(&command, end, timestamp);
                self.remember(HistoryEntry { command: command.text.clone(), exit_code, timestamp });
                frame
            }
        };
        let frame = match frame {
            ServerFrame::Error(error) => error.answering(Some(command.id.clone())).into(),
            frame => frame,
        };
        let Requester { owner, request } = requester;
        let to = owner.connection.clone();
        self.keep(command, owner, frame.clone(), now);
        effects.push_back(Effect::Answer { request, to, frame: Some(frame) });
    }

    /// The newest commands, oldest first.
    pub(crate) fn history(&self, timestamp: UnixMs) -> ServerFrame {
        ServerFrame::History { history: self.history.iter().cloned().collect(), timestamp }
    }

    /// Clears the history.
    pub(crate) fn clear(&mut self, timestamp: UnixMs) -> ServerFrame {
        self.history.clear();
        ServerFrame::ClearAck { timestamp }
    }

    /// Keeps an answer for repetitions of the command.
    fn keep(&mut self, command: Command, owner: Owner, frame: ServerFrame, now: Duration) {
        let result = match &frame {
            ServerFrame::CommandResult { result, .. } => result.len(),
            _ => 0,
        };
        let size = result + command.id.len() + command.text.len();
        self.results.push_back(Done { command, owner, at: now, size, frame });
        while self.results.len() > MAX_COMMAND_RESULTS
            || self.results.iter().map(|done| done.size).sum::<usize>() > MAX_COMMAND_RESULTS_BYTES
        {
            self.results.pop_front();
        }
    }

    /// Adds to the history and keeps it small enough for one frame.
    fn remember(&mut self, entry: HistoryEntry) {
        let size = |entry: &HistoryEntry| serde_json::to_string(entry).map_or(0, |json| json.len() + 1);
        self.history.push_back(entry);
        while self.history.len() > MAX_HISTORY
            || self.history.iter().map(size).sum::<usize>() > MAX_MESSAGE - ANSWER_HEAD
        {
            self.history.pop_front();
        }
    }
}

/// The answer to a command that ended.
fn result(command: &Command, end: CommandEnd, timestamp: UnixMs) -> ServerFrame {
    if end.timed_out {
        return ErrorFrame::new(ErrorCode::CommandTimeout, "the command was killed at its time limit").into();
    }
    let mut text = String::from_utf8_lossy(&end.output).into_owned();
    let whole = text.len();
    text.truncate(text.floor_char_boundary(MAX_COMMAND_RESULT));
    // The answer repeats the id, which may be long.
    let id = serde_json::to_string(&command.id).map_or(0, |json| json.len());
    text.truncate(Payload::fit(text.as_bytes(), (MAX_MESSAGE - ANSWER_HEAD).saturating_sub(id)));
    let truncated = end.truncated || text.len() < whole;
    ServerFrame::CommandResult {
        result: text,
        exit_code: end.exit.exit_code,
        timestamp,
        id: command.id.clone(),
        duration_ms: u64::try_from(end.took.as_millis()).unwrap_or(u64::MAX),
        signal: end.exit.signal,
        truncated: truncated.then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands of a session and their effects, with a closure in place of the shell.
    #[derive(Default)]
    struct Bench {
        commands: Commands,
        effects: VecDeque<Effect>,
        requests: u64,
        runs: u32,
    }

    impl Bench {
        fn ask(&mut self, id: &str, text: &str) -> (u64, Reply) {
            self.ask_as(("c", None), id, text, &["c"])
        }

        /// Requests a command over a connection, attached or not, while the connections `living` exist.
        fn ask_as(
            &mut self,
            (connection, client): (&str, Option<&str>),
            id: &str,
            text: &str,
            living: &[&str],
        ) -> (u64, Reply) {
            self.requests += 1;
            let owner = Owner { connection: connection.into(), client: client.map(ClientId::from) };
            let requester = Requester { owner, request: self.requests };
            let command = Command::new(id.into(), text.into(), None);
            let exists = |id: &ConnectionId| living.contains(&id.as_str());
            (self.requests, self.commands.ask(command, requester, &mut self.effects, Duration::ZERO, exists))
        }

        /// Like `ask_as`; returns the number of the run whose result answers.
        fn run_of(&mut self, who: (&str, Option<&str>), id: &str, text: &str, living: &[&str]) -> String {
            let (request, reply) = self.ask_as(who, id, text, living);
            if let Reply::Frame(frame) = reply {
                return self::text(Some(&frame)).to_owned();
            }
            let mut runs = self.runs;
            let (_, answers) = self.run_all(|_| {
                runs += 1;
                ended(runs.to_string().as_bytes())
            });
            self.runs = runs;
            let (_, answer) = answers.iter().find(|(number, _)| *number == request).unwrap();
            self::text(answer.as_ref()).to_owned()
        }

        /// Runs all waiting commands. Returns the texts that ran, and the answers by request.
        fn run_all(
            &mut self,
            mut shell: impl FnMut(&str) -> CommandOutcome,
        ) -> (Vec<String>, Vec<(u64, Option<ServerFrame>)>) {
            let (mut ran, mut answers) = (Vec::new(), Vec::new());
            self.commands.start(&mut self.effects);
            while let Some(effect) = self.effects.pop_front() {
                match effect {
                    Effect::Run { command, .. } => {
                        let outcome = shell(&command);
                        ran.push(command);
                        self.commands.finished(outcome, UnixMs(1), &mut self.effects, Duration::ZERO);
                        self.commands.start(&mut self.effects);
                    }
                    Effect::Answer { request, frame, .. } => answers.push((request, frame)),
                    other => panic!("{other:?}"),
                }
            }
            (ran, answers)
        }
    }

    fn ended(output: &[u8]) -> CommandOutcome {
        let exit = Exit { exit_code: 0, signal: None };
        let took = Duration::from_millis(5);
        CommandOutcome::Ended(CommandEnd {
            output: output.to_vec(),
            truncated: false,
            exit,
            took,
            timed_out: false,
        })
    }

    fn text(frame: Option<&ServerFrame>) -> &str {
        match frame {
            Some(ServerFrame::CommandResult { result, .. }) => result,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repeated_id_runs_once() {
        let mut bench = Bench::default();
        let (first, reply) = bench.ask("1", "x");
        assert_eq!(reply, Reply::Later);
        let (second, _) = bench.ask("1", "x");
        let (ran, answers) = bench.run_all(|_| ended(b"1"));
        assert_eq!(ran, ["x"]);
        let [(older, nothing), (newest, answer)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((*older, nothing), (first, &None), "the answer moved to the newest request");
        assert_eq!((*newest, text(answer.as_ref())), (second, "1"));
        let (_, reply) = bench.ask("1", "x");
        assert!(matches!(reply, Reply::Frame(ServerFrame::CommandResult { .. })), "{reply:?}");
        assert!(bench.run_all(|_| ended(b"2")).0.is_empty());
    }

    #[test]
    fn regression_an_id_of_another_client_or_text_is_another_command() {
        let mut bench = Bench::default();
        let all = ["a", "b", "c", "d"];
        let (a, b) = (("a", Some("client-a")), ("b", Some("client-b")));
        assert_eq!(bench.run_of(a, "1", "x", &all), "1");
        assert_eq!(bench.run_of(b, "1", "x", &all), "2");
        assert_eq!(bench.run_of(b, "1", "another text", &all), "3");
        for (who, run) in [(a, "1"), (b, "2")] {
            assert_eq!(bench.run_of(who, "1", "x", &all), run, "each gets its first result again");
        }
        for (who, run) in [(("c", None), "4"), (("d", None), "5")] {
            assert_eq!(bench.run_of(who, "1", "x", &all), run, "connections that never attached");
        }
    }

    #[test]
    fn a_client_that_reconnects_gets_its_result_and_no_second_run() {
        let mut bench = Bench::default();
        assert_eq!(bench.run_of(("a", None), "1", "x", &["a"]), "1");
        bench.commands.attached(&"a".into(), &"client".into());
        let attached = ("b", Some("client"));
        assert_eq!(
            bench.run_of(attached, "1", "x", &["a", "b"]),
            "1",
            "its old connection is not known to be gone"
        );
        assert_eq!(bench.run_of(("c", None), "1", "x", &["c"]), "1", "its old connections are gone");
        assert_eq!(bench.run_of(("d", Some("another")), "1", "x", &["d", "c"]), "2");
        let (running, _) = bench.ask_as(("e", None), "2", "x", &["e"]);
        let (repeated, _) = bench.ask_as(("f", None), "2", "x", &["f"]);
        let (ran, answers) = bench.run_all(|_| ended(b"3"));
        assert_eq!(ran.len(), 1);
        let [(older, None), (newer, Some(_))] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((*older, *newer), (running, repeated), "the answer moved to the newest connection");
    }

    #[test]
    fn sixteen_wait_and_no_more() {
        let mut bench = Bench::default();
        for n in 0..MAX_COMMAND_QUEUE {
            assert_eq!(bench.ask(&n.to_string(), "true").1, Reply::Later);
        }
        let (_, refused) = bench.ask("one too many", "true");
        let Reply::Frame(ServerFrame::Error(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.code, ErrorCode::RateLimited);
        let (ran, answers) = bench.run_all(|_| ended(b""));
        assert_eq!((ran.len(), answers.len()), (MAX_COMMAND_QUEUE, MAX_COMMAND_QUEUE));
        assert_eq!(bench.commands.results.len(), MAX_COMMAND_RESULTS);
    }

    #[test]
    fn a_command_that_cannot_start_does_not_block_the_next() {
        let mut bench = Bench::default();
        bench.ask("bad", "bad");
        bench.ask("next", "next");
        let (_, answers) = bench.run_all(|command| match command {
            "bad" => CommandOutcome::NotStarted,
            _ => ended(b"next\n"),
        });
        let [(_, Some(ServerFrame::Error(error))), (_, next)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((error.code, error.reference.as_deref()), (ErrorCode::CommandFailed, Some("bad")));
        assert_eq!(text(next.as_ref()), "next\n");
    }

    #[test]
    fn invalid_utf8_is_replaced_and_every_answer_fits() {
        let mut bench = Bench::default();
        bench.ask("1", "invalid");
        bench.ask(&"\n".repeat(15_000), "control");
        let (_, answers) = bench.run_all(|command| match command {
            "invalid" => ended(&vec![0xff; 100_000]),
            _ => ended(&vec![0; 100_000]),
        });
        for (_, answer) in answers {
            let frame = answer.unwrap();
            assert!(frame.to_json().len() <= MAX_MESSAGE);
            let ServerFrame::CommandResult { result, truncated, .. } = frame else { panic!("no result") };
            assert!(result.len() <= MAX_COMMAND_RESULT && truncated == Some(true));
        }
    }

    #[test]
    fn history_keeps_the_newest_within_a_frame() {
        let mut commands = Commands::default();
        for n in 0..MAX_HISTORY + 5 {
            commands.remember(HistoryEntry { command: format!("c{n}"), exit_code: 0, timestamp: UnixMs(1) });
        }
        assert_eq!(commands.history.len(), MAX_HISTORY);
        for _ in 0..20 {
            commands.remember(HistoryEntry {
                command: "\u{1}".repeat(5_000),
                exit_code: 0,
                timestamp: UnixMs(1),
            });
        }
        assert!(serde_json::to_vec(&commands.history).unwrap().len() <= MAX_MESSAGE);
        commands.clear(UnixMs(1));
        assert!(
            matches!(commands.history(UnixMs(1)), ServerFrame::History { history, .. } if history.is_empty())
        );
    }
}
