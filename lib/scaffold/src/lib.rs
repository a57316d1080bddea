//! What every process has: config, telemetry, tasks, drain, admin port.
