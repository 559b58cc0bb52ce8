//! The `command` frames of a session: one at a time, each once, the answer to whoever asked last.
//!
//! A command is the same as an earlier one if id, text and client are. A client is the `clientId` that the connection
//! attached as; one that never attached is its connection, and, once that is gone, whoever repeats its command: it may
//! be the same one, reconnected, and running a command twice would be worse than to tell another its result.

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

/// Room for all of an answer but the long text in it.
const ANSWER_HEAD: usize = 1024;

/// The request that waits for an answer.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) by: By,
    /// The driver's number for it.
    pub(crate) request: u64,
}

/// Whose command it is.
#[derive(Debug, Clone)]
pub(crate) struct By {
    pub(crate) connection: ConnectionId,
    /// The client that connection attached as.
    pub(crate) client: Option<ClientId>,
}

impl By {
    /// Whether both are the same client. `lives` says whether a connection is still there.
    fn is(&self, other: &Self, lives: impl Fn(&ConnectionId) -> bool) -> bool {
        match (&self.client, &other.client) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => self.connection == other.connection || !lives(&self.connection),
        }
    }

    /// The same client asks again, by another connection perhaps.
    fn again(&mut self, other: Self) {
        let client = other.client.or_else(|| self.client.take());
        *self = Self { connection: other.connection, client };
    }
}

/// A command as a client asked for it.
#[derive(Debug)]
pub(crate) struct Command {
    id: String,
    text: String,
    timeout: Duration,
}

/// What became of a command.
#[derive(Debug)]
pub enum CommandOutcome {
    /// It could not be started.
    NotStarted,
    /// It was started, and could not be followed.
    Lost,
    /// It ended.
    Ended(CommandEnd),
}

/// How a command ended.
#[derive(Debug)]
pub struct CommandEnd {
    /// stdout and stderr in the order written; more than [`MAX_COMMAND_RESULT`] bytes are of no use.
    pub output: Vec<u8>,
    /// There was more output.
    pub truncated: bool,
    /// Its status.
    pub exit: Exit,
    /// How long it ran.
    pub took: Duration,
    /// It was killed at its time limit.
    pub timed_out: bool,
}

/// All commands of a session.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    queue: VecDeque<(Command, Asker)>,
    current: Option<(Command, Asker)>,
    results: VecDeque<Done>,
    history: VecDeque<HistoryEntry>,
}

#[derive(Debug)]
struct Done {
    command: Command,
    by: By,
    at: Duration,
    size: usize,
    frame: ServerFrame,
}

impl Command {
    pub(crate) fn new(id: String, text: String, timeout_ms: Option<u64>) -> Self {
        let timeout = timeout_ms.map_or(COMMAND_TIMEOUT, Duration::from_millis).min(MAX_COMMAND_TIMEOUT);
        Self { id, text, timeout }
    }

    /// Whether a client that asks for both means the same run.
    fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.text == other.text
    }
}

impl Commands {
    /// Takes a command. It is answered when it is done, or at once if that was before, or there is no room.
    /// `lives` says whether a connection is still there.
    pub(crate) fn ask(
        &mut self,
        command: Command,
        asker: Asker,
        effects: &mut VecDeque<Effect>,
        now: Duration,
        lives: impl Fn(&ConnectionId) -> bool,
    ) -> Reply {
        self.results.retain(|done| now < done.at + COMMAND_RESULT_TTL);
        let mut results = self.results.iter_mut();
        if let Some(done) = results.find(|done| done.command.is(&command) && done.by.is(&asker.by, &lives)) {
            done.by.again(asker.by);
            return Reply::Frame(done.frame.clone());
        }
        let mut pending = self.current.iter_mut().chain(self.queue.iter_mut());
        let same = |known: &Command, waiting: &Asker| known.is(&command) && waiting.by.is(&asker.by, &lives);
        if let Some((_, waiting)) = pending.find(|(known, waiting)| same(known, waiting)) {
            // The answer goes to the newest; the older request ends with nothing to say.
            let to = waiting.by.connection.clone();
            let request = std::mem::replace(&mut waiting.request, asker.request);
            waiting.by.again(asker.by);
            effects.push_back(Effect::Answer { request, to, frame: None });
            return Reply::Later;
        }
        if self.queue.len() >= MAX_COMMAND_QUEUE {
            let error = ErrorFrame::new(ErrorCode::RateLimited, "too many commands wait");
            return Reply::Frame(error.answering(Some(command.id)).into());
        }
        self.queue.push_back((command, asker));
        Reply::Later
    }

    /// A connection has attached: what it asked for before is that client's.
    pub(crate) fn attached(&mut self, connection: &ConnectionId, client: &ClientId) {
        let pending = self.current.iter_mut().chain(self.queue.iter_mut()).map(|(_, asker)| &mut asker.by);
        for by in pending.chain(self.results.iter_mut().map(|done| &mut done.by)) {
            if by.client.is_none() && by.connection == *connection {
                by.client = Some(client.clone());
            }
        }
    }

    /// Starts the next command, if it is its turn.
    pub(crate) fn start(&mut self, effects: &mut VecDeque<Effect>) {
        if self.current.is_none()
            && let Some((command, asker)) = self.queue.pop_front()
        {
            effects.push_back(Effect::Run { command: command.text.clone(), timeout: command.timeout });
            self.current = Some((command, asker));
        }
    }

    /// The current command has ended, or could not be run.
    pub(crate) fn finished(
        &mut self,
        outcome: CommandOutcome,
        timestamp: UnixMs,
        effects: &mut VecDeque<Effect>,
        now: Duration,
    ) {
        let Some((command, asker)) = self.current.take() else { return };
        let failed = |message| ErrorFrame::new(ErrorCode::CommandFailed, message).into();
        let frame = match outcome {
            CommandOutcome::NotStarted => failed("the command cannot be started"),
            CommandOutcome::Lost => failed("the command cannot be followed"),
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
        let Asker { by, request } = asker;
        let to = by.connection.clone();
        self.keep(command, by, frame.clone(), now);
        effects.push_back(Effect::Answer { request, to, frame: Some(frame) });
    }

    /// The newest commands run, oldest first.
    pub(crate) fn history(&self, timestamp: UnixMs) -> ServerFrame {
        ServerFrame::History { history: self.history.iter().cloned().collect(), timestamp }
    }

    /// Empties the history.
    pub(crate) fn clear(&mut self, timestamp: UnixMs) -> ServerFrame {
        self.history.clear();
        ServerFrame::ClearAck { timestamp }
    }

    /// Keeps an answer for repetitions of its command.
    fn keep(&mut self, command: Command, by: By, frame: ServerFrame, now: Duration) {
        let result = match &frame {
            ServerFrame::CommandResult { result, .. } => result.len(),
            _ => 0,
        };
        let size = result + command.id.len() + command.text.len();
        self.results.push_back(Done { command, by, at: now, size, frame });
        while self.results.len() > MAX_COMMAND_RESULTS
            || self.results.iter().map(|done| done.size).sum::<usize>() > MAX_COMMAND_RESULTS_BYTES
        {
            self.results.pop_front();
        }
    }

    /// Adds to the history, and keeps it within one frame.
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

/// The frame that says how a command ended.
fn result(command: &Command, end: CommandEnd, timestamp: UnixMs) -> ServerFrame {
    if end.timed_out {
        return ErrorFrame::new(ErrorCode::CommandTimeout, "the command was killed at its time limit").into();
    }
    let mut text = String::from_utf8_lossy(&end.output).into_owned();
    let whole = text.len();
    text.truncate(text.floor_char_boundary(MAX_COMMAND_RESULT));
    // The id comes back as it is, and may be long.
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

    /// The commands of a session and what they ask for, with a shell that a closure stands for.
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

        /// Asks by a connection, attached as a client or not, while some connections live.
        fn ask_as(
            &mut self,
            (connection, client): (&str, Option<&str>),
            id: &str,
            text: &str,
            living: &[&str],
        ) -> (u64, Reply) {
            self.requests += 1;
            let by = By { connection: connection.into(), client: client.map(ClientId::from) };
            let asker = Asker { by, request: self.requests };
            let command = Command::new(id.into(), text.into(), None);
            let lives = |id: &ConnectionId| living.contains(&id.as_str());
            (self.requests, self.commands.ask(command, asker, &mut self.effects, Duration::ZERO, lives))
        }

        /// Asks as above; the number of the run that answers.
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

        /// Runs all that wait; gives back the texts that ran and the answers by their requests.
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
    fn an_id_runs_once_however_often_it_is_asked() {
        let mut bench = Bench::default();
        let (first, reply) = bench.ask("1", "x");
        assert_eq!(reply, Reply::Later);
        let (second, _) = bench.ask("1", "x");
        let (ran, answers) = bench.run_all(|_| ended(b"1"));
        assert_eq!(ran, ["x"]);
        let [(older, nothing), (newest, answer)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((*older, nothing), (first, &None), "the answer moved to the newest asker");
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
    fn a_command_that_cannot_start_leaves_the_turn_to_the_next() {
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
