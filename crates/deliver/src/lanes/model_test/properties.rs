//! Random schedules.

use super::{
    schedule::{calm_step, dead, max_packets, room, step, wild_step},
    *,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_and_nobody_waits_for_a_dead_customer(
        steps in prop::collection::vec(step(), 10..150),
        room in prop_oneof![Just(600usize), Just(6_000), Just(60_000), Just(1 << 20)],
        strict in any::<bool>(),
        max_packets in prop_oneof![Just(1usize), Just(3), Just(10)],
        dead in prop_oneof![Just("P"), Just("Q"), Just("R")],
    ) {
        let mut world = World::new(room, if strict { Order::Strict } else { Order::Arrival }, max_packets);
        for step in &steps {
            world.step(step);
        }
        world.drain(dead);
    }

    #[test]
    fn whatever_is_refused_or_let_go_the_messages_are_the_naive_cutters(
        steps in prop::collection::vec(calm_step(), 10..150),
        room in room(),
        max_packets in max_packets(),
        dead in dead(),
    ) {
        let mut world = World::new(room, Order::Arrival, max_packets);
        for step in &steps {
            world.step(step);
        }
        world.drain(dead);
        let webhook = Arc::clone(&world.task.outlets.of(&"o/a".parse().unwrap()).unwrap().webhook);
        prop_assert_eq!(&world.sent, &world.naive(&webhook));
    }

    #[test]
    fn a_process_that_lives_on_beside_its_successor_costs_re_sends_never_packets(
        steps in prop::collection::vec(wild_step(), 10..150),
        room in room(),
        max_packets in max_packets(),
        dead in dead(),
    ) {
        let mut world = World::new(room, Order::Arrival, max_packets);
        for step in &steps {
            world.step(step);
        }
        world.drain(dead);
    }
}
