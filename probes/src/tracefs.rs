//! Tracepoints as tracefs describes them.

use std::{
    io,
    path::{Path, PathBuf},
};

mod format;

pub use format::{RecordField, parse_format};

use crate::ProbeError;

/// Where tracefs is looked for: its own mount point, and debugfs's.
pub const MOUNT_POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A mounted tracefs.
#[derive(Clone, Debug)]
pub struct Tracefs {
    root: PathBuf,
}

impl Tracefs {
    /// Finds where tracefs is mounted.
    ///
    /// # Errors
    ///
    /// It is not mounted, or may not be read by this process.
    pub fn find() -> Result<Self, ProbeError> {
        Self::find_in(&MOUNT_POINTS.map(Path::new))
    }

    fn find_in(roots: &[&Path]) -> Result<Self, ProbeError> {
        let mut unreadable = None;
        for root in roots {
            match std::fs::read_dir(root.join("events")) {
                Ok(_) => return Ok(Self { root: root.to_path_buf() }),
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                Err(source) => unreadable = unreadable.or(Some((root.to_path_buf(), source))),
            }
        }
        Err(match unreadable {
            Some((path, source)) => ProbeError::TracefsUnreadable { path, source },
            None => ProbeError::NoTracefs,
        })
    }

    /// The fields of a tracepoint's record.
    ///
    /// # Errors
    ///
    /// This kernel does not have the tracepoint, or its description cannot be read or understood.
    pub fn fields(&self, category: &str, name: &str) -> Result<Vec<RecordField>, ProbeError> {
        let path = self.root.join("events").join(category).join(name).join("format");
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                ProbeError::NoEvent { category: category.to_owned(), name: name.to_owned() }
            }
            _ => ProbeError::TracefsUnreadable { path: path.clone(), source },
        })?;
        parse_format(&text).map_err(|line| ProbeError::BadFormat { path, line })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KVM_EXIT: &str = "name: kvm_exit\nID: 1\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:u64 info1;\toffset:32;\tsize:8;\tsigned:0;\n\
        \tfield:__data_loc char[] device;\toffset:40;\tsize:4;\tsigned:0;\n\
        \tfield:char comm[16];\toffset:44;\tsize:16;\tsigned:0;\n\
        \tfield:const char * why;\toffset:64;\tsize:8;\tsigned:0;\n\n\
        print fmt: \"%u\", REC->exit_reason\n";

    #[test]
    fn fields_are_where_the_kernel_says() {
        let fields = parse_format(KVM_EXIT).expect("well formed");
        let found: Vec<_> =
            fields.iter().map(|field| (field.name.as_str(), field.offset_bytes, field.size_bytes)).collect();
        assert_eq!(
            found,
            [
                ("common_type", 0, 2),
                ("common_pid", 4, 4),
                ("exit_reason", 8, 4),
                ("info1", 32, 8),
                ("device", 40, 4),
                ("comm", 44, 16),
                ("why", 64, 8),
            ]
        );
        assert!(fields[1].signed && !fields[2].signed);
    }

    #[test]
    fn a_line_that_is_not_understood_is_shown() {
        for line in
            ["field:int x;", "field:int x; offset:a; size:4; signed:0;", "field:;", "field:int x; size:4;"]
        {
            assert_eq!(parse_format(line), Err(line.to_owned()));
        }
    }

    #[test]
    fn a_missing_mount_is_told_from_one_that_may_not_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(Tracefs::find_in(&[folder.path()]), Err(ProbeError::NoTracefs)));
        // A file in place of the folder stands for whatever else can be wrong with it.
        std::fs::write(folder.path().join("events"), "").expect("a file");
        let found = Tracefs::find_in(&[folder.path()]);
        assert!(matches!(found, Err(ProbeError::TracefsUnreadable { .. })), "{found:?}");
    }

    #[test]
    fn an_event_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("events")).expect("a folder");
        let tracefs = Tracefs::find_in(&[folder.path()]).expect("is there");
        let error = tracefs.fields("kvm", "kvm_exit").expect_err("is not there").to_string();
        assert!(error.contains("kvm:kvm_exit"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(field:|offset:|size:|signed:|[0-9]{1,6}|[a-z* \\[\\];\t\n]){0,40}") {
            let _ = parse_format(&text);
        }
    }
}
