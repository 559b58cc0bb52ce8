//! The session and the reference client over a simulated, very bad network.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use shellbridge_protocol::{
    client::{Client, Event},
    limits::{INPUT_WINDOW, MAX_FRAME},
};

use super::*;

const WIDE: Limits = Limits { output_buffer: 256 * 1024, output_window: 128 * 1024, ..LIMITS };

/// Fault rates of the network, in percent.
#[derive(Debug, Clone)]
struct Weather {
    seed: u64,
    delay: u64,
    repeat: u32,
    drop: u32,
    push_fail: u32,
    cut: u32,
    lose_disconnect: u32,
    /// Probability per ms, in 1/10,000, that the driver dies and loses the frames in transit.
    restart: u32,
}

/// A client that types, a shell that answers every byte with several, and the weather between them.
struct World {
    weather: Weather,
    rng: StdRng,
    now: Duration,
    session: Session,
    client: Client,
    connection: Option<ConnectionId>,
    made: u64,
    to_session: BTreeMap<(Duration, u64), (ConnectionId, ClientFrame)>,
    to_client: BTreeMap<(Duration, u64), (ConnectionId, ServerFrame)>,
    ends: BTreeMap<(Duration, u64), (ConnectionId, PushKind, Sent)>,
    disconnects: BTreeMap<(Duration, u64), ConnectionId>,
    count: u64,
    /// While set, there is no driver: until this time, nothing is pushed and no frames are delivered.
    down_until: Option<Duration>,
    typed: Vec<u8>,
    received: Vec<u8>,
    gaps: u64,
}

impl World {
    fn new(weather: Weather) -> Self {
        Self {
            rng: StdRng::seed_from_u64(weather.seed),
            now: MS,
            // Through a narrow window, and through one that several frames go through at once.
            session: with_limits(if weather.seed.is_multiple_of(2) { LIMITS } else { WIDE }),
            client: Client::new("client-0123456789", 80, 24),
            connection: None,
            made: 0,
            to_session: BTreeMap::new(),
            to_client: BTreeMap::new(),
            ends: BTreeMap::new(),
            disconnects: BTreeMap::new(),
            count: 0,
            down_until: None,
            typed: Vec::new(),
            received: Vec::new(),
            gaps: 0,
            weather,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent.min(100), 100)
    }

    fn soon(&mut self) -> (Duration, u64) {
        self.count += 1;
        (self.now + MS * u32::try_from(self.rng.random_range(0..=self.weather.delay)).unwrap(), self.count)
    }

    fn connect(&mut self) {
        self.made += 1;
        let id: ConnectionId = format!("connection-{}", self.made).into();
        self.session.connect(info(&id, self.made, false), self.now).unwrap();
        self.client.connected(self.now);
        self.connection = Some(id);
    }

    fn cut(&mut self) {
        let Some(id) = self.connection.take() else { return };
        self.client.disconnected();
        if !self.chance(self.weather.lose_disconnect) {
            let at = self.soon();
            self.disconnects.insert(at, id);
        }
    }

    /// Kills the driver: of the pushes in flight, some were handed over and some are lost.
    fn restart(&mut self) {
        self.session.handle_reachable(false);
        for (_, (id, kind, _)) in std::mem::take(&mut self.ends) {
            self.session.handle_pushed(&id, kind, Sent::Unknown, self.now);
        }
        let rng = &mut self.rng;
        self.to_client.retain(|_, _| rng.random());
        self.to_session.clear();
        self.disconnects.clear();
        self.down_until = Some(self.now + MS * rng.random_range(0..1_500));
    }

    /// Simulates one millisecond.
    fn step(&mut self, shell: &mut dyn FnMut(&[u8]) -> Vec<u8>, backlog: &mut VecDeque<u8>) {
        self.now += MS;
        let now = self.now;
        if self.down_until.is_some_and(|until| until <= now) {
            self.down_until = None;
            self.session.handle_reachable(true);
        } else if self.weather.restart > 0 && self.rng.random_ratio(self.weather.restart, 10_000) {
            self.restart();
        }
        if self.connection.is_none() {
            if self.down_until.is_none() {
                self.connect();
            }
        } else if self.weather.cut > 0 && self.rng.random_ratio(self.weather.cut, 10_000) {
            self.cut();
        }
        while let Some(frame) = self.client.poll(now) {
            let id = self.connection.clone().unwrap();
            if !self.chance(self.weather.drop) && self.down_until.is_none() {
                if self.chance(self.weather.repeat) {
                    let at = self.soon();
                    self.to_session.insert(at, (id.clone(), frame.clone()));
                }
                let at = self.soon();
                self.to_session.insert(at, (id, frame));
            }
        }
        while let Some(entry) = self.to_session.first_entry().filter(|entry| entry.key().0 <= now) {
            let (id, frame) = entry.remove();
            let answer = self.session.frame(&id, frame, now);
            if let Some(answer) = answer {
                let at = self.soon();
                self.to_client.insert(at, (id, answer));
            }
        }
        while let Some(entry) = self.disconnects.first_entry().filter(|entry| entry.key().0 <= now) {
            let id = entry.remove();
            self.session.disconnect(&id, now);
        }
        while let Some(entry) = self.ends.first_entry().filter(|entry| entry.key().0 <= now) {
            let (id, kind, sent) = entry.remove();
            self.session.handle_pushed(&id, kind, sent, now);
        }
        // The shell reads input and writes output, as far as it may.
        if let Some((client, bytes)) = self.session.poll_write() {
            let some = self.rng.random_range(1..=bytes.len());
            backlog.extend(shell(&bytes[..some]));
            self.session.handle_written(&client, some, now);
        }
        let some: Vec<u8> =
            backlog.drain(..backlog.len().min(self.session.read_allowance(now)).min(4096)).collect();
        self.session.handle_output(&some);
        self.session.advance(now);
        self.perform();
        while let Some(entry) = self.to_client.first_entry().filter(|entry| entry.key().0 <= now) {
            let (id, frame) = entry.remove();
            if self.connection.as_ref() == Some(&id) {
                let event = self.client.receive(frame, now);
                assert_ne!(event, Event::Replaced);
                if let Event::Snapshot { gap, .. } = event {
                    self.gaps += gap;
                }
                self.received.extend(self.client.take_output());
            }
        }
    }

    fn perform(&mut self) {
        while let Some(effect) = self.session.effects.pop_front() {
            match effect {
                Effect::Push { kind, .. } if self.down_until.is_some() => {
                    assert_eq!(kind, PushKind::Other, "only pushes that need no outcome");
                }
                Effect::Push { to, frame, kind } => {
                    assert!(frame.len() <= MAX_FRAME);
                    let alive = self.connection.as_ref() == Some(&to);
                    let mut end = self.soon();
                    // Failed pushes are retried after a delay, sometimes although they were delivered.
                    while alive && self.chance(self.weather.push_fail) {
                        if self.rng.next_u32().is_multiple_of(2) {
                            let at = self.soon();
                            self.to_client.insert(at, (to.clone(), serde_json::from_slice(&frame).unwrap()));
                        }
                        end.0 += MS * 25;
                    }
                    let sent = if alive { Sent::Delivered } else { Sent::Gone };
                    if alive {
                        self.to_client.insert(end, (to.clone(), serde_json::from_slice(&frame).unwrap()));
                    }
                    self.ends.insert((end.0, end.1), (to, kind, sent));
                }
                Effect::Close { connection, .. } if self.connection.as_ref() == Some(&connection) => {
                    self.cut();
                }
                Effect::Close { .. } | Effect::Resize(_) => {}
                Effect::Answer { .. } | Effect::Run { .. } | Effect::StartShell | Effect::End(_) => {
                    panic!("no command was sent, and the shell lives: {effect:?}")
                }
                Effect::Follow(mut work) => {
                    work.run();
                    self.session.handle_followed(work);
                }
                Effect::Check(id) => {
                    let exists = self.connection.as_ref() == Some(&id);
                    self.session.handle_checked(&id, exists, self.now);
                }
            }
        }
    }

    fn bounds_hold(&self) {
        assert!(self.session.dropped.len() <= MAX_DROPPED);
        for connection in self.session.connections.values() {
            assert!(connection.in_flight <= 4);
        }
        for (_, client) in self.session.clients.iter() {
            assert!(client.input.next() - client.input.consumed() <= INPUT_WINDOW as u64);
        }
    }
}

fn weather() -> impl Strategy<Value = Weather> {
    (
        any::<u64>(),
        0_u64..80,
        0_u32..30,
        0_u32..30,
        0_u32..30,
        prop_oneof![Just(0_u32), 1_u32..60],
        0_u32..100,
        prop_oneof![Just(0_u32), 1_u32..20],
    )
        .prop_map(|(seed, delay, repeat, drop, push_fail, cut, lose_disconnect, restart)| Weather {
            seed,
            delay,
            repeat,
            drop,
            push_fail,
            cut,
            lose_disconnect,
            restart,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// On any network that eventually delivers, input reaches the shell and output reaches the screen, once and in order.
    #[test]
    fn both_streams_come_out_complete(weather in weather(), keys in 1_usize..4_000, burst in 1_usize..200_000) {
        let mut world = World::new(weather);
        let mut read: Vec<u8> = Vec::new();
        let mut wrote: Vec<u8> = Vec::new();
        let mut backlog = VecDeque::new();
        let mut flood: Vec<u8> = (0..burst).map(|n| b"0123456789 \x1b[m\r\n\xff"[n % 17]).collect();
        let keys: Vec<u8> = (0..keys).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut left = keys.as_slice();
        let mut steps = 0;
        loop {
            // Before the first client attaches, output may be evicted, since the shell waits for no one.
            if world.client.is_attached() {
                backlog.extend(&flood);
                wrote.append(&mut flood);
            }
            if !left.is_empty() && steps % 3 == 0 {
                let (some, rest) = left.split_at(left.len().min(40));
                world.client.write(some);
                world.typed.extend(some);
                left = rest;
            }
            let mut shell = |bytes: &[u8]| {
                read.extend_from_slice(bytes);
                let echo: Vec<u8> = bytes.iter().flat_map(|b| [*b, b'.']).collect();
                wrote.extend(&echo);
                echo
            };
            world.step(&mut shell, &mut backlog);
            world.bounds_hold();
            steps += 1;
            let quiet = flood.is_empty() && left.is_empty() && backlog.is_empty() && world.client.unacknowledged() == 0;
            // The shell may still have to read acknowledged input.
            if quiet && read.len() >= keys.len() && world.received.len() == wrote.len() {
                break;
            }
            prop_assert!(
                steps < 400_000,
                "stuck: {} of {} bytes arrived, {:?}, {:?}",
                world.received.len(),
                wrote.len(),
                world.client,
                world.session.connections.values().map(|c| (c.in_flight, c.attachment.as_ref().map(|a| &a.window))).collect::<Vec<_>>(),
            );
        }
        prop_assert_eq!(world.gaps, 0, "a client that comes back in time loses nothing");
        prop_assert!(read == keys, "what was typed");
        prop_assert!(world.received == wrote, "what was written");
    }
}
