//! Counting, pools, selectors, blocks.

use block2::RcBlock;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyClass, AnyObject, NSObject, NSObjectProtocol};
use objc2::{ClassType, msg_send, sel};
use objc2_foundation::{NSArray, NSNumber, NSString};
use softmetal_objc::counts;

use crate::aborts::aborts;

#[test]
fn class_names_and_lookup() {
    assert_eq!(NSString::class().name().to_str(), Ok("NSString"));
    assert!(AnyClass::get(c"NSNumber").is_some());
    assert!(AnyClass::get(c"NSNoSuchClass").is_none());
    let text = NSString::from_str("x");
    assert!(text.isKindOfClass(NSObject::class()));
    assert!(!text.isKindOfClass(NSNumber::class()));
}

#[test]
fn responds_to_what_is_there() {
    let text = NSString::from_str("x");
    assert!(text.respondsToSelector(sel!(length)));
    assert!(!text.respondsToSelector(sel!(lengthInParsecs)));
}

#[test]
fn a_pool_releases_what_was_autoreleased() {
    let number = autoreleasepool(|_| {
        let array = NSArray::from_retained_slice(&[NSNumber::new_isize(7)]);
        // `firstObject` autoreleases, the result retains.
        array.firstObject().unwrap()
    });
    let count: usize = unsafe { msg_send![&*number, retainCount] };
    assert_eq!((count, number.as_isize()), (1, 7));
}

#[test]
fn dropping_frees() {
    // No other test makes this class.
    let live = || counts()["NSURL"].live;
    let before = live();
    let path = NSString::from_str("/tmp");
    let url = autoreleasepool(|_| objc2_foundation::NSURL::fileURLWithPath(&path));
    assert_eq!(live(), before + 1);
    drop(url);
    assert_eq!(live(), before);
}

#[test]
fn blocks_are_copied_and_freed() {
    let seen = std::sync::Arc::new(());
    let kept = std::sync::Arc::clone(&seen);
    let block = RcBlock::new(move |n: usize| n + std::sync::Arc::strong_count(&kept));
    assert_eq!(block.call((40,)), 42);
    let second = block.clone();
    drop(block);
    assert_eq!(std::sync::Arc::strong_count(&seen), 2);
    drop(second);
    assert_eq!(std::sync::Arc::strong_count(&seen), 1);
}

#[test]
fn over_release_names_the_class() {
    aborts("over-release: deallocated instance", || {
        let text = Retained::into_raw(NSString::from_str("x"));
        unsafe {
            drop(Retained::from_raw(text));
            drop(Retained::from_raw(text));
        }
    });
}

#[test]
fn a_message_to_a_freed_object_names_class_and_selector() {
    aborts("length: deallocated instance", || {
        let text = NSString::from_str("x");
        let raw: *const NSString = &*text;
        drop(text);
        let _: usize = unsafe { msg_send![&*raw, length] };
    });
}

#[test]
fn an_unknown_selector_names_class_and_selector() {
    // objc2 checks messages itself in builds with debug assertions, and its panic says the same.
    let text = NSString::from_str("x");
    let result =
        std::panic::catch_unwind(|| -> usize { unsafe { msg_send![&*text, lengthInParsecs] } });
    let message = result.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("-[NSString lengthInParsecs]"), "{message}");
}

#[test]
fn a_pool_cannot_be_drained_twice() {
    unsafe extern "C-unwind" {
        fn objc_autoreleasePoolPush() -> *mut AnyObject;
        fn objc_autoreleasePoolPop(pool: *mut AnyObject);
    }
    aborts("drained twice", || unsafe {
        let pool = objc_autoreleasePoolPush();
        objc_autoreleasePoolPop(pool);
        objc_autoreleasePoolPop(pool);
    });
}
