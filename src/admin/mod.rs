//! What an operator can ask over HTTP: metrics, health, readiness, status.
