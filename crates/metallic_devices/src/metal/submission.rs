//! Work that is handed to the GPU together, and the one encoder that may be open on it.

use metallic::{Error, Result};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandBuffer, MTLComputePassDescriptor};

use super::command_buffer::{BlitEncoder, CommandBuffer, ComputeEncoder};
use super::failure;
use super::fault::Faults;

/// The encoder that is open on a command buffer; Metal allows one.
pub(super) enum Active {
    None,
    Compute(ComputeEncoder),
    Blit(BlitEncoder),
}

impl Active {
    /// Ends the encoder.
    pub(super) fn end(&mut self) {
        *self = Active::None;
    }

    /// The open encoder of kernels, opened if need be; a new one where it is to be as `pass` says.
    pub(super) fn compute(
        &mut self,
        buffer: &CommandBuffer,
        pass: Option<&MTLComputePassDescriptor>,
    ) -> Result<&ComputeEncoder> {
        if let Some(pass) = pass {
            self.end();
            *self = Active::Compute(buffer.compute_pass(pass)?);
        } else if !matches!(self, Active::Compute(_)) {
            self.end();
            *self = Active::Compute(buffer.compute()?);
        }
        match self {
            Active::Compute(encoder) => Ok(encoder),
            _ => unreachable!("it was opened above"),
        }
    }

    /// The open encoder of copies, opened if need be.
    pub(super) fn blit(&mut self, buffer: &CommandBuffer) -> Result<&BlitEncoder> {
        if !matches!(self, Active::Blit(_)) {
            self.end();
            *self = Active::Blit(buffer.blit()?);
        }
        match self {
            Active::Blit(encoder) => Ok(encoder),
            _ => unreachable!("it was opened above"),
        }
    }
}

/// Work that is handed over together: one command buffer, or more where MPSGraph went on in
/// another.
pub(super) struct Submission {
    pub(super) sequence: u64,
    // Dropped, and so ended, before its command buffer.
    pub(super) active: Active,
    pub(super) buffer: CommandBuffer,
    /// Command buffers that MPSGraph committed before `buffer`.
    earlier: Vec<CommandBuffer>,
    pub(super) faults: Option<Faults>,
    /// The ops in it, each once.
    ops: Vec<&'static str>,
    /// The names of the latest op's kernels, each once: for events.
    pub(super) kernels: Vec<String>,
    pub(super) kernel_count: usize,
    /// The names of the kernels that take timestamps, in order.
    pub(super) timed: Vec<String>,
}

impl Submission {
    /// Submission number `sequence`, empty, in `buffer`.
    pub(super) fn new(sequence: u64, buffer: CommandBuffer) -> Self {
        Self {
            sequence,
            active: Active::None,
            buffer,
            earlier: Vec::new(),
            faults: None,
            ops: Vec::new(),
            kernels: Vec::new(),
            kernel_count: 0,
            timed: Vec::new(),
        }
    }

    /// Begins an op.
    pub(super) fn begin(&mut self, op: &'static str) {
        if !self.ops.contains(&op) {
            self.ops.push(op);
        }
        self.kernels.clear();
    }

    /// Counts a kernel.
    pub(super) fn note_kernel(&mut self, name: &str) {
        self.kernel_count += 1;
        if !self.kernels.iter().any(|known| known == name) {
            self.kernels.push(name.to_owned());
        }
    }

    /// Goes on in `next`, which MPSGraph opened if it is not the one at hand.
    pub(super) fn go_on_with(&mut self, next: Retained<ProtocolObject<dyn MTLCommandBuffer>>) {
        if !self.buffer.is(&next) {
            let done = std::mem::replace(&mut self.buffer, CommandBuffer::adopt(next));
            self.earlier.push(done);
        }
    }

    /// Hands it to the GPU.
    pub(super) fn commit(&mut self) {
        self.active.end();
        // An encode that failed half way may have committed it.
        if !self.buffer.is_committed() {
            self.buffer.commit();
        }
    }

    /// Waits for all of it, and gives its first failure.
    pub(super) fn wait(&self) -> Result<()> {
        let mut first = Ok(());
        for buffer in self.earlier.iter().chain([&self.buffer]) {
            if let Err(reason) = buffer.wait()
                && first.is_ok()
            {
                first = Err(self.failure(reason));
            }
        }
        match &self.faults {
            Some(faults) => first.and_then(|()| faults.check()),
            None => first,
        }
    }

    /// Names the op, or the ops that may have been it.
    fn failure(&self, reason: String) -> Error {
        match self.ops[..] {
            [op] => failure(op, reason),
            _ => failure("command buffer", format!("{reason}, in one of {}", self.ops.join(", "))),
        }
    }

    /// From the start of the first command buffer to the end of the last, on the GPU, in
    /// microseconds.
    pub(super) fn gpu_us(&self) -> f64 {
        let (start, _) = self.earlier.first().unwrap_or(&self.buffer).gpu_times();
        let (_, end) = self.buffer.gpu_times();
        (end - start).max(0.0) * 1e6
    }
}
