//! The store: one connection to Redis, and the fleet's requests as scripts.
//!
//! Any server that speaks Redis 6.2 will do. All keys have one hash tag, no script blocks, and nothing is subscribed to.
//! The server must not evict keys (`maxmemory-policy noeviction`).

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation,
    aio::MultiplexedConnection,
};
use shellbridge_fleet::{
    Found, Member, Orphans, Renewed, Reply, Request, Under, Written,
    limits::{BATCH, LEASE, REAPING, RELEASE_SEEN},
};
use shellbridge_protocol::ids::SessionId;

use super::scripts;

/// Timeout of connecting, with TLS and authentication.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Timeout of a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The server that `REDIS_URL` names.
pub(crate) struct Redis {
    client: Client,
    tls: bool,
    /// Host and port, for messages; without user and password.
    place: String,
}

/// A connection. Cheap to clone; never reconnects by itself, since the fleet must know.
#[derive(Clone)]
pub(super) struct Store {
    connection: MultiplexedConnection,
    me: Arc<Member>,
}

/// `REDIS_URL` is no such URL.
#[derive(Debug, thiserror::Error)]
#[error("REDIS_URL must be redis://HOST:PORT or rediss://HOST:PORT, with USER:PASSWORD@ if needed")]
pub(crate) struct BadUrl;

/// Why Redis did not do what was asked. A retry on another connection may help.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("cannot connect to Redis at {0}: {1}")]
    Connect(String, RedisError),
    #[error("cannot connect to Redis at {0} over TLS: {1}")]
    Tls(String, RedisError),
    #[error("Redis at {0} refuses the user or password of REDIS_URL")]
    Password(String),
    #[error("Redis did not answer in time")]
    Timeout,
    #[error("Redis failed: {0}")]
    Failed(#[from] RedisError),
}

impl Redis {
    /// # Errors
    /// When `REDIS_URL` is no such URL.
    pub(crate) fn parse(url: &str) -> Result<Self, BadUrl> {
        let parsed = url::Url::parse(url).map_err(|_| BadUrl)?;
        let tls = match parsed.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(BadUrl),
        };
        let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or(BadUrl)?;
        let place = format!("{host}:{}", parsed.port().unwrap_or(6379));
        if parsed.password().is_none_or(str::is_empty) {
            tracing::warn!(
                "REDIS_URL has no password: a shell that reaches Redis could redirect requests, with their tokens, to itself"
            );
        }
        let client = Client::open(url).map_err(|_| BadUrl)?;
        Ok(Self { client, tls, place })
    }

    pub(super) async fn connect(&self, me: Arc<Member>) -> Result<Store, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN));
        let connecting = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            // Also shows a server that wants a password, and a proxy without a server.
            let _: String = redis::cmd("PING").query_async(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(2 * CONNECT_WITHIN, connecting).await {
            Ok(Ok(connection)) => Ok(Store { connection, me }),
            Ok(Err(error)) => Err(self.explain(error)),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    fn explain(&self, error: RedisError) -> StoreError {
        let refused = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
        if refused || error.kind() == ErrorKind::AuthenticationFailed {
            StoreError::Password(self.place.clone())
        } else if self.tls {
            StoreError::Tls(self.place.clone(), error)
        } else {
            StoreError::Connect(self.place.clone(), error)
        }
    }
}

/// A key. The hash tag keeps all keys on one node of a cluster.
fn key(parts: &[&str]) -> String {
    format!("{{sb}}:{}", parts.join(":"))
}

fn lease(instance: &str) -> String {
    key(&["i", instance])
}

/// Keys of a session: its entry and its connections.
fn of(session: &SessionId) -> (String, String) {
    (key(&["s", session]), key(&["c", session]))
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Store {
    /// Performs a request.
    pub(super) async fn perform(mut self, request: Request) -> Result<Reply, StoreError> {
        match tokio::time::timeout(ANSWER_WITHIN, self.ask(request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) if error.is_timeout() => Err(StoreError::Timeout),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    async fn ask(&mut self, request: Request) -> RedisResult<Reply> {
        let me = self.me.clone();
        let (uuid, epoch, own) = (&*me.uuid, key(&["epoch"]), key(&["o", &me.uuid]));
        match request {
            Request::Renew(under) => self.renew(&me, under).await,
            Request::Claim { under, session, owner, expires_at } => {
                let (entry, connections) = of(&session);
                let mut script = scripts::CLAIM.key(lease(uuid));
                script.key(epoch).key(own).key(entry).key(connections).arg(uuid);
                held(&mut script, &me, under);
                script.arg(session.as_str()).arg(owner.as_str()).arg(expires_at.0);
                let (epoch, written): (i64, u64) = self.run(&script).await?;
                Ok(match u64::try_from(epoch) {
                    Err(_) => Reply::NoLease,
                    Ok(0) => Reply::Taken,
                    Ok(epoch) => Reply::Claimed { epoch, written: Written(written) },
                })
            }
            Request::Assert { under, sessions } => {
                let mut script = scripts::ASSERT.key(lease(uuid));
                script.key(epoch).key(own).arg(uuid);
                held(&mut script, &me, under);
                for asserted in sessions {
                    script.key(of(&asserted.session).0).arg(asserted.session.as_str());
                    script.arg(asserted.epoch).arg(asserted.owner.as_str()).arg(asserted.expires_at.0);
                }
                let (written, epochs): (u64, Vec<u64>) = self.run(&script).await?;
                if written == 0 {
                    return Ok(Reply::NoLease);
                }
                let epochs = epochs.into_iter().map(|epoch| (epoch > 0).then_some(epoch)).collect();
                Ok(Reply::Asserted(epochs, Written(written)))
            }
            Request::Connections { under, session, connections, expires_at } => {
                let mut script = scripts::CONNECTIONS.key(lease(uuid));
                script.key(of(&session).1);
                held(&mut script, &me, under);
                script.arg(expires_at.0);
                for (id, url) in connections {
                    script.arg(id.as_str()).arg(&*url);
                }
                let held: bool = self.run(&script).await?;
                Ok(if held { Reply::Done } else { Reply::NoLease })
            }
            Request::Release { session, epoch } => {
                let (entry, connections) = of(&session);
                let mut script = scripts::RELEASE.key(entry);
                script.key(connections).key(own).arg(uuid).arg(session.as_str()).arg(epoch);
                self.run(&script).await.map(done)
            }
            Request::Find { under, session } => self.find(&me, under, &session).await,
            Request::Peer { release } => {
                let urls: Vec<String> = redis::cmd("ZREVRANGE")
                    .arg(key(&["p", &release]))
                    .arg(0)
                    .arg(15)
                    .query_async(&mut self.connection)
                    .await?;
                let others: Vec<_> = urls.into_iter().filter(|url| **url != *me.url).collect();
                let chosen = usize::from(rand::random::<u16>()).checked_rem(others.len());
                Ok(Reply::Peer(chosen.and_then(|n| others.get(n)).map(|url| url.as_str().into())))
            }
            Request::Reap { instance } => {
                let mut script = scripts::REAP.key(lease(&instance));
                script.key(key(&["reap", &instance])).key(key(&["o", &instance])).key(key(&["instances"]));
                script.arg(uuid).arg(&*instance).arg(ms(REAPING)).arg(BATCH);
                let (may, sessions): (bool, Vec<String>) = self.run(&script).await?;
                let sessions = sessions.into_iter().map(Into::into).collect();
                Ok(Reply::Orphans(if may { Orphans::Some(sessions) } else { Orphans::NotYours }))
            }
            Request::Bury { instance, session, epoch } => {
                let (entry, connections) = of(&session);
                let mut script = scripts::BURY.key(lease(&instance));
                script.key(entry).key(connections).arg(&*instance);
                script.arg(epoch.map(|epoch| epoch.to_string()).unwrap_or_default());
                let connections: Vec<(String, String)> = self.run(&script).await?;
                Ok(Reply::Buried(connections.into_iter().map(|(id, url)| (id.into(), url.into())).collect()))
            }
            Request::Forget { instance, session } => {
                let (entry, connections) = of(&session);
                let mut script = scripts::FORGET.key(entry);
                script.key(connections).key(key(&["o", &instance])).arg(&*instance).arg(session.as_str());
                self.run(&script).await.map(done)
            }
            Request::Leave => {
                let mut script = scripts::LEAVE.key(lease(uuid));
                script.key(key(&["instances"])).key(key(&["p", &me.release])).key(own);
                script.arg(uuid).arg(me.generation).arg(&*me.url);
                self.run(&script).await.map(done)
            }
        }
    }

    async fn renew(&mut self, me: &Member, under: Option<Under>) -> RedisResult<Reply> {
        let mut script = scripts::RENEW.key(lease(&me.uuid));
        for name in ["epoch", "instances", "releases", "releases:seen"] {
            script.key(key(&[name]));
        }
        script.key(key(&["p", &me.release])).arg(&*me.uuid);
        held(&mut script, me, under.unwrap_or(Under { life: 0, written: Written(0) }));
        script.arg(&*me.url).arg(&*me.release).arg(ms(LEASE)).arg(ms(RELEASE_SEEN));
        let (life, written, rank, newest_rank, newest, dead): (u64, u64, u64, u64, String, Vec<String>) =
            self.run(&script).await?;
        if life == 0 {
            return Ok(Reply::Superseded);
        }
        let (newest, dead) = ((newest_rank, newest.into()), dead.into_iter().map(Into::into).collect());
        Ok(Reply::Renewed(Renewed { life, written: Written(written), rank, newest, dead }))
    }

    async fn find(&mut self, me: &Member, under: Under, session: &SessionId) -> RedisResult<Reply> {
        let mut script = scripts::FIND.key(lease(&me.uuid));
        script.key(of(session).0);
        held(&mut script, me, under);
        let (held, instance, epoch, buried): (bool, String, u64, bool) = self.run(&script).await?;
        if !held {
            return Ok(Reply::NoLease);
        }
        if instance.is_empty() || buried {
            return Ok(Reply::Found(if buried { Found::Buried } else { Found::Absent }));
        }
        // Apart from the script, which cannot know this key before.
        let url: Option<String> =
            redis::cmd("HGET").arg(lease(&instance)).arg("url").query_async(&mut self.connection).await?;
        Ok(Reply::Found(match url {
            Some(url) => Found::At { instance: instance.into(), url: url.into(), epoch },
            None => Found::Ownerless,
        }))
    }

    async fn run<T: FromRedisValue>(&mut self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        script.invoke_async(&mut self.connection).await
    }
}

/// Adds the arguments that name a lease.
fn held(script: &mut ScriptInvocation<'_>, me: &Member, under: Under) {
    script.arg(me.generation).arg(under.life).arg(under.written.0);
}

const fn done(_: i64) -> Reply {
    Reply::Done
}
