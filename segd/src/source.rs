//! Where a policy's text comes from (skeleton).
