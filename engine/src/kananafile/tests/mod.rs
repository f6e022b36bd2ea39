//! Tests of the whole way from text to graph.

mod expansion;
mod problems;
mod reading;
