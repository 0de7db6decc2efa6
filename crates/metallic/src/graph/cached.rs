//! Glue: a graph kernel and an executor as one kernel, through the executable cache.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use foldhash::HashMap;
use metallic_instrumentation::MetricEvent;

use super::executor::{GraphExecutor, LengthPolicy};
use super::kernel::GraphKernel;
use crate::cache::GraphKey;
use crate::dispatch::{ExecCx, KernelInvocable, Support};
use crate::error::Result;
use crate::op::{Op, OpSpec};

/// Builds once, compiles once, replays with new lengths and buffers.
pub struct Cached<O: Op, G> {
    kernel: G,
    executor: Arc<dyn GraphExecutor>,
    build: Arc<str>,
    /// What was answered to a spec before: building the graph to ask again would cost as much as
    /// a small kernel.
    answers: Mutex<HashMap<O::Spec, Support>>,
}

/// Answers remembered; beyond this they are forgotten together.
const MAX_ANSWERS: usize = 256;

impl<O: Op, G: GraphKernel<O>> Cached<O, G> {
    /// `kernel` compiled and run by `executor`.
    pub fn new(kernel: G, executor: Arc<dyn GraphExecutor>) -> Self {
        let build = Arc::from(executor.build_id());
        Self { kernel, executor, build, answers: Mutex::default() }
    }

    fn keyed<'s>(&self, spec: &'s O::Spec) -> Cow<'s, O::Spec> {
        match self.executor.lengths() {
            LengthPolicy::Dynamic => Cow::Owned(spec.without_lengths()),
            LengthPolicy::Bucketed => Cow::Borrowed(spec),
        }
    }
}

impl<O: Op, G: GraphKernel<O>> KernelInvocable<O> for Cached<O, G> {
    fn supports(&self, spec: &O::Spec) -> Support {
        let spec = self.keyed(spec);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.get(&*spec) {
            return answer.clone();
        }
        let answer = match self.kernel.supports(&spec) {
            Support::Yes => self.executor.supports(&self.kernel.build(&spec)),
            no => no,
        };
        if answers.len() >= MAX_ANSWERS {
            answers.clear();
        }
        answers.insert(spec.into_owned(), answer.clone());
        answer
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &O::Spec, args: &O::Args) -> Result<()> {
        let spec = Arc::new(self.keyed(spec).into_owned());
        let key = GraphKey::new::<O>(cx.device.id(), Arc::clone(&self.build), Arc::clone(&spec));
        let executable = cx.cache.executables.get_or_compile(key, cx.recorder, || {
            self.executor.compile(&self.kernel.build(&spec))
        })?;
        let start = cx.recorder.is_enabled().then(Instant::now);
        self.executor.run(&*executable, &self.kernel.feeds(args), self.kernel.output(args))?;
        if let Some(start) = start {
            let duration_us = start.elapsed().as_micros() as u64;
            cx.recorder.record(|| MetricEvent::InternalKernelCompleted {
                parent_op: O::ID.to_owned(),
                internal_kernel: format!("{}_encode", O::ID),
                duration_us,
            });
        }
        Ok(())
    }
}

impl<O: Op, G: GraphKernel<O>> fmt::Debug for Cached<O, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("op", &O::ID).field("build", &self.build).finish()
    }
}
