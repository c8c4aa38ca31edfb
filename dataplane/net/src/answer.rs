//! Packets that the node sends by itself, each in answer to one that it received.
