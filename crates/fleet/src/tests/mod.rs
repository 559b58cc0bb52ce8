//! The fleet under generated schedules: delays, lost writes, pauses and crashes, against a model of the store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod store;
mod world;

use proptest::{collection::vec, prelude::*};

use self::world::{Action, World};

fn action() -> impl Strategy<Value = Action> {
    let machine = 0..3_usize;
    let session = 0..3_u8;
    let seconds = |most: u64| 0..most * 1_000;
    prop_oneof![
        6 => (machine.clone(), session.clone()).prop_map(|(at, session)| Action::Create { at, session }),
        3 => machine.clone().prop_map(|at| Action::CreateFresh { at }),
        2 => (machine.clone(), session.clone()).prop_map(|(at, session)| Action::End { at, session }),
        4 => (machine.clone(), session).prop_map(|(at, session)| Action::Look { at, session }),
        3 => (machine.clone(), seconds(40)).prop_map(|(at, ms)| Action::Pause { at, ms }),
        3 => machine.clone().prop_map(|at| Action::Crash { at }),
        4 => machine.prop_map(|at| Action::Start { at }),
        2 => (0..6_usize).prop_map(|lost| Action::Failover { lost }),
        1 => Just(Action::Flush),
        1 => seconds(25).prop_map(|ms| Action::StorePaused { ms }),
        1 => seconds(25).prop_map(|ms| Action::StoreDown { ms }),
        8 => seconds(20).prop_map(|ms| Action::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000),
        rng_seed: proptest::test_runner::RngSeed::Fixed(18),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// [`World::step`] checks after every event that no two instances serve one session, and that no session lives that
    /// was reported as gone.
    #[test]
    fn a_session_has_one_owner_and_is_found_again(seed: u64, actions in vec((0..3_000_u64, action()), 0..40)) {
        let mut world = World::new(seed);
        for (wait, action) in actions {
            world.run(wait);
            world.act(action);
        }
        world.heal();
        world.run(10_000);
        world.all_found();
    }
}
