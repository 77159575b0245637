//! Lines between `iommu-bench store export` and its helper `iommu-bench-export`: one JSON object per line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Line that the helper prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportLine {
    /// A run was read.
    Progress {
        /// Runs looked at before this one.
        done: usize,
        /// Runs of the store.
        total: usize,
    },
    /// All tables are written.
    Exported {
        /// Schema of the tables.
        tables: String,
        /// Runs in them.
        runs: usize,
        /// Runs of the store that were left out.
        skipped: usize,
        /// Files and their rows.
        files: Vec<(PathBuf, u64)>,
    },
    /// The export failed; earlier tables are as they were.
    Failed {
        /// The error.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_survives_the_way_between_the_programs() {
        let exported = ExportLine::Exported {
            tables: "iommu-bench/parquet/1".to_owned(),
            runs: 2,
            skipped: 1,
            files: vec![("out/runs.parquet".into(), 2)],
        };
        let failed = ExportLine::Failed { message: "disk\nfull".to_owned() };
        for line in [ExportLine::Progress { done: 1, total: 2 }, exported, failed] {
            let text = serde_json::to_string(&line).unwrap();
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(serde_json::from_str::<ExportLine>(&text).unwrap(), line);
        }
        assert!(serde_json::from_str::<ExportLine>(r#"{"other": {}}"#).is_err());
    }
}
