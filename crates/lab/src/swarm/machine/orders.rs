//! What the agent of a simulated machine does with orders: it looks at its disk before it obeys, and opens its seed with its own key.

use std::time::Duration;

use agent_protocol::{
    guest::GuestConfig,
    inventory::FirmwareMode,
    order::{FaultReason, Order, OrderKind, Outcome, RebootTarget},
    seed::{SealedSeed, open},
    session::SessionResponse,
};
use ed25519_dalek::SigningKey;

use super::{Action, Fact, GUEST_CONFIG, Machine, PROGRESS_REPORTS, System, Then, Work};
use crate::swarm::faults::Point;

impl Machine {
    pub(super) fn opened(&mut self, opened: SessionResponse) -> Action {
        self.facts.push(Fact::Session {
            discovery: opened.discovery,
        });
        if let Some(agent) = &mut self.agent {
            agent.session = opened.session;
        }
        if let Some(system) = &mut self.system {
            system.left = None;
        }
        self.ask(Point::Order)
    }

    pub(super) fn told(&mut self, order: Order, seed: Option<&SealedSeed>) -> Action {
        match order.kind {
            // The server holds a poll as long as there is nothing to do; one that it answers early is asked again soon, not at once.
            OrderKind::Wait => self.wait(Duration::from_millis(100), Then::Ask(Point::Order)),
            OrderKind::Reboot => {
                let straight = order.reboot == Some(RebootTarget::Disk)
                    && self.body.firmware == FirmwareMode::UEFI
                    && self.agent.as_ref().is_some_and(|a| a.fresh_system);
                if straight { self.boot_next_disk() } else { self.power_on() }
            }
            OrderKind::PowerOff => {
                self.forget_ram();
                self.then = Then::PowerOn;
                Action::Off
            }
            OrderKind::Erase | OrderKind::Image => self.destructive(order, seed),
        }
    }

    pub(super) fn destructive(&mut self, order: Order, seed: Option<&SealedSeed>) -> Action {
        let refused = self.body.refuses(&order);
        let seeded = order.image.as_ref().is_some_and(|i| i.config_drive);
        let result = refused.map(|reason| self.body.unsuccessful(&order, Outcome::Refused, reason));
        if let Some(reason) = refused {
            self.facts.push(Fact::Refused {
                order: order.id.clone(),
                reason,
            });
        }
        let Some(agent) = &mut self.agent else { return self.power_on() };
        agent.after.clone_from(&order.id);
        agent.work = Some(Work { order, reports: 0, result });
        if refused.is_some() {
            self.ask(Point::Result)
        } else if let Some(sealed) = seed {
            self.unseal(sealed)
        } else if seeded {
            self.ask(Point::Seed)
        } else {
            self.system = None;
            self.begin()
        }
    }

    pub(super) fn unseal(&mut self, sealed: &SealedSeed) -> Action {
        let Some((agent, work)) = self.agent.as_ref().and_then(|a| Some((a, a.work.as_ref()?))) else {
            return self.power_on();
        };
        let claim = work.order.claim.as_ref().map(|c| c.uid.as_str()).unwrap_or_default();
        let mut wrong = None;
        if sealed.order_id != work.order.id || sealed.instance_uid != claim {
            wrong = Some("the seed belongs to another order".to_owned());
        }
        let config = match open(sealed, &agent.sealing) {
            Ok(seed) => seed.files.get(GUEST_CONFIG).map(|text| serde_json::from_str::<GuestConfig>(text)),
            Err(error) => {
                wrong = Some(format!("the seed does not open: {error}"));
                None
            }
        };
        let config = match config {
            Some(Ok(config)) if config.instance_uid == claim => Some(config),
            Some(Ok(_)) => {
                wrong = Some("the guest configuration names another instance".to_owned());
                None
            }
            Some(Err(error)) => {
                wrong = Some(format!("the guest configuration cannot be read: {error}"));
                None
            }
            None => None,
        };
        if let Some(what) = wrong {
            self.facts.push(Fact::Wrong { what });
            return self.wait(self.timing.person, Then::PowerOn);
        }
        self.system = config.map(|config| System {
            config,
            key: SigningKey::from_bytes(&self.random.bytes()),
            left: None,
        });
        self.begin()
    }

    pub(super) fn begin(&mut self) -> Action {
        let Some(work) = self.agent.as_ref().and_then(|a| a.work.as_ref()) else {
            return self.power_on();
        };
        self.facts.push(Fact::Begun {
            order: work.order.id.clone(),
            kind: work.order.kind,
            claim: work.order.claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default(),
            state: self.body.contents.state,
            held: self.body.installed_instance().unwrap_or_default().to_owned(),
            packed: work.order.image.as_ref().and_then(|i| i.packed.clone()),
        });
        self.body.begin(&work.order);
        self.wait(self.timing.disk / PROGRESS_REPORTS, Then::Work)
    }

    pub(super) fn work(&mut self) -> Action {
        let Some(work) = self.agent.as_mut().and_then(|a| a.work.as_mut()) else {
            return self.power_on();
        };
        work.reports += 1;
        if work.reports < PROGRESS_REPORTS {
            return self.ask(Point::Progress);
        }
        self.body.finish(&work.order);
        work.result = Some(self.body.succeeded(&work.order));
        let image = work.order.kind == OrderKind::Image;
        if let Some(agent) = &mut self.agent {
            agent.fresh_system = image && self.system.is_some();
        }
        self.ask(Point::Result)
    }

    /// The order in work fails: the disk is left half written.
    pub(super) fn fail(&mut self, reason: FaultReason) {
        if let Some(work) = self.agent.as_mut().and_then(|a| a.work.as_mut())
            && work.result.as_ref().is_some_and(|r| r.outcome == Outcome::Succeeded)
        {
            self.body.begin(&work.order);
            work.result = Some(self.body.unsuccessful(&work.order, Outcome::Failed, reason));
            if let Some(agent) = &mut self.agent {
                agent.fresh_system = false;
            }
        }
    }
}
