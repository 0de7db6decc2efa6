//! Memory and transfers of the null device.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metallic::device::{Device, DeviceId, MemoryStats};
use metallic::tensor::{Buffer, HostBytes};
use metallic::{Error, Result};

use super::buffer::NullBuffer;

/// The only null device.
pub const NULL: DeviceId = DeviceId { kind: "null", index: 0 };

/// Host memory that calls itself a device.
#[derive(Debug)]
pub struct NullDevice {
    limit: usize,
    in_use: Arc<AtomicUsize>,
    peak: AtomicUsize,
}

impl NullDevice {
    /// A device with `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, in_use: Arc::default(), peak: AtomicUsize::new(0) }
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let fits = |in_use: usize| in_use.checked_add(bytes).filter(|total| *total <= self.limit);
        self.in_use
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits)
            .map_err(|_| Error::OutOfMemory { device: NULL, bytes })?;
        self.peak.fetch_max(self.in_use.load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(())
    }
}

fn outside(what: &'static str, offset: usize, bytes: usize, size: usize) -> Error {
    let reason = format!("{bytes} bytes at {offset} lie outside of {size} bytes");
    Error::Device { device: NULL, what, reason }
}

impl Device for NullDevice {
    fn id(&self) -> DeviceId {
        NULL
    }

    fn description(&self) -> String {
        "no hardware; every result comes from the reference".to_owned()
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.take(bytes)?;
        // "Unspecified contents" are NaN here, in every float type.
        let buffer = NullBuffer::new(vec![0xff; bytes], false, Arc::clone(&self.in_use));
        Ok(Arc::new(buffer))
    }

    fn import(&self, bytes: HostBytes) -> Result<Arc<dyn Buffer>> {
        self.take(bytes.len())?;
        Ok(Arc::new(NullBuffer::new(bytes.to_vec(), true, Arc::clone(&self.in_use))))
    }

    fn write(&self, buffer: &dyn Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let buffer = NullBuffer::of(buffer);
        if buffer.read_only {
            let reason = "the buffer is read-only".to_owned();
            return Err(Error::Device { device: NULL, what: "write", reason });
        }
        let mut held = buffer.lock();
        let size = held.len();
        offset
            .checked_add(bytes.len())
            .and_then(|end| held.get_mut(offset..end))
            .ok_or_else(|| outside("write", offset, bytes.len(), size))?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, buffer: &dyn Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let held = NullBuffer::of(buffer).lock();
        let source = offset
            .checked_add(bytes.len())
            .and_then(|end| held.get(offset..end))
            .ok_or_else(|| outside("read", offset, bytes.len(), held.len()))?;
        bytes.copy_from_slice(source);
        Ok(())
    }

    fn zero(&self, buffer: &dyn Buffer) -> Result<()> {
        let bytes = buffer.bytes();
        self.write(buffer, 0, &vec![0; bytes])
    }

    fn memory(&self) -> MemoryStats {
        MemoryStats {
            in_use: self.in_use.load(Ordering::SeqCst),
            peak: self.peak.load(Ordering::SeqCst),
            pooled: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_bounded_and_returned() {
        let device = NullDevice::new(100);
        let first = device.allocate(60).unwrap();
        assert!(matches!(device.allocate(41), Err(Error::OutOfMemory { bytes: 41, .. })));
        drop(first);
        let second = device.import(HostBytes::new(vec![7; 100])).unwrap();
        assert!(device.write(&*second, 0, &[1]).is_err(), "imported bytes are read-only");
        let mut last = [0];
        device.read(&*second, 99, &mut last).unwrap();
        assert_eq!(last, [7]);
        assert!(device.read(&*second, 100, &mut last).is_err());
        assert!(device.read(&*second, usize::MAX, &mut last).is_err());
        assert_eq!(device.memory(), MemoryStats { in_use: 100, peak: 100, pooled: 0 });
    }
}
