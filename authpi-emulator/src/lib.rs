//! AuthPI on one's own machine: its webhooks API, event log and signed deliveries, in one process.
