//! What is measured, and where its sessions come from.

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::stack::Stack;

/// Sessions being ended at once.
const AT_ONCE: usize = 16;

/// A stack somewhere. Left out, one is started here.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetArgs {
    /// WebSocket address of a deployed stack, `wss://…`; without it, a local one is started
    #[arg(long)]
    pub url: Option<String>,
    /// Backend of that stack, `https://…`, to make sessions with the admin token
    #[arg(long, env = "SESSIONS_URL")]
    pub sessions_url: Option<String>,
    /// Its `ADMIN_TOKEN`
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// A user's token for one session, in place of making sessions
    #[arg(long, env = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The session of that token, if the token does not name it
    #[arg(long, env = "SESSION")]
    pub session: Option<String>,
    /// Take any certificate, such as the one `gateway --tls` makes
    #[arg(long)]
    pub insecure: bool,
}

/// A stack that can be connected to.
#[derive(Debug, Clone)]
pub struct Target {
    websocket: String,
    /// Whether any certificate will do.
    pub insecure: bool,
    source: Source,
    /// Home of shells on this machine; elsewhere they have their own.
    home: Option<String>,
    http: reqwest::Client,
}

#[derive(Debug, Clone)]
enum Source {
    /// One session for everything, by its token.
    Given { token: String, session: Option<String> },
    /// `POST` here makes one, with this bearer if it is wanted.
    Made { url: String, bearer: Option<String> },
}

/// A session's way in, with the token in it: never to be printed.
#[derive(Clone)]
pub struct Session {
    /// URL to connect to.
    pub url: String,
    /// See [`Target::insecure`].
    pub insecure: bool,
    id: Option<String>,
    token: String,
}

impl Target {
    /// A stack started here.
    pub fn local(stack: &Stack) -> anyhow::Result<Self> {
        let source = Source::Made { url: format!("{}api/dev/sessions", stack.page), bearer: None };
        let home = Some(stack.directory().to_string_lossy().into_owned());
        // Its certificate, if it has one, was made at its start.
        let insecure = stack.websocket.starts_with("wss:");
        Ok(Self { websocket: stack.websocket.clone(), insecure, source, home, http: reqwest::Client::new() })
    }

    /// A stack that runs elsewhere.
    pub fn deployed(url: &str, args: &TargetArgs) -> anyhow::Result<Self> {
        let source = match (&args.token, &args.sessions_url, &args.admin_token) {
            (Some(token), _, _) => Source::Given { token: token.clone(), session: args.session.clone() },
            (None, Some(base), Some(admin)) => Source::Made {
                url: format!("{}/api/sessions", base.trim_end_matches('/')),
                bearer: Some(admin.clone()),
            },
            _ => bail!("how are sessions had? Give TOKEN, or SESSIONS_URL and ADMIN_TOKEN"),
        };
        let http = reqwest::Client::builder().tls_danger_accept_invalid_certs(args.insecure).build()?;
        Ok(Self { websocket: url.to_owned(), insecure: args.insecure, source, home: None, http })
    }

    /// Whether every session is the same one.
    pub const fn has_one_session(&self) -> bool {
        matches!(self.source, Source::Given { .. })
    }

    /// A session whose shell is `shell`, or the only one there is.
    pub async fn session(&self, shell: &str) -> anyhow::Result<Session> {
        let (url, bearer) = match &self.source {
            Source::Given { token, session } => return Ok(self.way_in(session.as_deref(), token)),
            Source::Made { url, bearer } => (url, bearer),
        };
        let env = self.home.as_ref().map_or_else(|| json!({}), |home| json!({ "HOME": home }));
        let body = json!({ "userId": "bench", "ttlSeconds": 3600, "shell": shell, "env": env });
        let mut request =
            self.http.post(url).body(body.to_string()).header("content-type", "application/json");
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let answer = request.send().await.context("making a session")?;
        let (status, text) = (answer.status(), answer.text().await.context("making a session")?);
        if status != StatusCode::CREATED {
            bail!("{url} did not make a session: {status} {text}");
        }
        let made: Value = serde_json::from_str(&text).context("making a session")?;
        let field = |name: &str| made.get(name).and_then(Value::as_str);
        let id = field("sessionId").context("no sessionId in the answer")?;
        let token =
            field("token").context("no token in the answer: the backend cannot mint tokens; give TOKEN")?;
        Ok(self.way_in(Some(id), token))
    }

    /// Ends sessions that were made here; a given one stays.
    pub async fn end(&self, sessions: &[Session]) -> anyhow::Result<()> {
        let Source::Made { url, .. } = &self.source else { return Ok(()) };
        let base = url.replace("/api/dev/sessions", "/api/sessions");
        let ending = stream::iter(sessions).map(|session| {
            let url = format!("{base}/{}", session.id.as_deref().unwrap_or_default());
            self.http.delete(url).bearer_auth(&session.token).send()
        });
        ending.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await.context("ending sessions")
    }

    /// Many of them.
    pub async fn sessions(&self, shell: &str, count: usize) -> anyhow::Result<Vec<Session>> {
        let mut sessions = Vec::with_capacity(count);
        for _ in 0..count {
            sessions.push(self.session(shell).await?);
        }
        Ok(sessions)
    }

    fn way_in(&self, id: Option<&str>, token: &str) -> Session {
        let separator = if self.websocket.contains('?') { '&' } else { '?' };
        let session = id.map(|id| format!("sessionId={id}&")).unwrap_or_default();
        let url = format!("{}{separator}{session}token={token}", self.websocket);
        Session { url, insecure: self.insecure, id: id.map(str::to_owned), token: token.to_owned() }
    }
}
