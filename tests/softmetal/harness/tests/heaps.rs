//! Small private buffers: from heaps, in their own place, and from the device where there is no heap. The
//! switchboard is one for the process, so these tests run one at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metallic::device::Device;
use metallic::tensor::Buffer;
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::Recorder;
use softmetal_objc::{control, counts};

/// Takes turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device() -> MetalDevice {
    MetalDevice::new(MetalOptions::default(), Recorder::disabled()).unwrap()
}

/// Heaps, buffers in them, and all other allocations that `work` makes.
fn made<R>(work: impl FnOnce() -> R) -> (R, [u64; 3]) {
    let now = || ["heaps", "heap_buffers", "buffers"].map(|name| control().counter(name));
    let before = now();
    let result = work();
    let [heaps, cut, buffers] = std::array::from_fn(|i| now()[i] - before[i]);
    // The memory of a heap is a buffer of the stand-in.
    (result, [heaps, cut, buffers - heaps])
}

fn live_heaps() -> usize {
    counts()["SoftMTLHeap"].live
}

#[test]
fn small_private_buffers_are_cut_from_a_heap() {
    let _turn = alone();
    let device = device();
    for bytes in [1, 256, 3000, 12_000] {
        let (_, [_, cut, alone]) = made(|| device.allocate(bytes).unwrap());
        assert_eq!((cut, alone), (1, 0), "{bytes} bytes");
    }
    let (_, large) = made(|| device.allocate(20_000).unwrap());
    let (_, shared) = made(|| device.allocate_shared(100).unwrap());
    assert_eq!([large, shared], [[0, 0, 1]; 2]);
    assert_eq!(live_heaps(), 1);
}

#[test]
fn many_lie_apart_in_as_many_heaps_as_it_takes() {
    let _turn = alone();
    let device = device();
    let bytes = |index: usize| vec![index as u8; 5000];
    let (held, [heaps, cut, alone]) = made(|| {
        let allocate = |_| device.allocate(5000).unwrap();
        (0..500).map(allocate).collect::<Vec<Arc<dyn Buffer>>>()
    });
    assert!((3..6).contains(&heaps) && (cut, alone) == (500, 0), "{heaps} {cut} {alone}");
    for (index, buffer) in held.iter().enumerate() {
        device.write(&**buffer, 0, &bytes(index)).unwrap();
    }
    for (index, buffer) in held.iter().enumerate() {
        let mut read = vec![0; 5000];
        device.read(&**buffer, 0, &mut read).unwrap();
        assert!(read == bytes(index), "buffer {index}");
    }
}

#[test]
fn without_a_heap_the_device_gives_them() {
    let _turn = alone();
    let device = device();
    control().fail_allocation(1);
    let (buffer, made) = made(|| device.allocate(1000).unwrap());
    assert_eq!(made, [0, 0, 1]);
    device.write(&*buffer, 0, &[7; 1000]).unwrap();
    let mut read = [0; 1000];
    device.read(&*buffer, 0, &mut read).unwrap();
    assert_eq!(read, [7; 1000]);
}

#[test]
fn heaps_of_which_nothing_is_used_are_given_back_when_memory_is_short() {
    let _turn = alone();
    let device = device();
    let kept = device.allocate(100).unwrap();
    let many: Vec<_> = (0..500).map(|_| device.allocate(5000).unwrap()).collect();
    drop(many);
    assert!(live_heaps() > 2 && device.memory().pooled > 500 * 5000);
    control().fail_allocation(1);
    let large = device.allocate(1 << 20).unwrap();
    assert_eq!((live_heaps(), device.memory().pooled), (1, 0));
    drop((kept, large, device));
    assert_eq!(live_heaps(), 0);
}
