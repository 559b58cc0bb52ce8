//! The stack under test and the source of its sessions.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use shellbridge_protocol::ids::SessionId;

use crate::stack::{ProgramArgs, Stack};

/// Sessions ended concurrently.
const CONCURRENCY: usize = 16;

/// Sessions created so far.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Options of a deployed stack. Without a URL, a local stack is started.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetArgs {
    /// WebSocket address of a deployed stack, `wss://…`; without it, a local one is started
    #[arg(long)]
    pub url: Option<String>,
    /// Backend of that stack, `https://…`, to create sessions with the admin token
    #[arg(long, env = "SESSIONS_URL")]
    pub sessions_url: Option<String>,
    /// Its `ADMIN_TOKEN`
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// A user's token for one session, instead of creating sessions
    #[arg(long, env = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The session, if the token does not name one
    #[arg(long, env = "SESSION")]
    pub session: Option<SessionId>,
    /// Accept any certificate, such as that of `gateway --tls`
    #[arg(long)]
    pub insecure: bool,
}

/// The deployed stack that `args` name, or a local one that lasts as long as it is held.
pub async fn subject(
    programs: &ProgramArgs,
    args: &TargetArgs,
    tls: bool,
) -> anyhow::Result<(Option<Stack>, Target)> {
    if let Some(url) = &args.url {
        return Ok((None, Target::deployed(url, args)?));
    }
    let stack = programs.find()?.stack().flag(if tls { "--tls" } else { "" }, "").start().await?;
    let target = Target::local(&stack)?;
    Ok((Some(stack), target))
}

/// A stack to connect to.
#[derive(Debug, Clone)]
pub struct Target {
    websocket: String,
    /// Whether to accept any certificate.
    pub insecure: bool,
    source: Source,
    /// `HOME` of shells on this machine; `None` on a deployed stack.
    home: Option<String>,
    http: reqwest::Client,
}

#[derive(Debug, Clone)]
enum Source {
    /// One session for all connections, by its token.
    Given { token: String, session: Option<SessionId> },
    /// `POST` to this URL creates a session, with this bearer token if present.
    Made { url: String, bearer: Option<String> },
}

/// Access to a session. Never print it: the URL contains the token.
#[derive(Clone)]
pub struct Session {
    /// URL to connect to.
    pub url: String,
    /// See [`Target::insecure`].
    pub insecure: bool,
    id: Option<SessionId>,
    token: String,
}

impl Target {
    /// A local stack.
    pub fn local(stack: &Stack) -> anyhow::Result<Self> {
        let source = Source::Made { url: format!("{}api/dev/sessions", stack.page), bearer: None };
        let home = Some(stack.directory().to_string_lossy().into_owned());
        // A local stack's certificate is self-signed.
        let insecure = stack.websocket.starts_with("wss:");
        Ok(Self { websocket: stack.websocket.clone(), insecure, source, home, http: reqwest::Client::new() })
    }

    /// A deployed stack.
    pub fn deployed(url: &str, args: &TargetArgs) -> anyhow::Result<Self> {
        let source = match (&args.token, &args.sessions_url, &args.admin_token) {
            (Some(token), _, _) => Source::Given { token: token.clone(), session: args.session.clone() },
            (None, Some(base), Some(admin)) => Source::Made {
                url: format!("{}/api/sessions", base.trim_end_matches('/')),
                bearer: Some(admin.clone()),
            },
            _ => bail!("no source of sessions: set TOKEN, or SESSIONS_URL and ADMIN_TOKEN"),
        };
        let http = reqwest::Client::builder().tls_danger_accept_invalid_certs(args.insecure).build()?;
        Ok(Self { websocket: url.to_owned(), insecure: args.insecure, source, home: None, http })
    }

    /// Whether all connections share one session.
    pub const fn has_one_session(&self) -> bool {
        matches!(self.source, Source::Given { .. })
    }

    /// Creates a session that runs `shell`, or returns the shared one.
    pub async fn session(&self, shell: &str) -> anyhow::Result<Session> {
        let (url, bearer) = match &self.source {
            Source::Given { token, session } => return Ok(self.authorized(session.clone(), token)),
            Source::Made { url, bearer } => (url, bearer),
        };
        let env = self.home.as_ref().map_or_else(|| json!({}), |home| json!({ "HOME": home }));
        // One user each, whatever the backend's MAX_SESSIONS_PER_USER.
        let user = format!("bench-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "userId": user, "ttlSeconds": 3600, "shell": shell, "env": env });
        let mut request =
            self.http.post(url).body(body.to_string()).header("content-type", "application/json");
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let response = request.send().await.context("creating a session")?;
        let (status, text) = (response.status(), response.text().await.context("creating a session")?);
        if status != StatusCode::CREATED {
            bail!("{url} did not create a session: {status} {text}");
        }
        let created: Value = serde_json::from_str(&text).context("creating a session")?;
        let field = |name: &str| created.get(name).and_then(Value::as_str);
        let id = field("sessionId").context("no sessionId in the response")?;
        let token =
            field("token").context("no token in the response: the backend cannot sign tokens; set TOKEN")?;
        Ok(self.authorized(Some(id.into()), token))
    }

    /// Ends sessions created here; a session given by its token stays.
    pub async fn end(&self, sessions: &[Session]) -> anyhow::Result<()> {
        let Source::Made { url, .. } = &self.source else { return Ok(()) };
        let base = url.replace("/api/dev/sessions", "/api/sessions");
        let ending = stream::iter(sessions).map(|session| {
            let url = format!("{base}/{}", session.id.as_deref().unwrap_or_default());
            self.http.delete(url).bearer_auth(&session.token).send()
        });
        ending
            .buffer_unordered(CONCURRENCY)
            .try_for_each(|_| async { Ok(()) })
            .await
            .context("ending sessions")
    }

    /// Creates `count` sessions.
    pub async fn sessions(&self, shell: &str, count: usize) -> anyhow::Result<Vec<Session>> {
        let mut sessions = Vec::with_capacity(count);
        for _ in 0..count {
            sessions.push(self.session(shell).await?);
        }
        Ok(sessions)
    }

    fn authorized(&self, id: Option<SessionId>, token: &str) -> Session {
        let separator = if self.websocket.contains('?') { '&' } else { '?' };
        let session = id.as_ref().map(|id| format!("sessionId={id}&")).unwrap_or_default();
        let url = format!("{}{separator}{session}token={token}", self.websocket);
        Session { url, insecure: self.insecure, id, token: token.to_owned() }
    }
}
