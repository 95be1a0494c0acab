//! Recording a live stream into files.

pub mod naming;
