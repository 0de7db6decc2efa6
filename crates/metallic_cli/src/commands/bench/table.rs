//! The rows of `metallic bench` in llama-bench's formats.

use std::io::{self, Write};

use serde_json::Value;

use crate::args::{BenchFormat, BenchLists};

/// Prints rows as they come.
pub(super) struct Table {
    format: BenchFormat,
    extra: Extra,
    out: Box<dyn Write>,
    rows: usize,
}

/// Columns of the Markdown table that stand there only where they were asked for, as in llama-bench.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extra {
    n_ubatch: bool,
    type_k: bool,
    type_v: bool,
}

impl Extra {
    /// What `lists` say.
    pub(super) fn of(lists: &BenchLists) -> Self {
        Self {
            n_ubatch: !lists.ubatch_sizes.is_empty(),
            type_k: !lists.cache_types_k.is_empty(),
            type_v: !lists.cache_types_v.is_empty(),
        }
    }

    /// Headers of the Markdown table.
    fn columns(self) -> Vec<&'static str> {
        let mut columns = vec!["model", "size", "params", "backend", "threads"];
        columns.extend(self.keys());
        columns.extend(["device", "sdpa_backend", "test", "t/s", "cold", "warm", "of the limit"]);
        columns
    }

    /// The columns in force; they are named as the row's keys.
    fn keys(self) -> impl Iterator<Item = &'static str> {
        let all = [(self.n_ubatch, "n_ubatch"), (self.type_k, "type_k"), (self.type_v, "type_v")];
        all.into_iter().filter_map(|(shown, key)| shown.then_some(key))
    }
}

impl Table {
    pub(super) fn new(format: BenchFormat, extra: Extra, out: Box<dyn Write>) -> Self {
        Self { format, extra, out, rows: 0 }
    }

    /// Prints one row.
    pub(super) fn row(&mut self, row: &Value) -> io::Result<()> {
        let first = self.rows == 0;
        self.rows += 1;
        match self.format {
            BenchFormat::Md => self.markdown(row, first),
            BenchFormat::Csv => self.csv(row, first),
            BenchFormat::Jsonl => writeln!(self.out, "{row}"),
            BenchFormat::Json => {
                let separator = if first { "[\n" } else { ",\n" };
                write!(self.out, "{separator}{row:#}")
            }
        }?;
        self.out.flush()
    }

    /// Ends what needs an end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        match (self.format, self.rows) {
            (BenchFormat::Json, 0) => writeln!(self.out, "[]"),
            (BenchFormat::Json, _) => writeln!(self.out, "\n]"),
            _ => Ok(()),
        }?;
        self.out.flush()
    }

    fn markdown(&mut self, row: &Value, first: bool) -> io::Result<()> {
        if first {
            let columns = self.extra.columns();
            writeln!(self.out, "| {} |", columns.join(" | "))?;
            let rule = |column: &&str| match *column {
                "model" | "backend" | "device" | "sdpa_backend" => "---",
                _ => "---:",
            };
            let rules: Vec<&str> = columns.iter().map(rule).collect();
            writeln!(self.out, "| {} |", rules.join(" | "))?;
        }
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let number = |key: &str| row[key].as_f64().unwrap_or_default();
        let share = row["share_of_limit"].as_f64();
        let share = share.map_or_else(
            || "-".to_owned(),
            |share| format!("{:.0} % {}", share * 100.0, text("bound_by")),
        );
        let extra: String = self
            .extra
            .keys()
            .map(|key| match &row[key] {
                Value::String(text) => format!("{text} | "),
                other => format!("{other} | "),
            })
            .collect();
        writeln!(
            self.out,
            "| {} | {:.2} MiB | {:.2} M | {} | {} | {extra}{} | {} | {} | {:.2} ± {:.2} | {:.2} | {:.2} | {share} |",
            text("model_type"),
            number("model_size") / 1024.0 / 1024.0,
            number("model_n_params") / 1e6,
            text("backends"),
            row["n_threads"],
            text("device"),
            text("sdpa_backend"),
            text("test"),
            number("avg_ts"),
            number("stddev_ts"),
            number("cold_ts"),
            number("warm_ts"),
        )
    }

    fn csv(&mut self, row: &Value, first: bool) -> io::Result<()> {
        let Some(fields) = row.as_object() else { return Ok(()) };
        // Lists of samples are for JSON.
        let fields = || fields.iter().filter(|(_, value)| !value.is_array());
        if first {
            let names: Vec<&str> = fields().map(|(name, _)| name.as_str()).collect();
            writeln!(self.out, "{}", names.join(","))?;
        }
        let quoted = |value: &Value| match value {
            Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            other => format!("\"{other}\""),
        };
        let values: Vec<String> = fields().map(|(_, value)| quoted(value)).collect();
        writeln!(self.out, "{}", values.join(","))
    }
}
