//! A plan's feeds by their places, with this device's errors.

use metallic::graph::Feed;
use metallic::tensor::Tensor;
use metallic::{Error, Result};

use crate::cpu::CPU;
use crate::sdpa_graph;

pub(super) use crate::sdpa_graph::{optional_place, place};

pub(super) fn tensor(feeds: &[Feed], place: usize) -> Result<&Tensor> {
    sdpa_graph::tensor(feeds, place).map_err(|reason| device_error("run", reason))
}

pub(super) fn optional_tensor(feeds: &[Feed], place: Option<usize>) -> Result<Option<&Tensor>> {
    place.map(|place| tensor(feeds, place)).transpose()
}

pub(super) fn scalar(feeds: &[Feed], place: usize) -> Result<i64> {
    sdpa_graph::scalar(feeds, place).map_err(|reason| device_error("run", reason))
}

pub(super) fn device_error(what: &'static str, reason: String) -> Error {
    Error::Device { device: CPU, what, reason }
}
