//! Cases as data, differential and end-to-end tests (skeleton).
