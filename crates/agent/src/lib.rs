//! PID 1 of the boot media: modules, network, session, order runner, console screen; and the guest helper
