//! Stop strings in streamed text: nothing of one is shown, and nothing else is withheld for long.

/// Finds the first stop string in a stream of pieces.
#[derive(Debug, Default)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// What to do with a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filtered {
    /// Show this.
    Text(String),
    /// Show this, then end: the stop string came.
    Stop { text: String, stop: String },
}

impl StopFilter {
    pub(crate) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    /// Takes a piece and gives what may be shown.
    pub(crate) fn push(&mut self, piece: &str) -> Filtered {
        self.held.push_str(piece);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at, stop)))
            .min_by_key(|(at, stop)| (*at, std::cmp::Reverse(stop.len())));
        if let Some((at, stop)) = first {
            let stop = stop.clone();
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return Filtered::Stop { text, stop };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Filtered::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What is still withheld at the end.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that are a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .skip(1)
        .filter(|&at| text.ends_with(&stop[..at]))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let stops: Vec<_> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut filter = StopFilter::new(&stops);
        let mut shown = String::new();
        for piece in pieces {
            match filter.push(piece) {
                Filtered::Text(text) => shown.push_str(&text),
                Filtered::Stop { text, stop } => return (shown + &text, Some(stop)),
            }
        }
        (shown + &filter.finish(), None)
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown() {
        let (text, stop) = stream(&["###", "END"], &["one #", "#", "# two"]);
        assert_eq!((text.as_str(), stop.as_deref()), ("one ", Some("###")));
        let (text, stop) = stream(&["END"], &["E", "N", "T", "E"]);
        assert_eq!((text.as_str(), stop), ("ENTE", None));
    }

    #[test]
    fn only_what_may_still_be_a_stop_is_withheld() {
        let mut filter = StopFilter::new(&["éa".to_owned(), String::new()]);
        assert_eq!(filter.push("xé"), Filtered::Text("x".to_owned()));
        assert_eq!(filter.push("b"), Filtered::Text("éb".to_owned()));
    }
}
