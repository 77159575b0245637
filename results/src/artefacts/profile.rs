//! Where a run's processor time went: two text files that other tools read, without a schema of their own.

use std::path::Path;

use crate::store::StoreError;

/// A profile of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Samples by stack, a line each: functions joined by `;`, outermost first, a space, the number of samples.
    pub folded: String,
    /// The flame graph, a page of its own.
    pub svg: String,
}

impl Profile {
    /// Where the stacks are in the run's folder.
    pub const FOLDED_FILE: &'static str = "profile.folded";
    /// Where the flame graph is.
    pub const SVG_FILE: &'static str = "profile.svg";

    /// The number of samples and the functions by the samples in which they themselves ran, most first. A line that is no
    /// stack counts for nothing.
    pub fn hottest(&self) -> (u64, Vec<(&str, u64)>) {
        let mut own = std::collections::BTreeMap::<&str, u64>::new();
        let mut total = 0_u64;
        for line in self.folded.lines() {
            let Some((stack, count)) = line.rsplit_once(' ') else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            total = total.saturating_add(count);
            let innermost = own.entry(stack.rsplit(';').next().unwrap_or(stack)).or_default();
            *innermost = innermost.saturating_add(count);
        }
        let mut own: Vec<_> = own.into_iter().collect();
        own.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        (total, own)
    }

    /// Reads it from a run's folder, if it is there.
    ///
    /// # Errors
    /// [`StoreError`] naming the file that cannot be read.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, StoreError> {
        let text = |name: &str| {
            let path = folder.join(name);
            match crate::file::read_stored(&path) {
                Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(StoreError::Read { path, source }),
            }
        };
        let (folded, svg) = (text(Self::FOLDED_FILE)?, text(Self::SVG_FILE)?);
        Ok(folded.zip(svg).map(|(folded, svg)| Self { folded, svg }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_samples_are_those_of_the_innermost_function() {
        let folded = "main;a b;c 3\nmain;c 2\nmain 1\nno count\nx 99999999999999999999\n";
        let profile = Profile { folded: folded.to_owned(), svg: String::new() };
        assert_eq!(profile.hottest(), (6, vec![("c", 5), ("main", 1)]));
        assert_eq!(Profile::default().hottest(), (0, vec![]));
    }

    #[test]
    fn it_is_read_whole_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("iommu-profile-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(Profile::FOLDED_FILE), "a 1\n").unwrap();
        let half = Profile::read(&folder).unwrap();
        std::fs::write(folder.join(Profile::SVG_FILE), "<svg/>").unwrap();
        let whole = Profile::read(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(half, None);
        assert_eq!(whole.unwrap().svg, "<svg/>");
    }
}
