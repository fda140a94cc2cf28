//! One stored packet, one `webhook-id`: real processes under load, while they are killed, stopped and reloaded, disks stall and servers fail
//! (docs/delivery.md, Windows; docs/guarantees.md). Every push that reaches a server counts, whatever the server answers.

mod devices;
mod kafka;
mod one_box;
mod servers;
mod timeline;

use std::{sync::Arc, time::Duration};

use pushline_testkit::{IdLedger, Ledger};

use self::{
    devices::Traffic,
    servers::{Manner, Mode, Server},
    timeline::Timeline,
};
use crate::{group, webhook};

/// A webhook with a server of its own, and the groups that share it: group `g` of the organisations `<name>0`, `<name>1` and so on. The name is made
/// of at most seven letters.
#[derive(Debug, Clone, Copy)]
struct Customer {
    name: &'static str,
    groups: usize,
    /// How many devices publish for each group, each over a connection of its own.
    devices: usize,
    traffic: Traffic,
    manner: Manner,
    /// Fields of its webhook.
    options: &'static str,
    /// Fields of its webhook that every second reload exchanges: they decide which packets share a message. Only a customer that has some may
    /// be excused for a changed form.
    forms: Option<[&'static str; 2]>,
}

/// Short enough that a test sees every end of an attempt.
const SOON: &str = "timeout = \"300ms\"\nretry_delays = [\"20ms\", \"50ms\"]\nretry_on_status = [503]\n";

impl Customer {
    fn organisations(self) -> impl Iterator<Item = String> {
        (0..self.groups).map(move |number| format!("{}{number}", self.name))
    }
}

const fn customer(name: &'static str, traffic: Traffic, manner: Manner, options: &'static str) -> Customer {
    Customer { name, groups: 3, devices: 1, traffic, manner, options, forms: None }
}

/// Groups with much and little traffic, servers of all manners, small messages.
const CUSTOMERS: [Customer; 9] = [
    customer("busy", Traffic::Busy, Manner::Answers, "window = \"100ms\"\nmax_packets = 3"),
    customer("slow", Traffic::Busy, Manner::AnswersSlowly, "window = \"300ms\"\nmax_packets = 3\nconcurrency = 4"),
    customer("failing", Traffic::Steady, Manner::Fails, "window = \"200ms\"\nmax_packets = 3"),
    customer("hanging", Traffic::Steady, Manner::Hangs, "window = \"100ms\"\nmax_packets = 3"),
    customer("strict", Traffic::Steady, Manner::Fails, "window = \"150ms\"\nmax_packets = 3\norder = \"strict\""),
    customer("sparse", Traffic::Sparse, Manner::Answers, "window = \"1s\"\nmax_packets = 3"),
    Customer { groups: 1, devices: 3, ..customer("common", Traffic::Steady, Manner::AnswersSlowly, "") },
    customer("down", Traffic::Steady, Manner::Fails, "window = \"250ms\"\nmax_packets = 3"),
    Customer {
        forms: Some(["window = \"150ms\"\nmax_packets = 3", "window = \"250ms\"\nmax_packets = 4"]),
        ..customer("shaped", Traffic::Steady, Manner::Fails, "")
    },
];

/// The customer whose server hangs for most of a test, so that packets wait for it until they are too old or too many.
const DOWN: &str = "down";

/// Customers with their servers, what came, and what the test did.
struct World {
    customers: Vec<(Customer, Server)>,
    ledger: Arc<Ledger>,
    ids: Arc<IdLedger>,
    timeline: Timeline,
    reloads: usize,
}

impl World {
    /// `old_forms`: how long a process may go on with the forms of before a reload.
    async fn begin(customers: &[Customer], old_forms: Duration) -> Self {
        let (ledger, ids) = (Arc::new(Ledger::default()), Arc::new(IdLedger::default()));
        let mut with_servers = Vec::new();
        for customer in customers {
            with_servers.push((*customer, Server::start(customer, &ledger, &ids).await));
        }
        let this = Self { customers: with_servers, ledger, ids, timeline: Timeline::begin(old_forms), reloads: 0 };
        this.set(DOWN, Mode::Down);
        this
    }

    /// The webhooks and groups of all customers, as the next start or reload shall read them.
    fn definitions(&self) -> String {
        let define = |(customer, server): &(Customer, Server)| {
            let form = customer.forms.map_or("", |forms| forms[self.reloads / 2 % 2]);
            // Each reload changes every webhook, so that the process evicts what isn't in flight.
            let options = format!("{SOON}{}\n{form}\nheaders = {{ X-Reload = \"{}\" }}", customer.options, self.reloads);
            let groups: String = customer.organisations().map(|organisation| group(&organisation, "g", customer.name)).collect();
            webhook(customer.name, &server.url(), &options) + &groups
        };
        self.customers.iter().map(define).collect()
    }

    /// Notes that the definitions change now: each reload changes all webhooks, every second one also changes forms.
    fn reload(&mut self) {
        self.reloads += 1;
        let customers = self.customers.iter().filter(|(customer, _)| customer.forms.is_some() && self.reloads.is_multiple_of(2));
        self.timeline.reloaded(customers.map(|(customer, _)| customer.name).collect());
    }

    fn set(&self, name: &str, mode: Mode) {
        self.customers.iter().filter(|(customer, _)| customer.name == name).for_each(|(_, server)| server.set(mode));
    }

    /// From now on every server accepts at once.
    fn heal(&self) {
        self.customers.iter().for_each(|(_, server)| server.set(Mode::Healed));
    }

    /// Prints the figures, and every second id by kind.
    ///
    /// # Panics
    /// When a packet came under more than one id without an excuse, or an id came with two bodies.
    fn check(&self, what: &str) {
        let (pushes, ids, packets) = self.ids.counts();
        let repeated = self.ids.repeated();
        let verdict = self.timeline.judge(&repeated);
        println!("{what}");
        println!("{packets} packets in {ids} messages, {pushes} pushes; {} packets under more than one id", repeated.len());
        for (excuse, count) in &verdict.excused {
            println!("  excused, {excuse}: {count}");
        }
        println!("  not excused: {}", verdict.failures.len());
        let shown: String = verdict.failures.iter().take(10).map(String::as_str).collect();
        assert!(verdict.failures.is_empty(), "{} of {packets} packets under more than one id, such as\n{shown}", verdict.failures.len());
        assert_eq!(self.ids.altered(), Vec::<String>::new(), "the same id means the same packets in the same shape");
    }
}

/// The seed of a run: a given one, or another each time.
fn seed() -> u64 {
    let given = std::env::var("CHAOS_SEED").ok();
    given.map_or_else(|| fastrand::u64(..1 << 32), |seed| seed.parse().expect("CHAOS_SEED is a number"))
}
