//! Tracks the state of every connection, and closes those that are late or must make room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Time limit from a connection's start, or a request's first byte, to the end of its head.
const HEAD: Duration = Duration::from_secs(10);
/// Time limit from there to the end of the body.
const BODY: Duration = Duration::from_secs(10);
/// Time limit from an answer's first byte until the last is written.
const ANSWER: Duration = Duration::from_mins(1);
/// Time limit between two requests: longer than the function (30 s, `outbound/src/http.rs`) and the load balancers
/// (120 s, `idle_timeout` in `infra`) keep a connection, so that they close it and no request meets a closing one.
const IDLE: Duration = Duration::from_secs(150);

/// All connections of a listener.
pub(super) struct Seats {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, Arc<Seat>>,
}

/// A connection's place, released on drop.
pub(super) struct Place {
    seats: Arc<Seats>,
    id: u64,
    pub(super) seat: Arc<Seat>,
}

/// State of a connection.
pub(super) struct Seat {
    /// Accepted while requests in progress held every place: serves `/health` only.
    pub(super) is_spare: bool,
    state: Mutex<State>,
    leave: Notify,
}

#[derive(Clone, Copy)]
struct State {
    doing: Doing,
    since: Instant,
}

/// Phase of a connection, in the order in which connections are closed to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// New, or receiving a head.
    Head,
    /// Receiving a body.
    Body,
    /// Writing an answer.
    Answer,
    /// Between requests.
    Idle,
    /// The request is being handled, without a time limit.
    Handled,
}

impl Doing {
    const fn limit(self) -> Option<Duration> {
        match self {
            Self::Head => Some(HEAD),
            Self::Body => Some(BODY),
            Self::Answer => Some(ANSWER),
            Self::Idle => Some(IDLE),
            Self::Handled => None,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Body => "body",
            Self::Answer => "answer",
            Self::Idle => "idle",
            Self::Handled => "handled",
        }
    }
}

impl Seats {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// Takes a place for a new connection. Never fails: if all are taken, closes the one that has kept the server
    /// waiting longest; if all are being handled, the new one serves `/health` alone, which is answered at once, so
    /// that it is the next to go.
    pub(super) fn take(seats: &Arc<Self>) -> Place {
        let mut taken = seats.lock();
        let mut is_spare = false;
        if taken.seats.len() >= seats.most {
            taken.dismiss_one();
            is_spare = taken.seats.values().filter(|seat| !seat.is_spare).count() >= seats.most;
        }
        let state = Mutex::new(State { doing: Doing::Head, since: Instant::now() });
        let seat = Arc::new(Seat { is_spare, state, leave: Notify::new() });
        let id = taken.next;
        taken.next += 1;
        taken.seats.insert(id, seat.clone());
        Place { seats: seats.clone(), id, seat }
    }

    /// Closes connections that exceed their time limit.
    pub(super) fn sweep(&self) {
        self.lock().seats.retain(|_, seat| {
            let late = seat.state().is_late();
            if late {
                seat.leave.notify_one();
            }
            !late
        });
    }

    /// Closes one connection, unless all are being handled.
    pub(super) fn make_room(&self) {
        self.lock().dismiss_one();
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn dismiss_one(&mut self) {
        let states = self.seats.iter().map(|(id, seat)| (*id, *seat.state()));
        let waited_for = states.filter(|(_, state)| state.doing != Doing::Handled);
        let next = waited_for.min_by_key(|(id, state)| (state.doing, state.since, *id)).map(|(id, _)| id);
        if let Some(seat) = next.and_then(|id| self.seats.remove(&id)) {
            seat.leave.notify_one();
        }
    }
}

impl Place {
    /// Phase in which the connection is closed. `None` if it stays, because a request has arrived in the meantime.
    pub(super) fn leave(&self) -> Option<&'static str> {
        let doing = self.seat.state().doing;
        if doing == Doing::Handled {
            self.seats.lock().seats.insert(self.id, self.seat.clone());
            return None;
        }
        Some(doing.label())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.id);
    }
}

impl Seat {
    /// Bytes arrived.
    pub(super) fn received(&self) {
        self.turn(Doing::Idle, Doing::Head);
    }

    /// The head is complete.
    pub(super) fn request(&self, without_body: bool) {
        let doing = if without_body { Doing::Handled } else { Doing::Body };
        *self.state() = State { doing, since: Instant::now() };
    }

    /// The body is complete.
    pub(super) fn body_read(&self) {
        self.turn(Doing::Body, Doing::Handled);
    }

    /// The answer is ready to be written.
    pub(super) fn answer(&self) {
        *self.state() = State { doing: Doing::Answer, since: Instant::now() };
    }

    /// Everything is written.
    pub(super) fn flushed(&self) {
        self.turn(Doing::Answer, Doing::Idle);
    }

    /// Waits until the connection must close.
    pub(super) async fn left(&self) {
        self.leave.notified().await;
    }

    fn turn(&self, from: Doing, to: Doing) {
        let mut state = self.state();
        if state.doing == from {
            *state = State { doing: to, since: Instant::now() };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_late(&self) -> bool {
        self.doing.limit().is_some_and(|limit| self.since.elapsed() >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(place: &Place) -> bool {
        let mut left = std::pin::pin!(place.seat.left());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        left.as_mut().poll(&mut context).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_a_time_limit_except_handling() {
        let seats = Arc::new(Seats::new(10));
        let places: Vec<_> = (0..5).map(|_| Seats::take(&seats)).collect();
        let [_head, body, answer, idle, handled] = places.as_slice() else { panic!() };
        body.seat.request(false);
        for place in [answer, idle, handled] {
            place.seat.request(true);
        }
        answer.seat.answer();
        idle.seat.answer();
        idle.seat.flushed();
        for (after, leave) in [
            (Duration::ZERO, vec![]),
            (HEAD, vec![0, 1]),
            (ANSWER, vec![2]),
            (IDLE, vec![3]),
            (Duration::from_hours(1), vec![]),
        ] {
            tokio::time::advance(after).await;
            seats.sweep();
            let gone: Vec<_> = (0..5).filter(|n| left(&places[*n])).collect();
            assert_eq!(gone, leave, "after {after:?} more");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_replaces_the_one_that_stalled_longest() {
        let seats = Arc::new(Seats::new(3));
        let (idle, old, new) = (Seats::take(&seats), Seats::take(&seats), Seats::take(&seats));
        for place in [&idle, &old, &new] {
            place.seat.request(true);
            place.seat.answer();
            place.seat.flushed();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        old.seat.received();
        tokio::time::advance(Duration::from_secs(1)).await;
        new.seat.received();
        let more: Vec<_> = (0..3).map(|_| Seats::take(&seats)).collect();
        assert_eq!([left(&old), left(&new), left(&idle)], [true, true, false], "idle connections go last");
        assert!(left(&more[0]) && !left(&more[1]) && more.iter().all(|place| !place.seat.is_spare));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_being_handled_health_still_has_a_place() {
        let seats = Arc::new(Seats::new(2));
        let (one, two) = (Seats::take(&seats), Seats::take(&seats));
        one.seat.request(true);
        two.seat.request(true);
        let spare: Vec<_> = (0..100).map(|_| Seats::take(&seats)).collect();
        assert!(spare.iter().all(|place| place.seat.is_spare));
        assert_eq!(spare.iter().filter(|place| left(place)).count(), 99, "they replace each other");
        assert!(!left(&one) && !left(&two));
        drop(one);
        assert!(!Seats::take(&seats).seat.is_spare);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_new_request_stays() {
        let seats = Arc::new(Seats::new(1));
        let place = Seats::take(&seats);
        let _other = Seats::take(&seats);
        assert!(left(&place));
        place.seat.request(true);
        assert_eq!(place.leave(), None);
        place.seat.answer();
        tokio::time::advance(ANSWER).await;
        seats.sweep();
        assert!(left(&place) && place.leave() == Some("answer"), "its time limits apply as before");
    }
}
