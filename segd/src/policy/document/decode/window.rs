//! Weekly windows of a rule, as written.

use super::Decoder;
use crate::policy::{
    diagnostic::{Code, Diagnostic},
    document::{
        WindowEntry,
        fields::WINDOW,
        tree::{Node, Value},
    },
};

/// What a window looks like.
const FORM: &str = "write `{days: [mon-fri], hours: \"08:00-18:00\", zone: Europe/Berlin}`";

impl Decoder<'_> {
    /// One window, or a list of them.
    pub(super) fn windows(&mut self, node: &Node) -> Option<Vec<WindowEntry>> {
        let items = match &node.value {
            Value::List(items) if items.is_empty() => {
                let message = "`when` is empty: the rule would never open anything";
                let help = "name a window, or take the rule out";
                self.report(Diagnostic::error(Code::InvalidWindow, node.span, message).help(help));
                return None;
            }
            Value::List(items) => items.as_slice(),
            Value::Map(_) => std::slice::from_ref(node),
            _ => {
                self.wrong_type(node, "a window or a list of windows", Some(FORM.to_owned()));
                return None;
            }
        };
        let windows: Vec<WindowEntry> = items.iter().filter_map(|item| self.window(item)).collect();
        (windows.len() == items.len()).then_some(windows)
    }

    fn window(&mut self, node: &Node) -> Option<WindowEntry> {
        let fields = self.fields(node, "a window of `when`", WINDOW)?;
        let [days, hours, zone] = ["days", "hours", "zone"].map(|name| self.required(&fields, name));
        let days = days.and_then(|node| {
            let items = self.list(node, "a list of days")?;
            if items.is_empty() {
                let message = "`days` is empty: the window never opens";
                let help = "write `[mon-sun]` for every day, or take the window out";
                self.report(Diagnostic::error(Code::InvalidWindow, node.span, message).help(help));
                return None;
            }
            let days: Vec<_> = items.iter().filter_map(|item| self.text(item, "a day")).collect();
            (days.len() == items.len()).then_some(days)
        });
        let hours = hours.and_then(|node| self.text(node, "a pair of hours"));
        let zone = zone.and_then(|node| self.text(node, "a time zone"));
        Some(WindowEntry {
            span: fields.span,
            days: days?,
            hours: hours?,
            zone: zone?,
        })
    }
}
