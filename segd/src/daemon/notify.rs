//! What a service manager is told, if one started the daemon (`sd_notify(3)`).

use sd_notify::NotifyState;

/// It enforces.
pub fn ready(revision: u32) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(revision))]);
}

/// It enforces another revision.
pub fn changed(revision: u32) {
    tell(&[NotifyState::Status(&status(revision))]);
}

/// Its loop still turns: the watchdog may go on waiting.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn status(revision: u32) -> String {
    format!("enforcing revision {revision}")
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling the service manager: {error}");
    }
}
