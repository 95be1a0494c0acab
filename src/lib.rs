//! reeld, a recording appliance: live streams in, crash-safe files out.
//!
//! Modules in the order media flows; who may import whom is in ARCHITECTURE.md and checked by `tests/layering.rs`.

pub mod media;

pub mod config;
pub mod telemetry;

pub mod gst;

pub mod ingest;

pub mod hub;

pub mod record;

pub mod library;

pub mod deliver;

pub mod control;

pub mod api;

pub mod cli;

pub mod app;
