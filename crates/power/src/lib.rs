//! Ways to switch a machine on and off
