//! Upstream services: endpoints, balancing, health, breakers, retries.
