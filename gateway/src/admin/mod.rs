//! The admin endpoint: metrics, health, configuration.
