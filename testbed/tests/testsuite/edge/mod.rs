//! Envoy as an edge, on a whole fleet: what the public can send, said byte by byte, and what it gets for it.

mod floods;
mod frames;
mod raw;
mod slow;
mod table;
