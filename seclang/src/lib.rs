//! A SecLang engine.
