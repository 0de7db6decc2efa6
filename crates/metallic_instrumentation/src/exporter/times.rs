//! A table of what kernels took, written once, at the end.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::Exporter;
use crate::event::{MetricEvent, Record};

/// Adds up the durations of [`MetricEvent::KernelTimed`] by op and kernel. A flush writes them as a
/// table, the largest sum first, and begins anew; nothing where no kernel was timed.
#[derive(Debug)]
pub struct TimesExporter<W: Write> {
    out: W,
    /// Calls and nanoseconds.
    sums: BTreeMap<(String, String), (u64, u64)>,
}

impl<W: Write> TimesExporter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, sums: BTreeMap::new() }
    }

    /// The table: `op kernel calls, total ms, mean µs, share of all`.
    fn table(&mut self) -> String {
        let mut rows: Vec<_> = std::mem::take(&mut self.sums).into_iter().collect();
        rows.sort_by_key(|(_, (_, ns))| std::cmp::Reverse(*ns));
        let all: u64 = rows.iter().map(|(_, (_, ns))| ns).sum();
        let width = |name: &dyn Fn(&(String, String)) -> usize, least: usize| {
            rows.iter().map(|(key, _)| name(key)).max().unwrap_or(0).max(least)
        };
        let (op, kernel) = (width(&|key| key.0.len(), 2), width(&|key| key.1.len(), 6));
        let mut table = format!(
            "{:op$}  {:kernel$}  {:>8}  {:>10}  {:>10}  {:>6}\n",
            "op", "kernel", "calls", "total ms", "mean µs", "share"
        );
        for ((name, of), (calls, ns)) in rows {
            let (ms, us) = (ns as f64 / 1e6, ns as f64 / 1e3 / calls as f64);
            let share = 100.0 * ns as f64 / all.max(1) as f64;
            table.push_str(&format!(
                "{name:op$}  {of:kernel$}  {calls:>8}  {ms:>10.3}  {us:>10.2}  {share:>5.1}%\n"
            ));
        }
        table
    }
}

impl<W: Write + Send> Exporter for TimesExporter<W> {
    fn export(&mut self, record: &Record) {
        if let MetricEvent::KernelTimed { op, kernel, duration_ns } = &record.event {
            let sum = self.sums.entry((op.clone(), kernel.clone())).or_default();
            *sum = (sum.0 + 1, sum.1 + duration_ns);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.sums.is_empty() {
            return Ok(());
        }
        let table = self.table();
        self.out.write_all(table.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_sum_comes_first_and_a_second_flush_writes_nothing() {
        let mut out = Vec::new();
        let mut exporter = TimesExporter::new(&mut out);
        exporter.flush().unwrap();
        for (op, kernel, duration_ns) in
            [("add", "add_f32", 1500), ("sdpa", "softmax", 9000), ("add", "add_f32", 1500)]
        {
            let (op, kernel) = (op.to_owned(), kernel.to_owned());
            let event = MetricEvent::KernelTimed { op, kernel, duration_ns };
            exporter.export(&Record { time_us: 0, event });
        }
        exporter.flush().unwrap();
        exporter.flush().unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[1], ["sdpa", "softmax", "1", "0.009", "9.00", "75.0%"]);
        assert_eq!(lines[2], ["add", "add_f32", "2", "0.003", "1.50", "25.0%"]);
    }
}
