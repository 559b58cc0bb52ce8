//! The `command` frames of a session: one at a time, each once, the answer to whoever asked last.
//!
//! A command is the same as an earlier one if id, text and client are. A client is the `clientId` that the connection
//! attached as; one that never attached is its connection, and, once that is gone, whoever repeats its command: it may
//! be the same one, reconnected, and running a command twice would be worse than to tell another its result.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, HistoryEntry, ServerFrame},
    limits::{
        COMMAND_RESULT_TTL, COMMAND_TIMEOUT, MAX_COMMAND_QUEUE, MAX_COMMAND_RESULT, MAX_COMMAND_RESULTS,
        MAX_COMMAND_RESULTS_BYTES, MAX_COMMAND_TIMEOUT, MAX_HISTORY, MAX_MESSAGE,
    },
    payload::Payload,
};
use tokio::sync::oneshot;

use crate::{
    outlet::ConnectionId,
    shell::{
        Leader,
        command::{CommandState, Finished, Running},
        living,
    },
    unix_ms,
};

/// Room for all of an answer but the long text in it.
const ANSWER_HEAD: usize = 1024;

/// Who waits for an answer: by the request that is still open, else by a push.
pub(super) struct Asker {
    pub(super) by: By,
    pub(super) reply: oneshot::Sender<Option<ServerFrame>>,
}

/// A command as it was asked for.
pub(super) struct Request {
    pub(super) id: String,
    pub(super) command: String,
    pub(super) timeout_ms: Option<u64>,
}

impl Request {
    /// Whether a client that asks for both means the same run.
    fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.command == other.command
    }
}

/// All commands of a session.
pub(super) struct Commands {
    state: CommandState,
    queue: VecDeque<(Request, Asker)>,
    current: Option<(Request, Asker)>,
    results: VecDeque<Done>,
    history: VecDeque<HistoryEntry>,
    /// Process groups in which something may be left.
    groups: HashSet<Leader>,
}

struct Done {
    request: Request,
    by: By,
    at: Duration,
    size: usize,
    frame: ServerFrame,
}

/// Whose command it is.
#[derive(Debug, Clone)]
pub(super) struct By {
    pub(super) connection: ConnectionId,
    /// Who that connection attached as.
    pub(super) client: Option<String>,
}

impl By {
    /// Whether both are the same client. `lives` says whether a connection is still there.
    fn is(&self, other: &Self, lives: impl Fn(&str) -> bool) -> bool {
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

/// A frame that answers a command, for whom the request that asked is no longer open.
pub(super) type Late = (ConnectionId, ServerFrame);

impl Commands {
    pub(super) fn new(state: CommandState) -> Self {
        Self {
            state,
            queue: VecDeque::new(),
            current: None,
            results: VecDeque::new(),
            history: VecDeque::new(),
            groups: HashSet::new(),
        }
    }

    /// Takes a command. It is answered when it is done, or at once if that was before, or there is no room.
    /// `lives`: whether a connection is still there.
    pub(super) fn ask(
        &mut self,
        request: Request,
        asker: Asker,
        now: Duration,
        lives: impl Fn(&str) -> bool,
    ) {
        self.results.retain(|done| now < done.at + COMMAND_RESULT_TTL);
        let mut done = self.results.iter_mut();
        if let Some(done) = done.find(|done| done.request.is(&request) && done.by.is(&asker.by, &lives)) {
            done.by.again(asker.by);
            // The asker waits for this very request, so that there is nobody to push to if it is gone.
            let _ = asker.reply.send(Some(done.frame.clone()));
            return;
        }
        let mut pending = self.current.iter_mut().chain(self.queue.iter_mut());
        let same = |known: &Request, waiting: &Asker| known.is(&request) && waiting.by.is(&asker.by, &lives);
        if let Some((_, waiting)) = pending.find(|(known, waiting)| same(known, waiting)) {
            waiting.by.again(asker.by);
            // The answer goes to the newest; the older request ends with nothing to say.
            let _ = std::mem::replace(&mut waiting.reply, asker.reply).send(None);
            return;
        }
        if self.queue.len() >= MAX_COMMAND_QUEUE {
            let error = ErrorFrame::new(ErrorCode::RateLimited, "too many commands wait");
            let _ = asker.reply.send(Some(error.answering(Some(request.id)).into()));
            return;
        }
        self.queue.push_back((request, asker));
    }

    /// A connection has attached: what it asked for before is that client's.
    pub(super) fn attached(&mut self, connection: &ConnectionId, client: &str) {
        let pending = self.current.iter_mut().chain(self.queue.iter_mut()).map(|(_, asker)| &mut asker.by);
        for by in pending.chain(self.results.iter_mut().map(|done| &mut done.by)) {
            if by.client.is_none() && by.connection == *connection {
                by.client = Some(client.to_owned());
            }
        }
    }

    /// Starts the next command, if it is its turn. The time limit goes with it.
    pub(super) fn start(&mut self, now: Duration) -> Option<Result<(Running, Duration), Late>> {
        if self.current.is_some() {
            return None;
        }
        loop {
            let (request, asker) = self.queue.pop_front()?;
            let timeout =
                request.timeout_ms.map_or(COMMAND_TIMEOUT, Duration::from_millis).min(MAX_COMMAND_TIMEOUT);
            let started = Running::start(self.state.clone(), &request.command);
            self.current = Some((request, asker));
            match started {
                Ok(running) => {
                    self.groups.insert(running.group());
                    return Some(Ok((running, timeout)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a command cannot be started");
                    let failed = ErrorFrame::new(ErrorCode::CommandFailed, "the command cannot be started");
                    // Answered by the request that is still open, it leaves the turn to the next.
                    if let Some(late) = self.answer(failed.into(), now) {
                        return Some(Err(late));
                    }
                }
            }
        }
    }

    /// The current command has ended.
    pub(super) fn finished(&mut self, finished: std::io::Result<Finished>, now: Duration) -> Option<Late> {
        // A group that is empty gives its number back: it is forgotten before another can have that.
        self.groups = living(std::mem::take(&mut self.groups));
        let (request, _) = self.current.as_ref()?;
        let frame = match finished {
            Err(error) => {
                tracing::warn!(%error, "a command cannot be waited for");
                ErrorFrame::new(ErrorCode::CommandFailed, "the command cannot be followed").into()
            }
            Ok(finished) => {
                let entry = HistoryEntry {
                    command: request.command.clone(),
                    exit_code: finished.exit.exit_code,
                    timestamp: unix_ms(),
                };
                self.state = finished.state.clone();
                let frame = result(request, finished);
                self.remember(entry);
                frame
            }
        };
        self.answer(frame, now)
    }

    /// The newest commands run, oldest first.
    pub(super) fn history(&self) -> ServerFrame {
        ServerFrame::History { history: self.history.iter().cloned().collect(), timestamp: unix_ms() }
    }

    /// Empties the history.
    pub(super) fn clear(&mut self) -> ServerFrame {
        self.history.clear();
        ServerFrame::ClearAck { timestamp: unix_ms() }
    }

    /// Process groups in which something was left, to be ended with the session.
    pub(super) fn end(self) -> HashSet<Leader> {
        living(self.groups)
    }

    /// Keeps the answer to the current command, and gives it to whoever waits.
    fn answer(&mut self, frame: ServerFrame, now: Duration) -> Option<Late> {
        let (request, asker) = self.current.take()?;
        let frame = match frame {
            ServerFrame::Error(error) => error.answering(Some(request.id.clone())).into(),
            frame => frame,
        };
        let size = match &frame {
            ServerFrame::CommandResult { result, .. } => result.len() + request.id.len(),
            _ => request.id.len(),
        };
        let size = size + request.command.len();
        self.results.push_back(Done { request, by: asker.by.clone(), at: now, size, frame: frame.clone() });
        while self.results.len() > MAX_COMMAND_RESULTS
            || self.results.iter().map(|done| done.size).sum::<usize>() > MAX_COMMAND_RESULTS_BYTES
        {
            self.results.pop_front();
        }
        let late = asker.reply.send(Some(frame)).err().flatten()?;
        Some((asker.by.connection, late))
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

/// The frame that says how a command went.
fn result(request: &Request, finished: Finished) -> ServerFrame {
    if finished.timed_out {
        return ErrorFrame::new(ErrorCode::CommandTimeout, "the command was killed at its time limit").into();
    }
    let mut text = String::from_utf8_lossy(&finished.output).into_owned();
    let whole = text.len();
    text.truncate(text.floor_char_boundary(MAX_COMMAND_RESULT));
    // The id comes back as it is, and may be long.
    let id = serde_json::to_string(&request.id).map_or(0, |json| json.len());
    text.truncate(Payload::fit(text.as_bytes(), (MAX_MESSAGE - ANSWER_HEAD).saturating_sub(id)));
    let truncated = finished.truncated || text.len() < whole;
    ServerFrame::CommandResult {
        result: text,
        exit_code: finished.exit.exit_code,
        timestamp: unix_ms(),
        id: request.id.clone(),
        duration_ms: u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX),
        signal: finished.exit.signal,
        truncated: truncated.then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::{ShellRequest, ShellSpec};

    fn commands() -> Commands {
        Commands::new(CommandState::new(&ShellSpec::new(ShellRequest::default()).unwrap()))
    }

    fn ask(commands: &mut Commands, id: &str, command: &str) -> oneshot::Receiver<Option<ServerFrame>> {
        ask_as(commands, ("c", None), id, command, &["c"])
    }

    /// Asks by a connection, attached as a client or not, while some connections live.
    fn ask_as(
        commands: &mut Commands,
        (connection, client): (&str, Option<&str>),
        id: &str,
        command: &str,
        living: &[&str],
    ) -> oneshot::Receiver<Option<ServerFrame>> {
        let (reply, answer) = oneshot::channel();
        let request = Request { id: id.into(), command: command.into(), timeout_ms: None };
        let by = By { connection: connection.into(), client: client.map(str::to_owned) };
        commands.ask(request, Asker { by, reply }, Duration::ZERO, |id| living.contains(&id));
        answer
    }

    async fn run_all(commands: &mut Commands) -> Vec<Late> {
        let mut late = Vec::new();
        while let Some(started) = commands.start(Duration::ZERO) {
            late.extend(match started {
                Ok((running, timeout)) => commands.finished(running.finish(timeout).await, Duration::ZERO),
                Err(failed) => Some(failed),
            });
        }
        late
    }

    fn text(frame: Option<ServerFrame>) -> String {
        match frame {
            Some(ServerFrame::CommandResult { result, .. }) => result,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_id_runs_once_however_often_it_is_asked() {
        let mut commands = commands();
        let dir = tempfile::tempdir().unwrap();
        let command = format!("echo x >> {0}/f; wc -l < {0}/f", dir.path().display());
        let first = ask(&mut commands, "1", &command);
        let second = ask(&mut commands, "1", &command);
        assert!(run_all(&mut commands).await.is_empty());
        assert_eq!(first.await.unwrap(), None, "the answer moved to the newest asker");
        assert_eq!(text(second.await.unwrap()).trim(), "1");
        assert_eq!(text(ask(&mut commands, "1", &command).await.unwrap()).trim(), "1");
        assert!(run_all(&mut commands).await.is_empty());
    }

    /// A command that leaves a trace, and says how many there are.
    fn traced(dir: &tempfile::TempDir) -> String {
        format!("echo x >> {0}/f; wc -l < {0}/f", dir.path().display())
    }

    async fn run(commands: &mut Commands, asked: oneshot::Receiver<Option<ServerFrame>>) -> String {
        run_all(commands).await;
        text(asked.await.unwrap()).trim().to_owned()
    }

    #[tokio::test]
    async fn regression_an_id_of_another_client_or_text_is_another_command() {
        let dir = tempfile::tempdir().unwrap();
        let mut commands = commands();
        let (all, traced) = (["a", "b"], traced(&dir));
        let (a, b) = (("a", Some("client-a")), ("b", Some("client-b")));
        let first = ask_as(&mut commands, a, "1", &traced, &all);
        let other = ask_as(&mut commands, b, "1", &traced, &all);
        let text_of_its_own = ask_as(&mut commands, b, "1", "echo mine", &all);
        assert_eq!(run(&mut commands, first).await, "1");
        assert_eq!(text(other.await.unwrap()).trim(), "2");
        assert_eq!(text(text_of_its_own.await.unwrap()), "mine\n");
        for (who, runs) in [(a, "1"), (b, "2")] {
            let again = ask_as(&mut commands, who, "1", &traced, &all);
            assert_eq!(run(&mut commands, again).await, runs, "each has its own result again");
        }
        for (who, runs) in [(("c", None), "3"), (("d", None), "4")] {
            let asked = ask_as(&mut commands, who, "1", &traced, &["a", "b", "c", "d"]);
            assert_eq!(run(&mut commands, asked).await, runs, "connections that never attached");
        }
    }

    #[tokio::test]
    async fn a_client_that_reconnects_gets_its_result_and_no_second_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut commands = commands();
        let traced = traced(&dir);
        let first = ask_as(&mut commands, ("a", None), "1", &traced, &["a"]);
        commands.attached(&"a".into(), "client");
        assert_eq!(run(&mut commands, first).await, "1");
        let attached = ask_as(&mut commands, ("b", Some("client")), "1", &traced, &["a", "b"]);
        assert_eq!(run(&mut commands, attached).await, "1", "its old connection is not known to be gone");
        let before = ask_as(&mut commands, ("c", None), "1", &traced, &["c"]);
        assert_eq!(run(&mut commands, before).await, "1", "its old connections are gone");
        let another = ask_as(&mut commands, ("d", Some("another")), "1", &traced, &["d", "c"]);
        assert_eq!(run(&mut commands, another).await, "2");

        let running = ask_as(&mut commands, ("e", None), "2", &traced, &["e"]);
        let repeated = ask_as(&mut commands, ("f", None), "2", &traced, &["f"]);
        assert_eq!(run(&mut commands, repeated).await, "3");
        assert_eq!(running.await.unwrap(), None, "the answer moved to the newest connection");
    }

    #[tokio::test]
    async fn an_asker_who_is_gone_is_answered_by_push() {
        let mut commands = commands();
        drop(ask(&mut commands, "1", "echo late"));
        let late = run_all(&mut commands).await;
        let [(to, frame)] = late.as_slice() else { panic!("{late:?}") };
        assert_eq!((&**to, text(Some(frame.clone())).as_str()), ("c", "late\n"));
    }

    #[tokio::test]
    async fn sixteen_wait_and_no_more() {
        let mut commands = commands();
        let waiting: Vec<_> =
            (0..MAX_COMMAND_QUEUE).map(|n| ask(&mut commands, &n.to_string(), "true")).collect();
        let refused = ask(&mut commands, "one too many", "true").await.unwrap();
        assert!(matches!(refused, Some(ServerFrame::Error(ErrorFrame { code: ErrorCode::RateLimited, .. }))));
        run_all(&mut commands).await;
        assert_eq!(waiting.len(), MAX_COMMAND_QUEUE);
        assert_eq!(commands.results.len(), MAX_COMMAND_RESULTS);
    }

    #[tokio::test]
    async fn a_command_that_cannot_start_leaves_the_turn_to_the_next() {
        let mut commands = commands();
        let bad = ask(&mut commands, "bad", "echo \0");
        let next = ask(&mut commands, "next", "echo next");
        run_all(&mut commands).await;
        let bad = bad.await.unwrap();
        assert!(
            matches!(bad, Some(ServerFrame::Error(ErrorFrame { code: ErrorCode::CommandFailed, .. }))),
            "{bad:?}"
        );
        assert_eq!(text(next.await.unwrap()), "next\n");
    }

    #[tokio::test]
    async fn invalid_utf8_is_replaced_and_every_answer_fits() {
        let mut commands = commands();
        let answer = ask(&mut commands, "1", "head -c 100000 /dev/zero | tr '\\0' '\\377'");
        let control = ask(&mut commands, &"\n".repeat(15_000), "head -c 100000 /dev/zero");
        run_all(&mut commands).await;
        for answer in [answer, control] {
            let frame = answer.await.unwrap().unwrap();
            assert!(serde_json::to_vec(&frame).unwrap().len() <= MAX_MESSAGE);
            let ServerFrame::CommandResult { result, truncated, .. } = frame else { panic!("no result") };
            assert!(result.len() <= MAX_COMMAND_RESULT && truncated == Some(true));
        }
    }

    #[tokio::test]
    async fn history_keeps_the_newest_within_a_frame() {
        let mut commands = commands();
        for n in 0..MAX_HISTORY + 5 {
            commands.remember(HistoryEntry { command: format!("c{n}"), exit_code: 0, timestamp: 1 });
        }
        assert_eq!(commands.history.len(), MAX_HISTORY);
        for _ in 0..20 {
            commands.remember(HistoryEntry { command: "\u{1}".repeat(5_000), exit_code: 0, timestamp: 1 });
        }
        assert!(serde_json::to_vec(&commands.history()).unwrap().len() <= MAX_MESSAGE);
        commands.clear();
        assert!(matches!(commands.history(), ServerFrame::History { history, .. } if history.is_empty()));
    }
}
