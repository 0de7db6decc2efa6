//! MPSGraph: building, compiling, encoding, packages, refusals.

use std::ptr::NonNull;

use objc2::rc::{Allocated, Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, msg_send, sel};
use objc2_foundation::{NSArray, NSDictionary, NSNumber, NSString, NSURL};
use objc2_metal::{
    MTLBuffer, MTLCommandBuffer, MTLCommandQueue, MTLCreateSystemDefaultDevice, MTLDevice,
    MTLResourceOptions,
};
use objc2_metal_performance_shaders::{
    MPSCommandBuffer, MPSDataType, MPSNDArray, MPSNDArrayDescriptor, MPSShape,
};
use objc2_metal_performance_shaders_graph::{
    MPSGraph, MPSGraphCompilationDescriptor, MPSGraphExecutable, MPSGraphOptimization,
    MPSGraphShapedType, MPSGraphTensor, MPSGraphTensorData,
};

use crate::aborts::aborts;

type Device = Retained<ProtocolObject<dyn MTLDevice>>;
type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;
type Tensor = Retained<MPSGraphTensor>;

const F32: MPSDataType = MPSDataType::Float32;
const F16: MPSDataType = MPSDataType::Float16;

fn device() -> Device {
    MTLCreateSystemDefaultDevice().unwrap()
}

fn shape(dims: &[isize]) -> Retained<MPSShape> {
    NSArray::from_retained_slice(&dims.iter().map(|n| NSNumber::new_isize(*n)).collect::<Vec<_>>())
}

fn dims(shape: &MPSShape) -> Vec<isize> {
    shape.iter().map(|n| n.as_isize()).collect()
}

/// A buffer that holds `values` behind `skip` floats of something else.
fn floats(device: &Device, skip: usize, values: &[f32]) -> Buffer {
    let mut all = vec![99.0f32; skip];
    all.extend(values);
    all.extend([99.0; 8]);
    let bytes = all.len() * 4;
    let from = NonNull::new(all.as_mut_ptr()).unwrap().cast();
    unsafe {
        device.newBufferWithBytes_length_options(from, bytes, MTLResourceOptions::StorageModeShared)
    }
    .unwrap()
}

fn read(buffer: &Buffer, skip: usize, count: usize) -> Vec<f32> {
    unsafe { std::slice::from_raw_parts(buffer.contents().cast::<f32>().as_ptr().add(skip), count) }
        .to_vec()
}

fn at(buffer: &Buffer, offset: usize, dims: &[isize]) -> Retained<MPSGraphTensorData> {
    unsafe {
        let descriptor = MPSNDArrayDescriptor::descriptorWithDataType_shape(F32, &shape(dims));
        descriptor.setPreferPackedRows(true);
        let array = MPSNDArray::initWithBuffer_offset_descriptor(
            MPSNDArray::alloc(),
            buffer,
            offset,
            &descriptor,
        );
        MPSGraphTensorData::initWithMPSNDArray(MPSGraphTensorData::alloc(), &array)
    }
}

fn placeholder(graph: &MPSGraph, dims: &[isize], dtype: MPSDataType) -> Tensor {
    unsafe { graph.placeholderWithShape_dataType_name(Some(&shape(dims)), dtype, None) }
}

fn compile(
    graph: &MPSGraph,
    feeds: &[(&Tensor, &[isize])],
    target: &Tensor,
) -> Retained<MPSGraphExecutable> {
    unsafe {
        let descriptor = MPSGraphCompilationDescriptor::new();
        descriptor.setOptimizationLevel(MPSGraphOptimization::Level0);
        descriptor.setWaitForCompilationCompletion(true);
        let keys: Vec<&MPSGraphTensor> = feeds.iter().map(|(tensor, _)| &***tensor).collect();
        let types: Vec<_> = feeds
            .iter()
            .map(|(tensor, dims)| {
                let shape = shape(dims);
                MPSGraphShapedType::initWithShape_dataType(
                    MPSGraphShapedType::alloc(),
                    Some(&shape),
                    tensor.dataType(),
                )
            })
            .collect();
        let feeds = NSDictionary::from_retained_objects(&keys, &types);
        let targets = NSArray::from_slice(&[&**target]);
        graph.compileWithDevice_feeds_targetTensors_targetOperations_compilationDescriptor(
            None,
            &feeds,
            &targets,
            None,
            Some(&descriptor),
        )
    }
}

/// Encodes and waits; whether the root command buffer changed.
fn run(
    device: &Device,
    executable: &MPSGraphExecutable,
    inputs: &[Retained<MPSGraphTensorData>],
    result: &Retained<MPSGraphTensorData>,
) -> bool {
    let queue = device.newCommandQueue().unwrap();
    autoreleasepool(|_| unsafe {
        let first = queue.commandBuffer().unwrap();
        let commands = MPSCommandBuffer::commandBufferWithCommandBuffer(&first);
        let inputs = NSArray::from_retained_slice(inputs);
        let results = NSArray::from_slice(&[&**result]);
        executable.encodeToCommandBuffer_inputsArray_resultsArray_executionDescriptor(
            &commands,
            &inputs,
            Some(&results),
            None,
        );
        let root = commands.rootCommandBuffer();
        root.commit();
        root.waitUntilCompleted();
        !std::ptr::eq(Retained::as_ptr(&root).cast::<u8>(), Retained::as_ptr(&first).cast())
    })
}

#[test]
fn feeds_offsets_and_the_new_root() {
    let device = device();
    unsafe {
        let graph = MPSGraph::new();
        let (a, b) = (placeholder(&graph, &[-1, 2], F32), placeholder(&graph, &[-1, 2], F32));
        let out = graph.subtractionWithPrimaryTensor_secondaryTensor_name(&a, &b, None);
        assert_eq!(dims(&out.shape().unwrap()), [-1, 2]);
        let executable = compile(&graph, &[(&a, &[-1, 2]), (&b, &[-1, 2])], &out);
        let order: Vec<Tensor> = executable.feedTensors().unwrap().iter().collect();
        assert!(
            std::ptr::eq(&*order[0], &*b) && std::ptr::eq(&*order[1], &*a),
            "feeds come reversed"
        );
        let (x, y) = (
            floats(&device, 3, &[1.0, 2.0, 3.0, 4.0]),
            floats(&device, 1, &[10.0, 20.0, 30.0, 40.0]),
        );
        let z = floats(&device, 2, &[0.0; 4]);
        let data = [at(&y, 4, &[2, 2]), at(&x, 12, &[2, 2])];
        assert!(
            run(&device, &executable, &data, &at(&z, 8, &[2, 2])),
            "the root buffer is another one"
        );
        assert_eq!(read(&z, 2, 4), [-9.0, -18.0, -27.0, -36.0]);
        assert_eq!((read(&z, 1, 1), read(&z, 6, 1)), (vec![99.0], vec![99.0]));
    }
}

#[test]
fn attention_equals_plain_loops() {
    let device = device();
    let (heads, rows, keys, width) = (2usize, 3usize, 5usize, 4usize);
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 11.0 - 1.0).collect()
    };
    let (q, k, v) = (
        numbers(heads * rows * width, 1),
        numbers(heads * keys * width, 2),
        numbers(heads * keys * width, 3),
    );
    let mut mask = vec![0.0f32; rows * keys];
    mask[keys + 4] = f32::NEG_INFINITY;
    mask[2 * keys..].fill(f32::NEG_INFINITY);
    let out = floats(&device, 0, &vec![0.0; heads * rows * width]);
    unsafe {
        let graph = MPSGraph::new();
        let (qs, ks) = (
            [1, heads as isize, rows as isize, width as isize],
            [1, heads as isize, keys as isize, width as isize],
        );
        let ms = [1, 1, rows as isize, keys as isize];
        let [qt, kt, vt, mt] = [qs, ks, ks, ms].map(|dims| placeholder(&graph, &dims, F32));
        let result = graph
            .scaledDotProductAttentionWithQueryTensor_keyTensor_valueTensor_maskTensor_scale_name(
                &qt,
                &kt,
                &vt,
                Some(&mt),
                0.5,
                None,
            );
        let executable =
            compile(&graph, &[(&qt, &qs), (&kt, &ks), (&vt, &ks), (&mt, &ms)], &result);
        let buffers = [
            floats(&device, 0, &mask),
            floats(&device, 0, &v),
            floats(&device, 0, &k),
            floats(&device, 0, &q),
        ];
        let data: Vec<_> = buffers
            .iter()
            .zip([ms, ks, ks, qs])
            .map(|(buffer, dims)| at(buffer, 0, &dims))
            .collect();
        run(&device, &executable, &data, &at(&out, 0, &qs));
    }
    let got = read(&out, 0, heads * rows * width);
    for h in 0..heads {
        for r in 0..2 {
            let scores: Vec<f64> = (0..keys)
                .map(|j| {
                    let dot: f64 = (0..width)
                        .map(|d| {
                            f64::from(q[(h * rows + r) * width + d])
                                * f64::from(k[(h * keys + j) * width + d])
                        })
                        .sum();
                    (dot * 0.5 + f64::from(mask[r * keys + j])).exp()
                })
                .collect();
            let sum: f64 = scores.iter().sum();
            for d in 0..width {
                let want: f64 = (0..keys)
                    .map(|j| scores[j] / sum * f64::from(v[(h * keys + j) * width + d]))
                    .sum();
                let have = f64::from(got[(h * rows + r) * width + d]);
                assert!((want - have).abs() < 1e-5, "{want} {have}");
            }
        }
        assert!(got[(h * rows + 2) * width].is_nan(), "a row without keys is not defined");
    }
}

#[test]
fn a_package_loads_back_and_a_damaged_one_does_not() {
    let device = device();
    let folder =
        std::env::temp_dir().join(format!("softmetal-{}.mpsgraphpackage", std::process::id()));
    let url = NSURL::fileURLWithPath(&NSString::from_str(folder.to_str().unwrap()));
    let load = || -> Option<Retained<MPSGraphExecutable>> {
        let made: Allocated<MPSGraphExecutable> = MPSGraphExecutable::alloc();
        unsafe {
            let none = std::ptr::null::<MPSGraphCompilationDescriptor>();
            msg_send![made, initWithMPSGraphPackageAtURL: &*url, compilationDescriptor: none]
        }
    };
    unsafe {
        let graph = MPSGraph::new();
        let a = placeholder(&graph, &[2, 2], F32);
        let out = graph.squareWithTensor_name(&a, None);
        compile(&graph, &[(&a, &[2, 2])], &out)
            .serializeToMPSGraphPackageAtURL_descriptor(&url, None);
        let loaded = load().unwrap();
        assert!(loaded.feedTensors().is_none());
        let (x, z) = (floats(&device, 0, &[1.0, 2.0, 3.0, 4.0]), floats(&device, 0, &[0.0; 4]));
        run(&device, &loaded, &[at(&x, 0, &[2, 2])], &at(&z, 0, &[2, 2]));
        assert_eq!(read(&z, 0, 4), [1.0, 4.0, 9.0, 16.0]);
        let file = folder.join("program.json");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(load().is_none());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn strided_views() {
    let device = device();
    let buffer = floats(&device, 0, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    unsafe {
        let descriptor = MPSNDArrayDescriptor::descriptorWithDataType_shape(F32, &shape(&[6]));
        descriptor.setPreferPackedRows(true);
        let flat = MPSNDArray::initWithBuffer_offset_descriptor(
            MPSNDArray::alloc(),
            &buffer,
            0,
            &descriptor,
        );
        let view = flat.arrayViewWithShape_strides(Some(&shape(&[2, 2])), &shape(&[3, 1])).unwrap();
        let mut out = [0.0f32; 4];
        view.readBytes_strideBytes(NonNull::from(&mut out).cast(), std::ptr::null_mut());
        assert_eq!(out, [0.0, 1.0, 3.0, 4.0]);
        assert!(
            flat.arrayViewWithShape_strides(Some(&shape(&[2, 2])), &shape(&[1, 3])).is_none(),
            "strides must fall"
        );
    }
}

#[test]
fn older_systems_lack_newer_methods() {
    // A process of its own, as the version is everybody's.
    aborts("it is missing", || {
        softmetal_objc::control().set_os_version((14, 0));
        let graph = unsafe { MPSGraph::new() };
        let selector =
            sel!(scaledDotProductAttentionWithQueryTensor:keyTensor:valueTensor:scale:name:);
        assert!(graph.respondsToSelector(sel!(softMaxWithTensor:axis:name:)));
        if !graph.respondsToSelector(selector) {
            eprintln!("it is missing");
            std::process::abort();
        }
    });
}

#[test]
fn mixed_types_end_the_process() {
    aborts("LLVM ERROR: Failed to infer result type(s)", || unsafe {
        let graph = MPSGraph::new();
        let (a, b) = (placeholder(&graph, &[2, 1280], F32), placeholder(&graph, &[1280], F16));
        graph.additionWithPrimaryTensor_secondaryTensor_name(&a, &b, None);
    });
}

#[test]
fn shapes_that_do_not_broadcast_are_named() {
    aborts(
        "input types 'tensor<2x3xf32>' and 'tensor<4xf32>' are not broadcast compatible",
        || unsafe {
            let graph = MPSGraph::new();
            let (a, b) = (placeholder(&graph, &[2, 3], F32), placeholder(&graph, &[4], F32));
            graph.additionWithPrimaryTensor_secondaryTensor_name(&a, &b, None);
        },
    );
}

#[test]
fn a_small_buffer_is_refused() {
    aborts("buffer is not large enough. Must be 32 bytes", || unsafe {
        let device = device();
        let small =
            device.newBufferWithLength_options(16, MTLResourceOptions::StorageModeShared).unwrap();
        MPSGraphTensorData::initWithMTLBuffer_shape_dataType(
            MPSGraphTensorData::alloc(),
            &small,
            &shape(&[2, 4]),
            F16,
        );
    });
}

#[test]
fn an_open_encoder_is_refused() {
    aborts("A command encoder is already encoding", || unsafe {
        let device = device();
        let graph = MPSGraph::new();
        let a = placeholder(&graph, &[2, 2], F32);
        let executable = compile(&graph, &[(&a, &[2, 2])], &graph.squareWithTensor_name(&a, None));
        let queue = device.newCommandQueue().unwrap();
        let commands = queue.commandBuffer().unwrap();
        let _open = commands.blitCommandEncoder();
        let wrapped = MPSCommandBuffer::commandBufferWithCommandBuffer(&commands);
        let x = floats(&device, 0, &[1.0; 4]);
        let inputs = NSArray::from_retained_slice(&[at(&x, 0, &[2, 2])]);
        executable.encodeToCommandBuffer_inputsArray_resultsArray_executionDescriptor(
            &wrapped, &inputs, None, None,
        );
    });
}

#[test]
fn a_wrong_input_shape_is_named() {
    aborts("input 0 is tensor<3x2xf32>, its feed tensor is tensor<2x2xf32>", || unsafe {
        let device = device();
        let graph = MPSGraph::new();
        let a = placeholder(&graph, &[2, 2], F32);
        let executable = compile(&graph, &[(&a, &[2, 2])], &graph.squareWithTensor_name(&a, None));
        let x = floats(&device, 0, &[1.0; 6]);
        run(&device, &executable, &[at(&x, 0, &[3, 2])], &at(&x, 0, &[3, 2]));
    });
}
