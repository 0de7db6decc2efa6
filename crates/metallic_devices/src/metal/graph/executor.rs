//! Runs graphs through MPSGraph: compiles on a miss, encodes into the command buffer in flight.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use metallic::dispatch::{Reason, Support};
use metallic::graph::{Dim, Executable, Feed, Graph, GraphExecutor, LengthPolicy, Node};
use metallic::tensor::{DType, Tensor};
use metallic::{Error, Result};
use metallic_instrumentation::Recorder;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::MTLDevice;

use super::super::stream::Metal;
use super::call::{Call, foreign};
use super::compile::{Compiled, Job, compile};
use super::form::{CACHE_TYPES, Form, OperandTypes, supports};
use super::infer::{Type, infer};
use super::limits::{Part, Whole, max_scores, only_sdpa, part_of, whole};
use super::lower::Target;
use super::package::Packages;
use super::platform::Platform;
use super::quirks::{Fault, has};
use super::run::Runner;
use crate::{GraphOptions, HiddenKeys};

/// What an executable is counted as: MPSGraph does not say. 10 to 50 MB a shape were measured by
/// a third party.
const NOMINAL_BYTES: usize = 16 << 20;

/// The Metal device's executor, for one form of attention.
pub(crate) struct MpsGraphExecutor {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    runner: Runner,
    platform: Platform,
    form: Form,
    options: GraphOptions,
    packages: Option<Packages>,
    recorder: Recorder,
    build_id: String,
    /// Graphs are built and compiled one at a time: nothing promises more.
    compiling: Mutex<()>,
}

impl MpsGraphExecutor {
    /// An executor on `metal`, which is the stream of `device`.
    pub(crate) fn new(
        device: Retained<ProtocolObject<dyn MTLDevice>>,
        metal: Metal,
        platform: Platform,
        form: Form,
        options: GraphOptions,
        recorder: Recorder,
    ) -> Self {
        let lengths = match options.lengths {
            LengthPolicy::Dynamic => "any length",
            LengthPolicy::Bucketed => "length classes",
        };
        let build_id = format!("{platform}, {form}, level 0, {lengths}, {}", options.terms);
        let views = has(&platform, Fault::NoViews).is_none();
        let runner = Runner::new(metal, views, recorder.clone());
        let packages = options.packages.clone().and_then(|dir| Packages::new(dir, &platform));
        let compiling = Mutex::new(());
        Self { device, runner, platform, form, options, packages, recorder, build_id, compiling }
    }

    fn target(&self) -> Target {
        Target {
            form: self.form,
            terms: self.options.terms,
            macos_15: self.platform.at_least(15),
            macos_26: self.platform.at_least(26),
            cut_long_sums: has(&self.platform, Fault::LongSums).is_some(),
        }
    }

    fn max_scores(&self) -> usize {
        max_scores(self.form, self.options.max_scores)
    }

    /// Compiles `graph`, or takes the package of an earlier run.
    fn executable(&self, graph: &Graph) -> Result<Compiled> {
        // A part's graph tells its own lengths.
        let key = format!("{}\n{graph}", self.build_id);
        let kept = self.packages.as_ref().map(|packages| (packages, key.as_str()));
        let (device, target, recorder) = (&self.device, self.target(), &self.recorder);
        compile(&Job { device, graph, target, kept, recorder })
    }

    fn supports_node(&self, graph: &Graph, types: &[Type], node: &Node) -> Support {
        let attention = match node {
            Node::Linear(linear) => {
                return self.supports_weight(types[linear.weight.index()].dtype);
            }
            Node::KvAppend(_) => {
                return match has(&self.platform, Fault::NoSliceUpdate) {
                    None => Support::Yes,
                    Some(feature) => Support::No(Reason::Missing { feature }),
                };
            }
            Node::Sdpa(attention) => attention,
            _ => return Support::Yes,
        };
        let operands = OperandTypes::of(types, attention);
        let terms = self.options.terms;
        let answer = supports(self.form, attention, operands, terms, &self.platform);
        if answer != Support::Yes {
            return answer;
        }
        match (self.options.lengths, whole(types, attention)) {
            (LengthPolicy::Dynamic, _) => self.supports_any_length(attention.mask.is_some()),
            (LengthPolicy::Bucketed, Some(lengths)) => {
                lengths.supports(self.max_scores(), only_sdpa(graph).is_some())
            }
            (LengthPolicy::Bucketed, None) => Support::Yes,
        }
    }

    /// Block formats are read in place, as strided views of their numbers and of their scales.
    fn supports_weight(&self, got: DType) -> Support {
        match got {
            DType::F32 | DType::F16 => Support::Yes,
            DType::Bf16 => Support::when(has(&self.platform, Fault::NoBf16).is_none(), || {
                Reason::Missing { feature: "bf16 before macOS 14" }
            }),
            DType::Q8_0 | DType::Q4_0 => match has(&self.platform, Fault::NoGroupedWeights) {
                None => Support::Yes,
                Some(feature) => Support::No(Reason::Missing { feature }),
            },
            got => {
                let supported = "f32, f16, bf16, q8_0 and q4_0: the numbers of other formats \
                                 cannot be read in place by MPSGraph";
                Support::No(Reason::DType { binding: "weight", got, supported })
            }
        }
    }

    fn supports_any_length(&self, has_mask: bool) -> Support {
        let missing = |feature: &'static str| Support::No(Reason::Missing { feature });
        if has_mask {
            return missing("mask tensors of unknown length");
        }
        if self.form == Form::Decomposed && self.options.terms.hidden_keys == HiddenKeys::Any {
            return missing("hidden keys that may hold NaN, of unknown length");
        }
        if self.form == Form::Decomposed && has(&self.platform, Fault::LongSums).is_some() {
            return missing("sums of unknown length on M1 and M2, where long ones are wrong");
        }
        Support::Yes
    }
}

/// A compiled graph.
pub(super) struct MpsExecutable {
    /// The graph as it was given.
    pub(super) graph: Graph,
    pub(super) work: Work,
}

/// What a run does.
pub(super) enum Work {
    /// An axis has length 0: MPSGraph is not called, since it would end the process.
    Nothing,
    /// Runs an executable.
    Whole(Compiled),
    /// Runs an executable for each part.
    Parts(Compiled, Whole, Part),
}

impl Executable for MpsExecutable {
    fn bytes(&self) -> usize {
        match self.work {
            Work::Nothing => size_of::<Self>(),
            Work::Whole(_) | Work::Parts(..) => NOMINAL_BYTES,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Whether an input of `graph` has an axis of length 0. Its class is then written as unknown.
fn is_empty(graph: &Graph, lengths: LengthPolicy) -> bool {
    lengths == LengthPolicy::Bucketed
        && graph.inputs().any(|(_, input)| input.dims.contains(&Dim::Any))
}

/// The refusal of a cache in blocks, which a graph neither reads nor writes.
fn quantised_cache(graph: &Graph) -> Option<Support> {
    let refused = |cache| {
        let Node::Input(cache) = graph.node(cache) else { return None };
        let (binding, got, supported) = (cache.name, cache.dtype, CACHE_TYPES);
        got.is_quantized().then_some(Support::No(Reason::DType { binding, got, supported }))
    };
    graph.nodes().iter().find_map(|node| match node {
        Node::KvAppend(append) => refused(append.cache),
        Node::Sdpa(attention) => refused(attention.k).or_else(|| refused(attention.v)),
        _ => None,
    })
}

impl GraphExecutor for MpsGraphExecutor {
    fn build_id(&self) -> &str {
        &self.build_id
    }

    fn lengths(&self) -> LengthPolicy {
        self.options.lengths
    }

    fn supports(&self, graph: &Graph) -> Support {
        if let Some(answer) = quantised_cache(graph) {
            return answer;
        }
        let Ok(types) = infer(graph) else {
            return Support::No(Reason::Missing { feature: "a node or type of this graph" });
        };
        if self.options.lengths == LengthPolicy::Dynamic && only_sdpa(graph).is_none() {
            return Support::No(Reason::Missing { feature: "segments of unknown length" });
        }
        let nodes = graph.nodes().iter();
        nodes
            .map(|node| self.supports_node(graph, &types, node))
            .find(|answer| *answer != Support::Yes)
            .unwrap_or(Support::Yes)
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>> {
        let types = infer(graph)?;
        if let Support::No(reason) = self.supports(graph) {
            let key = format!("graph on {}", self.platform);
            return Err(Error::Compile { key, reason: reason.to_string() });
        }
        let made = |graph: Graph, work: Work| -> Arc<dyn Executable> {
            Arc::new(MpsExecutable { graph, work })
        };
        if is_empty(graph, self.options.lengths) {
            return Ok(made(graph.clone(), Work::Nothing));
        }
        let parts = only_sdpa(graph).and_then(|node| {
            let lengths = whole(&types, node)?;
            let part = lengths.part(self.max_scores())?;
            (part != lengths.all).then(|| (part_of(graph, node, &lengths, part), lengths, part))
        });
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        let work = match parts {
            None => Work::Whole(self.executable(graph)?),
            Some((graph, lengths, part)) => Work::Parts(self.executable(&graph)?, lengths, part),
        };
        Ok(made(graph.clone(), work))
    }

    fn run(&self, executable: &dyn Executable, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let executable: &MpsExecutable = executable.as_any().downcast_ref().ok_or_else(foreign)?;
        self.runner.run(&executable.work, &Call::new(&executable.graph, feeds), out)
    }
}

impl fmt::Debug for MpsGraphExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpsGraphExecutor").field("build_id", &self.build_id).finish()
    }
}
