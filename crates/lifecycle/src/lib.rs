//! Every decision of the system as pure functions: identity, boot, state machines, orders, scheduling, addresses
