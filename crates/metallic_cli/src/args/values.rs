//! Values of flags that are more than a number or a word.

use metallic::dispatch::{Backend, Policy, Segments, Share};
use metallic::tensor::DType;
use metallic_devices::Profile;
use metallic_models::transformer::MOST_STEPS;

/// `--sdpa-backend`, `--backend`.
pub(super) fn policy(text: &str) -> Result<Policy, String> {
    text.parse().map_err(|_| "accepted are auto, legacy, graph (or its alias mpsgraph)".to_owned())
}

/// `--segments`.
pub(super) fn segments(text: &str) -> Result<Segments, String> {
    text.parse().map_err(|_| "accepted are auto, on, off, step".to_owned())
}

/// `--sdpa-rollout`.
pub(super) fn share(text: &str) -> Result<Share, String> {
    text.parse().map_err(|_| "accepted is a percentage from 0 to 100, as 25 or 2.5%".to_owned())
}

/// `--require-backend`.
pub(super) fn backend(text: &str) -> Result<Backend, String> {
    text.parse().map_err(|_| "accepted are legacy, graph (or its alias mpsgraph)".to_owned())
}

/// Two backends to compare.
pub(crate) type BackendPair = [Backend; 2];

/// `--compare`.
pub(super) fn backend_pair(text: &str) -> Result<BackendPair, String> {
    let expected = || "expected two different backends, as legacy,graph".to_owned();
    let (first, second) = text.split_once(',').ok_or_else(expected)?;
    let pair = [backend(first)?, backend(second)?];
    if pair[0] == pair[1] { Err(expected()) } else { Ok(pair) }
}

/// `--profile`.
pub(super) fn profile(text: &str) -> Result<Profile, String> {
    match text {
        "throughput" => Ok(Profile::Throughput),
        "latency" => Ok(Profile::Latency),
        _ => Err("accepted are throughput, latency".to_owned()),
    }
}

/// `-ctk`, `-ctv`.
pub(super) fn cache_type(text: &str) -> Result<DType, String> {
    match text.parse() {
        Ok(dtype @ (DType::F32 | DType::F16 | DType::Bf16 | DType::Q8_0)) => Ok(dtype),
        _ => Err("accepted are f16, bf16, f32, q8_0".to_owned()),
    }
}

/// `--dtype` of `bench sdpa`.
pub(super) fn float_type(text: &str) -> Result<DType, String> {
    match text.parse() {
        Ok(dtype @ (DType::F32 | DType::F16 | DType::Bf16)) => Ok(dtype),
        _ => Err("accepted are f16, bf16, f32".to_owned()),
    }
}

/// A count that may be −1 for "no limit".
pub(super) fn count_or_all(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(count @ -1..) => Ok(count),
        _ => Err("expected a whole number from 0, or -1".to_owned()),
    }
}

/// A count of at least 1.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("expected a whole number from 1".to_owned()),
    }
}

/// `--steps-at-once`.
pub(super) fn steps_at_once(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=MOST_STEPS) => Ok(count),
        _ => Err(format!("expected a whole number from 1 to {MOST_STEPS}")),
    }
}

/// Positions are 32-bit numbers on devices; this is the most a model may declare as well.
const MAX_CONTEXT: usize = 1 << 30;

/// `--ctx-size`; 0 stands for the model's own.
pub(super) fn context(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 0..=MAX_CONTEXT) => Ok(count),
        _ => Err(format!("expected a whole number from 0 to {MAX_CONTEXT}")),
    }
}

/// A text of at least one byte: an empty one ends nothing.
pub(super) fn some_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a text".to_owned()) } else { Ok(text.to_owned()) }
}

/// A number that is one.
pub(super) fn finite(text: &str) -> Result<f32, String> {
    number(text, "expected a finite number", |_| true)
}

/// A number from 0.
pub(super) fn not_negative(text: &str) -> Result<f32, String> {
    number(text, "expected a finite number from 0", |number| number >= 0.0)
}

/// A number above 0.
pub(super) fn above_zero(text: &str) -> Result<f32, String> {
    number(text, "expected a finite number above 0", |number| number > 0.0)
}

fn number(text: &str, expected: &str, fits: fn(f32) -> bool) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| number.is_finite() && fits(*number));
    number.ok_or_else(|| expected.to_owned())
}

/// More threads than any machine has, and far fewer than a system refuses to start.
const MAX_THREADS: usize = 4096;

/// `--threads`.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=MAX_THREADS) => Ok(count),
        _ => Err(format!("expected a whole number from 1 to {MAX_THREADS}")),
    }
}

/// A token and what is added to its logit, as `15+1.5` or `15-inf`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LogitBias {
    pub(crate) token: u32,
    pub(crate) bias: f32,
}

/// `--logit-bias`.
pub(super) fn logit_bias(text: &str) -> Result<LogitBias, String> {
    let expected = || "expected ID+BIAS or ID-BIAS, as 15+1.5 or 15-inf".to_owned();
    let sign = text.find(['+', '-']).ok_or_else(expected)?;
    let (token, bias) = text.split_at(sign);
    let token = token.parse().map_err(|_| expected())?;
    let bias: f32 = bias.parse().map_err(|_| expected())?;
    // "NaN" and "+inf" make no distribution.
    if bias < f32::INFINITY { Ok(LogitBias { token, bias }) } else { Err(expected()) }
}

/// Whole numbers as llama-bench writes them: `1,4`, `128-512+128` (add), `1-8*2` (multiply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IntList(pub(crate) Vec<usize>);

/// Most values of one list, so that a slip of the hand does not fill the memory.
const MOST_VALUES: usize = 10_000;

/// `-pg`: tokens of a prompt and of the generation after it, as `512,128`.
pub(super) fn prompt_and_generation(text: &str) -> Result<(usize, usize), String> {
    let expected = || "expected two whole numbers, not both 0, as 512,128".to_owned();
    let (prompt, generation) = text.split_once(',').ok_or_else(expected)?;
    match (context(prompt), context(generation)) {
        (Ok(0), Ok(0)) => Err(expected()),
        (Ok(prompt), Ok(generation)) => Ok((prompt, generation)),
        _ => Err(expected()),
    }
}

/// An [`IntList`] of lengths, none of which is 0.
pub(super) fn positive_list(text: &str) -> Result<IntList, String> {
    let list = int_list(text)?;
    if list.0.contains(&0) { Err("expected whole numbers from 1".to_owned()) } else { Ok(list) }
}

/// An [`IntList`] of numbers of threads.
pub(super) fn thread_list(text: &str) -> Result<IntList, String> {
    let list = positive_list(text)?;
    match list.0.iter().find(|count| **count > MAX_THREADS) {
        Some(_) => Err(format!("expected whole numbers from 1 to {MAX_THREADS}")),
        None => Ok(list),
    }
}

/// A flag that takes an [`IntList`].
pub(super) fn int_list(text: &str) -> Result<IntList, String> {
    let expected = || "expected numbers, as 512 or 128,256 or 128-512+128 or 1-8*2".to_owned();
    let mut values = Vec::new();
    for part in text.split(',') {
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| expected());
        let Some((first, rest)) = part.split_once('-') else {
            values.push(number(part)?);
            continue;
        };
        let (last, step, multiply) = match rest.split_once(['+', '*']) {
            Some((last, step)) => (number(last)?, number(step)?, rest.contains('*')),
            None => (number(rest)?, 1, false),
        };
        let mut value = number(first)?;
        if value > last || step == 0 || (multiply && (step < 2 || value == 0)) {
            return Err(expected());
        }
        while value <= last && values.len() <= MOST_VALUES {
            values.push(value);
            let next = if multiply { value.checked_mul(step) } else { value.checked_add(step) };
            let Some(next) = next else { break };
            value = next;
        }
    }
    if values.len() > MOST_VALUES {
        return Err(format!("more than {MOST_VALUES} values"));
    }
    if values.iter().any(|value| *value > MAX_CONTEXT) {
        return Err(format!("expected numbers up to {MAX_CONTEXT}"));
    }
    Ok(IntList(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let list = |text| int_list(text).map(|list| list.0).unwrap_or_default();
        assert_eq!(list("512"), [512]);
        assert_eq!(list("0,8"), [0, 8]);
        assert_eq!(list("128-512+128"), [128, 256, 384, 512]);
        assert_eq!(list("1-8*2,9"), [1, 2, 4, 8, 9]);
        assert_eq!(list("2-4"), [2, 3, 4]);
        assert!(int_list("18446744073709551615").unwrap_err().contains("up to 1073741824"));
        assert!(positive_list("0,1").is_err() && thread_list("1,5000").is_err());
        assert_eq!(thread_list("1,4").unwrap().0, [1, 4]);
        assert_eq!(prompt_and_generation("16,4"), Ok((16, 4)));
        for bad in ["16", "0,0", "1,-1", "1,2,3"] {
            assert!(prompt_and_generation(bad).is_err(), "{bad}");
        }
        for bad in ["", "x", "4-2", "1-8+0", "1-8*1", "0-8*2", "0-99999999", "1,,2", "-1"] {
            assert!(int_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_in_their_ranges() {
        assert_eq!(
            (not_negative("0"), above_zero("0.5"), finite("-1")),
            (Ok(0.0), Ok(0.5), Ok(-1.0))
        );
        assert!(not_negative("-1").is_err() && above_zero("0").is_err() && finite("nan").is_err());
        assert!(some_text("").is_err());
    }

    #[test]
    fn biases() {
        assert_eq!(logit_bias("15+1.5"), Ok(LogitBias { token: 15, bias: 1.5 }));
        assert_eq!(logit_bias("7-inf"), Ok(LogitBias { token: 7, bias: f32::NEG_INFINITY }));
        for bad in ["", "15", "x+1", "15+x", "15+inf", "15+nan", "-1+2"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }
}
