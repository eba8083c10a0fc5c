//! The agent from outside: one program, because linking it takes longer than running it.

mod guest;
mod session;
mod sharing;
mod support;
