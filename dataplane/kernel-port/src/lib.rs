//! Ports that the kernel holds: packet sockets, UDP sockets, TAP.
