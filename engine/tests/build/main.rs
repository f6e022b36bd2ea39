//! Builds with real processes: small commands, kills, damage, and several builds at once.

mod again;
mod behaviour;
mod built_in;
mod crash;
mod harm;
mod parts;
mod slice;
mod temporary;
mod why;
mod world;
