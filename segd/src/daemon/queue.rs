//! What waits for the daemon's loop.
//!
//! INVARIANT: whatever else waits, the look at the health, which also tells the watchdog that the loop lives, and the end come first.

use tokio::sync::mpsc;

use super::Event;

/// Room for events of either kind.
const URGENT: usize = 16;
const OTHERS: usize = 256;

/// Where events are put.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    urgent: mpsc::Sender<Event>,
    others: mpsc::Sender<Event>,
}

/// Where the loop takes them.
#[derive(Debug)]
pub(super) struct Queue {
    urgent: mpsc::Receiver<Event>,
    others: mpsc::Receiver<Event>,
}

/// The loop has ended: nobody takes events any more.
#[derive(Debug)]
pub(super) struct Ended;

/// An empty queue.
pub(super) fn queue() -> (Sender, Queue) {
    let (send_urgent, urgent) = mpsc::channel(URGENT);
    let (send_others, others) = mpsc::channel(OTHERS);
    let sender = Sender {
        urgent: send_urgent,
        others: send_others,
    };
    (sender, Queue { urgent, others })
}

impl Sender {
    /// Puts an event into the queue as soon as there is room.
    ///
    /// # Errors
    ///
    /// The loop has ended.
    pub async fn send(&self, event: Event) -> Result<(), Ended> {
        self.way(&event).send(event).await.map_err(|_| Ended)
    }

    /// As [`Sender::send`], for a thread of one's own.
    ///
    /// # Errors
    ///
    /// The loop has ended.
    pub fn blocking_send(&self, event: Event) -> Result<(), Ended> {
        self.way(&event).blocking_send(event).map_err(|_| Ended)
    }

    /// Puts an event into the queue if there is room. Tells whether it did.
    pub fn offer(&self, event: Event) -> bool {
        self.way(&event).try_send(event).is_ok()
    }

    fn way(&self, event: &Event) -> &mpsc::Sender<Event> {
        match event {
            Event::Tick | Event::Stop => &self.urgent,
            _ => &self.others,
        }
    }
}

impl Queue {
    /// The next event. Nothing is lost if it is not waited for to the end.
    pub async fn next(&mut self) -> Event {
        let event = tokio::select! {
            biased;
            event = self.urgent.recv() => event,
            event = self.others.recv() => event,
        };
        // Nobody is left who could ask for anything.
        event.unwrap_or(Event::Stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_and_the_health_wait_for_nobody() {
        let (send, mut queue) = queue();
        while send.offer(Event::PolicyMoved) {}
        assert!(send.offer(Event::Tick), "others keep no place of theirs");
        send.send(Event::Stop).await.expect("the queue is there");
        assert!(matches!(queue.next().await, Event::Tick));
        assert!(matches!(queue.next().await, Event::Stop));
        assert!(matches!(queue.next().await, Event::PolicyMoved));
    }
}
