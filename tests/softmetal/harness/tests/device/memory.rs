//! Allocation, transfers, mapped files and the limits of the device.

use std::io::Write;

use metallic::device::Device;
use metallic::tensor::{DType, HostBytes};
use metallic::{Context, Error};
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::Recorder;

use crate::support::metal;

fn device() -> MetalDevice {
    MetalDevice::new(MetalOptions::default(), Recorder::disabled()).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 131 + index / 251) as u8).collect()
}

#[test]
fn what_is_written_is_read_in_private_and_shared_memory() {
    let device = device();
    // More than one staging buffer takes.
    let large = bytes((16 << 20) + 4099);
    for len in [1, 100, large.len()] {
        for buffer in [device.allocate(len).unwrap(), device.allocate_shared(len).unwrap()] {
            assert!(buffer.bytes() >= len);
            device.write(&*buffer, 0, &large[..len]).unwrap();
            let mut read = vec![0; len];
            device.read(&*buffer, 0, &mut read).unwrap();
            assert!(read == large[..len], "{len} bytes of {buffer:?}");
            let (first, part) = (len / 3, len / 2);
            device.write(&*buffer, first, &large[..part]).unwrap();
            device.read(&*buffer, 0, &mut read).unwrap();
            let mut want = large[..len].to_vec();
            want[first..first + part].copy_from_slice(&large[..part]);
            assert!(read == want, "{part} bytes at {first} of {buffer:?}");
        }
    }
}

#[test]
fn zeroing_and_copying_keep_their_place_in_the_order_of_work() {
    let device = device();
    let (from, to) = (device.allocate(1000).unwrap(), device.allocate_shared(1000).unwrap());
    device.write(&*from, 0, &bytes(1000)).unwrap();
    device.zero(&*to).unwrap();
    device.copy((&*from, 10), (&*to, 500), 100).unwrap();
    device.zero(&*from).unwrap();
    let mut read = vec![1; 1000];
    device.read(&*to, 0, &mut read).unwrap();
    assert!(read[..500].iter().chain(&read[600..]).all(|byte| *byte == 0));
    assert_eq!(read[500..600], bytes(1000)[10..110]);
    device.read(&*from, 0, &mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
}

#[test]
fn ranges_outside_a_buffer_are_errors() {
    let device = device();
    let buffer = device.allocate(100).unwrap();
    let (end, mut some) = (buffer.bytes(), [0; 2]);
    for offset in [end - 1, end, usize::MAX] {
        device.write(&*buffer, offset, &some).unwrap_err();
        device.read(&*buffer, offset, &mut some).unwrap_err();
        device.copy((&*buffer, offset), (&*buffer, 0), 2).unwrap_err();
        device.copy((&*buffer, 0), (&*buffer, offset), 2).unwrap_err();
    }
}

#[test]
fn freed_buffers_are_reused_and_counted() {
    let device = device();
    assert_eq!(device.memory(), Default::default());
    let first = device.allocate(5000).unwrap();
    let held = device.memory().in_use;
    assert!((5000..7000).contains(&held), "{held}");
    drop(first);
    let freed = device.memory();
    assert_eq!((freed.in_use, freed.peak, freed.pooled), (0, held, held));
    let _again = device.allocate(4990).unwrap();
    assert_eq!((device.memory().in_use, device.memory().pooled), (held, 0));
}

#[test]
fn too_much_is_refused_before_it_is_asked_for() {
    let device = device();
    for bytes in [usize::MAX, usize::MAX - 100, 1 << 45] {
        let error = device.allocate(bytes).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    }
}

/// A file of `len` bytes.
fn file(len: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes(len)).unwrap();
    file.flush().unwrap();
    file
}

fn sum(ctx: &Context, weights: HostBytes) -> Vec<u8> {
    let len = weights.len();
    let tensor = ctx.import(DType::Q8_0, [1, len / 34 * 32], weights).unwrap();
    ctx.download(&tensor).unwrap()
}

#[test]
fn mapped_files_are_lent_and_everything_else_is_copied() {
    let (device, file) = (device(), file(100_000));
    let mapped = device.map_file(file.path()).unwrap();
    let whole = bytes(100_000);
    // In the middle of a page, across pages, at the end of the file.
    for range in [0..34, 4096..20_000, 16..99_984, 99_984..100_000] {
        let buffer = device.import(mapped.slice(range.clone()).unwrap()).unwrap();
        let mut read = vec![0; range.len()];
        device.read(&*buffer, 0, &mut read).unwrap();
        assert!(read == whole[range.clone()], "{range:?}");
        assert!(device.imports().mapped >= range.len());
        assert_eq!(device.imports().copied, 0, "{range:?}");
        let error = device.write(&*buffer, 0, &[0]).unwrap_err();
        assert!(error.to_string().contains("read-only"), "{error}");
        drop(buffer);
        assert_eq!(device.imports().mapped, 0, "nothing is lent any more");
    }
    // A place where kernels cannot load vectors, and memory that is no file.
    for (bytes, len) in [(mapped.slice(1..35).unwrap(), 34), (HostBytes::new(bytes(50)), 50)] {
        let before = device.imports().copied;
        let buffer = device.import(bytes.clone()).unwrap();
        assert_eq!(device.imports().copied, before + len);
        let mut read = vec![0; len];
        device.read(&*buffer, 0, &mut read).unwrap();
        assert_eq!(read, *bytes);
    }
}

#[test]
fn a_lent_file_outlives_its_mapping_as_long_as_the_device_reads_it() {
    let (ctx, file) = (metal(), file(34 * 64));
    let mapped = ctx.device().map_file(file.path()).unwrap();
    assert_eq!(sum(&ctx, mapped), bytes(34 * 64));
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert!(ctx.device().map_file(empty.path()).unwrap().is_empty());
    let error = ctx.device().map_file("/nowhere".as_ref()).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
}
