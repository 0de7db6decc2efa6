//! Which methods are missing before which macOS version. Below it they are not found, as on a Mac:
//! `respondsToSelector:` answers no and a call ends the process.
//!
//! From Apple's headers; Metal methods older than macOS 13 and graph methods older than 13 stand nowhere.

/// `(major, minor)` of a macOS version.
pub type Version = (u16, u16);

/// Class, selector prefix, first version.
const SINCE: &[(&str, &str, Version)] = &[
    ("MPSGraph", "scaledDotProductAttention", (15, 0)),
    ("MPSGraph", "reciprocalSquareRootWithTensor:", (15, 0)),
    ("MPSGraph", "dequantizeTensor:scaleTensor:dataType:name:", (15, 0)),
    ("MPSGraph", "dequantizeTensor:scaleTensor:zeroPointTensor:dataType:name:", (15, 0)),
    ("MPSGraph", "dequantizeTensor:LUTTensor:", (15, 0)),
    ("MPSGraph", "sliceUpdateDataTensor:", (15, 0)),
    ("MPSGraphExecutable", "serializeToMPSGraphPackageAtURL:", (14, 0)),
    ("MPSGraphExecutable", "initWithMPSGraphPackageAtURL:", (14, 0)),
    ("MPSGraphExecutable", "initWithCoreMLPackageAtURL:", (15, 0)),
    ("MPSGraphCompilationDescriptor", "setReducedPrecisionFastMath:", (26, 0)),
    ("MPSGraphCompilationDescriptor", "reducedPrecisionFastMath", (26, 0)),
    ("MPSGraphCompilationDescriptor", "setCallables:", (14, 1)),
    ("MPSNDArray", "initWithBuffer:offset:descriptor:", (15, 0)),
    ("MPSNDArray", "arrayViewWithShape:strides:", (15, 0)),
    ("MPSNDArray", "arrayViewWithDimensionCount:", (15, 0)),
    ("MPSNDArray", "arrayViewWithDescriptor:", (15, 0)),
    ("MPSNDArrayDescriptor", "setPreferPackedRows:", (15, 0)),
    ("MPSNDArrayDescriptor", "preferPackedRows", (15, 0)),
    ("SoftMTLDevice", "newResidencySetWithDescriptor:", (15, 0)),
    ("SoftMTLDevice", "newLogStateWithDescriptor:", (15, 0)),
    ("MTLCompileOptions", "setMathMode:", (15, 0)),
    ("MTLCompileOptions", "mathMode", (15, 0)),
    ("MTLCompileOptions", "setMathFloatingPointFunctions:", (15, 0)),
    ("MTLCompileOptions", "mathFloatingPointFunctions", (15, 0)),
    ("MTLCompileOptions", "setEnableLogging:", (15, 0)),
    ("MTLCompileOptions", "setAllowReferencingUndefinedSymbols:", (13, 3)),
    ("MTLCompileOptions", "setMaxTotalThreadsPerThreadgroup:", (13, 3)),
];

/// The first version that has this method; none when every supported one does.
pub(crate) fn since(class: &str, selector: &str) -> Option<Version> {
    SINCE
        .iter()
        .find(|(owner, prefix, _)| *owner == class && selector.starts_with(prefix))
        .map(|(_, _, version)| *version)
}
