//! Packet headers and checksums as views over bytes.
