//! IPMI against real peers (OpenIPMI's `ipmi_sim`, `ipmitool`), a bad network, and a BMC of the tests' own for what no peer does.

mod bmc;
mod codes;
mod peer;
mod pure;
mod relay;
mod sim;
