//! Limits of the host's are met with NOMEM, and leave nothing behind.

#![allow(unsafe_code, reason = "limits and rights of one thread have no safe wrapper here")]

use std::fs;

use virtio_iommu::{
    passthrough::{Backend, BackendError},
    spec::IovaRange,
};

use crate::rig::{IOVA, PAGE, mapping, rig};

pub(crate) fn the_limit_of_mappings_is_met_with_no_memory() {
    const LIMIT: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let usual = fs::read_to_string(LIMIT).unwrap();
    fs::write(LIMIT, "4").unwrap();
    let rig = rig();
    fs::write(LIMIT, usual).unwrap();
    assert_eq!(rig.container.limits().unwrap().mappings_left, Some(4));
    for n in 0..4 {
        rig.endpoint.map(&mapping(IOVA + n * PAGE, PAGE, n * PAGE, true)).unwrap();
    }
    let fifth = mapping(IOVA + 4 * PAGE, PAGE, 4 * PAGE, true);
    assert_eq!(rig.endpoint.map(&fifth), Err(BackendError::NoMemory));
    rig.endpoint.unmap(IovaRange::new(IOVA, IOVA + PAGE - 1).unwrap()).unwrap();
    assert_eq!(rig.endpoint.map(&fifth), Ok(()), "there is room again");
    rig.endpoint.show_nothing().unwrap();
    assert_eq!(rig.container.limits().unwrap().mappings_left, Some(4));
}

const NOBODY: libc::uid_t = 65534;

/// Effective user of this thread alone: libc's function would change that of all threads.
fn become_user(user: libc::uid_t) {
    let unchanged = libc::uid_t::MAX;
    // SAFETY: a system call on numbers; no other thread's rights change.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, unchanged, user, unchanged) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

pub(crate) fn locked_memory_is_met_with_no_memory() {
    let rig = rig();
    rig.endpoint.show(&[]).unwrap();
    let mut usual = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut usual) }, 0);
    let small = libc::rlimit { rlim_cur: 8 * PAGE, ..usual };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const small) }, 0);
    // Root may lock as much as it likes.
    become_user(NOBODY);
    let fits = rig.endpoint.map(&mapping(IOVA, 4 * PAGE, 0, true));
    let too_much = rig.endpoint.map(&mapping(IOVA + 16 * PAGE, 16 * PAGE, 16 * PAGE, true));
    become_user(0);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const usual) }, 0);
    assert_eq!((fits, too_much), (Ok(()), Err(BackendError::NoMemory)));
    assert_eq!(rig.endpoint.live_bytes(), 4 * PAGE, "nothing of what failed is left");
    rig.endpoint.map(&mapping(IOVA + 16 * PAGE, 16 * PAGE, 16 * PAGE, true)).expect("the limit is gone");
}
